"""Child processes without a start of Python: forked from a server that has everything imported and computed nothing.

One kill costs what the killed work costs, and not the seconds in which torch, transformers and scikit-learn are loaded.
"""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "transformers.models.llama.modeling_llama",
        "peft",
        "sklearn.cluster",
        "sklearn.feature_extraction.text",
        "tclora.training",
        "tclora.pipeline.run",
        "tclora.cli.app",
    ]
)

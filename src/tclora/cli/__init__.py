"""The command line: one file per command; each parses, calls `pipeline` and prints.

Commands import their work when they run, so that `tclora --help` loads neither torch nor transformers.
"""

from tclora.cli.app import entry, main

__all__ = ["entry", "main"]

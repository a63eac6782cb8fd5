"""How many directions each adapter of a library has, beside what contestants lose on the rows of its cluster.

In: an open library, and the contestants' losses on its `report` rows. Out: one `SpectrumRow` for each adapter.
Effective ranks are means over modules. An adapter whose cluster has no `report` row has no losses.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from tclora.adapters import Adapter
from tclora.algebra import svd_of_product
from tclora.analysis.spectrum import entropy_rank, participation
from tclora.data import iter_examples
from tclora.pipeline.experiments.adapter_arithmetic import adapter_norm, cosine
from tclora.pipeline.experiments.library import OpenLibrary
from tclora.pipeline.experiments.losses import Losses
from tclora.pipeline.experiments.rows import REPORT
from tclora.records.experiment import SpectrumRow

__all__ = ["spectrum_rows"]


def spectrum_rows(library: OpenLibrary, losses: Mapping[str, Losses]) -> tuple[SpectrumRow, ...]:
    """One row for each adapter, in cluster order."""
    clusters = np.array(library.folds[REPORT].rows.clusters, dtype=np.int64)
    return tuple(
        _row(library, index, adapter, np.flatnonzero(clusters == index), losses)
        for index, adapter in enumerate(library.adapters)
    )


def _row(
    library: OpenLibrary, index: int, adapter: Adapter, mine: np.ndarray, losses: Mapping[str, Losses]
) -> SpectrumRow:
    families = Counter(row.family for row in iter_examples(library.run.cluster / f"{adapter.name}.train.jsonl"))
    family, most = families.most_common(1)[0] if families else ("", 0)
    effective, participating = _ranks(adapter)
    return SpectrumRow(
        library=library.name,
        seed=library.seed,
        adapter=adapter.name,
        family=family or "no task",
        family_share=most / max(1, families.total()),
        n_train=library.sizes[index],
        norm=adapter_norm(adapter),
        effective_rank=effective,
        participation=participating,
        cosine_to_mean=cosine(adapter, library.mean) or 0.0,
        n_rows=len(mine),
        losses={
            name: float(one.nats[mine].sum() / one.n_tokens[mine].sum()) for name, one in losses.items() if len(mine)
        },
    )


def _ranks(adapter: Adapter) -> tuple[float, float]:
    """Effective rank by entropy and by energy, in the mean over modules."""
    found = []
    for factors in adapter.modules.values():
        values = svd_of_product(factors.lora_b[None].double(), factors.lora_a[None].double())[1]
        found.append((float(entropy_rank(values)[0]), float(participation(values)[0])))
    effective, participating = np.mean(found, axis=0)
    return float(effective), float(participating)

"""Regression mean: the inputs that every module sees while each adapter is at work on its own examples.

In: adapters, a base, examples without labels, best one pool per adapter. Out: one `AdapterStatistics` per adapter; the
weights follow from them in closed form (`methods/regmean.py`). Memory and disk: at most `min(max_tokens, d_in) * d_in`
float32 per site and adapter. Refused: one pool for all together with the base's own activations, for then all
statistics are equal and the result is the plain mean.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
from torch import Tensor

from tclora.adapters import Adapter
from tclora.errors import ConfigError
from tclora.merging.learning.answers import answered
from tclora.merging.learning.learned import Learned, learned_from
from tclora.merging.learning.problem import LearningProblem, example_pools, input_pools, module_names
from tclora.merging.learning.statistics import AdapterStatistics, InputRows
from tclora.models import Base, Tokens, attached, module_inputs

__all__ = ["RegmeanParams", "learn_regmean", "statistics_of"]


@dataclass(frozen=True)
class RegmeanParams:
    """`shrink` multiplies what is off the diagonal of a Gram matrix; `ridge`, of its mean diagonal, is added to it.

    `active`: inputs are taken with the adapter at work (published), or from the base alone. `max_tokens` of each
    adapter's examples are read, `batch_size` examples at once. With `answer_tokens` above 0 every adapter first answers
    its prompts in so many tokens at most, and prompts and answers are read; responses that are given are then not.

    `rank`: the best delta of that rank by the same measure (a reduced-rank regression); None keeps all P.
    `statistics`, one per adapter, are learned and cannot be written on a command line.
    """

    shrink: float = 0.9
    ridge: float = 1e-6
    active: Literal["adapter", "base"] = "adapter"
    max_tokens: int = 1024
    batch_size: int = 16
    answer_tokens: int = 0
    rank: int | None = None
    statistics: tuple[AdapterStatistics, ...] | None = field(default=None, metadata={"recorded": False}, repr=False)

    def __post_init__(self):
        if not 0 <= self.shrink <= 1:
            raise ConfigError("'shrink' of regmean is out of range", found=self.shrink, expected="0 to 1")
        if not 0 < self.ridge < float("inf"):
            raise ConfigError("'ridge' of regmean is out of range", found=self.ridge, expected="above 0, finite")
        for name, low in (("max_tokens", 1), ("batch_size", 1), ("answer_tokens", 0), ("rank", 1)):
            found = getattr(self, name)
            if found is not None and found < low:
                raise ConfigError(f"'{name}' of regmean is out of range", found=found, expected=f">= {low}")
        if not all(isinstance(found, AdapterStatistics) for found in self.statistics or ()):
            raise ConfigError(
                "'statistics' of regmean cannot be written by hand",
                expected="what was learned from examples",
                do="give --base and --examples, or --learned FILE",
            )

    def holding(self, rank: int) -> "RegmeanParams | None":
        """One adapter comes back whatever its inputs were, so any one of the statistics will do."""
        if self.statistics is None:
            return None
        return replace(self, statistics=self.statistics[:1], rank=None if self.rank is None else max(self.rank, rank))

    def in_order(self, order: Sequence[int]) -> "RegmeanParams":
        """The same for the adapters in another order: position `k` takes what `order[k]` had."""
        found = self.statistics
        return self if found is None else replace(self, statistics=tuple(found[i] for i in order))


def learn_regmean(
    adapters: Sequence[Adapter],
    params: RegmeanParams,
    problem: LearningProblem,
    on_progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Take the statistics of every adapter; adapters are in the order of their digests.

    Raises:
        ConfigError: one pool for all and `active: base`.
        AdapterMismatchError: an adapter does not fit the base.

    Source: Jin et al. 2022, arXiv 2212.09849; repository bloomberg/dataless-model-merging.
    """
    if params.active == "base" and not isinstance(problem.examples, Mapping) and len(adapters) > 1:
        raise ConfigError(
            "all adapters would have the same statistics, and regmean would be the plain mean",
            found="one pool of examples, read by the base alone",
            expected="examples of each adapter's own task",
            do="give examples per adapter, NAME=FILE, or use active=adapter",
        )
    pools = _answered_pools(problem, adapters, params) if params.answer_tokens else input_pools(problem, adapters)
    found = []
    for one in statistics_of(problem.base, adapters, pools, params, problem.seed):
        found.append(one)
        if on_progress is not None:
            on_progress(len(found), len(adapters))
    settings = asdict(replace(params, statistics=None))
    del settings["statistics"]
    return learned_from(
        "regmean",
        settings,
        problem,
        adapters,
        statistics=tuple(found),
    )


def statistics_of(
    base: Base, adapters: Sequence[Adapter], pools: Sequence[Sequence[Tokens]], params: RegmeanParams, seed: int
) -> Iterator[AdapterStatistics]:
    """The statistics of each adapter in turn, on its own pool of rows or, with fewer pools, on one in turn.

    Raises:
        AdapterMismatchError: an adapter does not fit the base.
    """
    names = module_names(adapters)
    widths = {name: shape.d_in for adapter in adapters for name, shape in adapter.shapes.items()}
    for index, adapter in enumerate(adapters):
        rows = _some(pools[index % len(pools)], params.max_tokens, np.random.default_rng([seed, index]))
        with attached(base, adapter) if params.active == "adapter" else nullcontext():
            yield _statistics(base, names, widths, rows, params.batch_size)


def _answered_pools(problem: LearningProblem, adapters: Sequence[Adapter], params: RegmeanParams) -> list[list[Tokens]]:
    """For each adapter the prompts of its pool with its own answers."""
    pools = example_pools(problem, adapters)
    settings = {"max_new_tokens": params.answer_tokens, "batch_size": params.batch_size}
    return [
        answered(problem.base, adapter, pools[k % len(pools)], seed=(problem.seed, k), **settings)
        for k, adapter in enumerate(adapters)
    ]


def _some(rows: Sequence[Tokens], max_tokens: int, generator: np.random.Generator) -> list[Tokens]:
    """Rows in a drawn order, up to so many tokens; the last one is cut to fit."""
    chosen, left = [], max_tokens
    for index in generator.permutation(len(rows)):
        ids = rows[index].ids[:left]
        chosen.append(Tokens(ids, len(ids)))
        left -= len(ids)
        if left == 0:
            break
    return chosen


def _statistics(
    base: Base, names: Sequence[str], widths: Mapping[str, int], rows: Sequence[Tokens], batch_size: int
) -> AdapterStatistics:
    kept: dict[str, InputRows] = {}

    def receive(site: str, inputs: Tensor) -> None:
        kept.setdefault(site, InputRows(widths[site])).add(inputs)

    sites = module_inputs(base, names, rows, receive, batch_size=batch_size)
    n_tokens = sum(len(row.ids) for row in rows)
    return AdapterStatistics(sites, {site: kept[site].factor(n_tokens) for site in kept}, n_tokens)

"""What there is to learn from: a base model, some examples, a seed.

In: a loaded base, and examples in one pool or in one pool per adapter (by the adapter's name). Out: their tokens, as
each method wants them: with the response to be predicted, or without. Refused: no examples, a pool for an adapter that
is not there or none for one that is, a missing response where responses are learned from, two equal adapters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tclora.adapters import Adapter, weights_digest
from tclora.errors import AdapterMismatchError, ConfigError, DataError
from tclora.models import Base, ExampleLike, Tokens, scored_everywhere, tokenize_example, tokenize_prompt

__all__ = [
    "LearningProblem",
    "adapter_digests",
    "example_pools",
    "input_pools",
    "labelled_pools",
    "module_names",
    "prompt_pools",
]


@dataclass(frozen=True)
class LearningProblem:
    """A base model and what it should read. A mapping gives each adapter, by name, its own examples."""

    base: Base
    examples: Sequence[ExampleLike] | Mapping[str, Sequence[ExampleLike]]
    seed: int = 0

    @property
    def n_examples(self) -> int:
        """All examples, over all pools."""
        given = self.examples
        return sum(map(len, given.values())) if isinstance(given, Mapping) else len(given)


def adapter_digests(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """The digest of each adapter's weights, by which what is learned is kept.

    Raises:
        AdapterMismatchError: two adapters hold the same weights.
    """
    digests = tuple(weights_digest(adapter) for adapter in adapters)
    for index, digest in enumerate(digests):
        if digest in digests[:index]:
            first = adapters[digests.index(digest)].name
            raise AdapterMismatchError(
                "two adapters hold the same weights",
                where=f"{first}, {adapters[index].name}",
                expected="adapters that differ: no example can tell equal ones apart",
                do="name it once",
            )
    return digests


def module_names(adapters: Sequence[Adapter]) -> list[str]:
    """The modules of any adapter, sorted."""
    return sorted(set().union(*(adapter.shapes for adapter in adapters)))


def labelled_pools(problem: LearningProblem, adapters: Sequence[Adapter]) -> list[list[Tokens]]:
    """Examples with their responses. One list per pool.

    Raises:
        DataError: an example has no response, or none that fits the window.
    """
    pools = [[(e, tokenize_example(problem.base, e)) for e in pool] for pool in example_pools(problem, adapters)]
    for index, (example, row) in enumerate(pair for pool in pools for pair in pool):
        if not example.output.strip() or not row.n_scored:
            raise DataError(
                "an example has no response to learn from",
                where=f"example {index + 1}",
                found=example.instruction[:80] or "an empty text",
                expected="examples with their responses: this method learns from labels",
                do="give labelled examples, or use adamerging or regmean, which need none",
            )
    return [[row for _, row in pool] for pool in pools]


def prompt_pools(problem: LearningProblem, adapters: Sequence[Adapter]) -> list[list[Tokens]]:
    """The prompts, every position to be scored; of a text that asks nothing, the text. One list per pool."""
    return [
        [scored_everywhere(_read(problem.base, e, e.output, False).ids) for e in p]
        for p in example_pools(problem, adapters)
    ]


def input_pools(problem: LearningProblem, adapters: Sequence[Adapter]) -> list[list[Tokens]]:
    """Whatever an example has, prompt and response, as tokens to be read. One list per pool."""
    return [[_read(problem.base, e, e.output, True) for e in pool] for pool in example_pools(problem, adapters)]


def _read(base: Base, example: ExampleLike, output: str, with_response: bool) -> Tokens:
    asks_nothing = not (example.instruction or example.input or example.history)
    wanted = output and (with_response or asks_nothing)
    return tokenize_example(base, example) if wanted else tokenize_prompt(base, example)


def example_pools(problem: LearningProblem, adapters: Sequence[Adapter]) -> list[Sequence[ExampleLike]]:
    """The examples as they were given. One list per pool, in the order of the adapters.

    Raises:
        ConfigError: a pool is empty, or the pools are not those of the adapters.
    """
    given = problem.examples
    pools = _by_adapter(given, adapters) if isinstance(given, Mapping) else {"": given}
    for name, pool in pools.items():
        if not pool:
            raise ConfigError(
                "there are no examples to learn from",
                where=f"adapter {name}" if name else None,
                found="no examples",
                expected="at least one",
                do="give --examples FILE",
            )
    return list(pools.values())


def _by_adapter(
    given: Mapping[str, Sequence[ExampleLike]], adapters: Sequence[Adapter]
) -> dict[str, Sequence[ExampleLike]]:
    names = [adapter.name for adapter in adapters]
    if sorted(names) != sorted(given):
        raise ConfigError(
            "the examples per adapter do not match the adapters",
            found="examples for " + ", ".join(sorted(given)),
            expected="for each of " + ", ".join(sorted(names)) + ", each name once",
            do="give every adapter its examples, or all of them one pool",
        )
    return {name: given[name] for name in names}

"""Which examples take part: an even sample, the dev part, and what is held out. All by hashes of the content.

A hash of content and seed decides, not a place in a file, so the same examples are chosen in whatever order and files
they arrive, and new data do not move old data to the other side of a split. The order given is kept.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tclora.config import HoldOutConfig
from tclora.data.example import Example, digest
from tclora.errors import ConfigError, DataError

__all__ = ["hold_out", "sample_examples", "split_dev", "task_groups"]


def sample_examples(examples: Sequence[Example], max_count: int | None, *, seed: int) -> list[Example]:
    """At most `max_count` examples, even over task families, and within a family even over its tasks.

    A family (or task) that has fewer than its share gives all it has, and the others share the rest. Examples without
    a task are one family. With `max_count` None, or no fewer than there are, all are kept.

    Raises:
        ConfigError: `max_count` is below 1.
    """
    if max_count is not None and max_count < 1:
        raise ConfigError("a sample cannot be empty", found=max_count, expected="1 or more")
    if max_count is None or max_count >= len(examples):
        return list(examples)
    tasks: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        tasks[example.task].append(index)
    families: dict[str, dict[str, int]] = defaultdict(dict)
    for task, members in tasks.items():
        families[examples[members[0]].family][task] = len(members)
    shares = _shares({family: sum(sizes.values()) for family, sizes in families.items()}, max_count, seed)
    chosen: list[int] = []
    for family, sizes in families.items():
        for task, share in _shares(sizes, shares[family], seed).items():
            ranked = sorted(tasks[task], key=lambda index: (_rank(examples[index].key, seed, "sample"), index))
            chosen.extend(ranked[:share])
    return [examples[index] for index in sorted(chosen)]


def split_dev(examples: Sequence[Example], dev_fraction: float, *, seed: int) -> tuple[list[Example], list[Example]]:
    """Split into train and dev; examples with one prompt are all on one side, whatever their outputs.

    Each distinct prompt goes to dev with chance `dev_fraction`; both sides get at least one.

    Returns:
        The train examples and the dev examples.

    Raises:
        DataError: there are fewer than two distinct prompts.
    """
    ranks = [_rank(example.prompt_key, seed, "dev") for example in examples]
    distinct = sorted(set(ranks))
    if len(distinct) < 2:
        raise DataError(
            "the examples cannot be split into train and dev",
            found=f"{len(distinct)} distinct prompts in {len(examples)} examples",
            expected="2 or more",
            do="name a dev file in data.dev",
        )
    # The lowest rank is always dev and the highest always train, so that neither side is empty.
    limit = min(max(int(dev_fraction * 2**64), distinct[0] + 1), distinct[-1])
    train = [example for example, rank in zip(examples, ranks, strict=True) if rank >= limit]
    dev = [example for example, rank in zip(examples, ranks, strict=True) if rank < limit]
    return train, dev


def hold_out(examples: Sequence[Example], config: HoldOutConfig) -> list[Example]:
    """Leave out examples whose `int(sha1(instruction + "\\n" + input), 16) % modulus` equals `remainder`.

    Raises:
        ConfigError: `remainder` is not below `modulus`, so that nothing could match.
        DataError: nothing is left.
    """
    if config.remainder >= config.modulus:
        raise ConfigError(
            "hold_out_sha1.remainder can match nothing", found=config.remainder, expected=f"below {config.modulus}"
        )
    kept = [example for example in examples if _sha1(example) % config.modulus != config.remainder]
    if examples and not kept:
        raise DataError("hold_out_sha1 leaves no example", found=f"modulus {config.modulus}", do="raise the modulus")
    return kept


def task_groups(examples: Sequence[Example]) -> list[str]:
    """The name under which each example is counted: its task family, or its task where all are of one family."""
    one_family = len({example.family for example in examples}) == 1
    return [example.task if one_family else example.family for example in examples]


def _shares(sizes: Mapping[str, int], total: int, seed: int) -> dict[str, int]:
    """Share `total` as evenly as `sizes` allow; the odd ones go by hash, so that no name is favored."""
    shares: dict[str, int] = {}
    left = min(total, sum(sizes.values()))
    for place, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], _rank(name, seed, "share"), name))):
        # Smallest first: what it cannot take is there for the larger ones.
        shares[name] = min(sizes[name], left // (len(sizes) - place))
        left -= shares[name]
    return shares


def _rank(key: str, seed: int, use: str) -> int:
    return int(digest(use, str(seed), key), 16)


def _sha1(example: Example) -> int:
    text = f"{example.instruction}\n{example.input}"
    return int(hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest(), 16)

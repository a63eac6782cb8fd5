"""Contestants with groups of their own: every row from its group's adapter, and pairs on the same rows."""

from dataclasses import replace

import numpy as np
import pytest

from tclora.config import EvaluateConfig
from tclora.errors import ConfigError
from tclora.evaluation import Contestant, evaluate, paired_difference

CLUSTER_NAMES = tuple(f"cluster-{i}" for i in range(3))
CONFIG = EvaluateConfig(exact_match=True, max_new_tokens=2, n_bootstrap=200)
OWN = tuple((i + 1) % 2 for i in range(12))


def request(tiny_base, folders, dev, choices=(), route=OWN, pairs=()):
    control = Contestant("own groups", "control", folders[:2], "own")
    contestants = [Contestant("a", "adapter", (folders[0],)), Contestant("b", "adapter", (folders[1],)), control]
    sets = [replace(one, routes={"own": tuple(0 for _ in one.items)}) for one in choices]
    dev = replace(dev, routes={} if route is None else {"own": route})
    return {
        "base": tiny_base,
        "contestants": contestants,
        "dev": dev,
        "choices": sets,
        "config": CONFIG,
        "pairs": pairs,
    }


def scored(tmp_path, **given):
    given = dict(given)
    positional = [given.pop(name) for name in ("base", "contestants", "dev", "choices", "config")]
    return evaluate(*positional, **given, cluster_names=CLUSTER_NAMES, cache=tmp_path / "cache")


def test_every_row_is_answered_by_its_groups_adapter(tiny_base, folders, dev, choices, tmp_path):
    """Independent of the routing: score each half alone with its adapter and add up."""
    record = scored(tmp_path, **request(tiny_base, folders, dev, choices))
    a, b, own = record.contestants
    assert own.n_adapters == 2 and own.loss.value not in (a.loss.value, b.loss.value)
    parts = []
    for group, folder in enumerate(folders[:2]):
        rows = [i for i in range(12) if OWN[i] == group]
        half = replace(
            dev, examples=tuple(dev.examples[i] for i in rows), clusters=tuple(dev.clusters[i] for i in rows)
        )
        given = request(tiny_base, folders, half, route=None)
        given["contestants"] = [Contestant("one", "adapter", (folder,))]
        parts.append(scored(tmp_path / str(group), **given).contestants[0].loss.value)
    # Bytes are tokens here, and one ends the answer.
    tokens = [sum(len(dev.examples[i].output) + 1 for i in range(12) if OWN[i] == group) for group in range(2)]
    assert own.loss.value == pytest.approx(np.average(parts, weights=tokens), rel=1e-5)
    assert own.choice_accuracy == a.choice_accuracy  # all items of the choice sets are of group 0


def test_pairs_are_paired_differences(tiny_base, folders, dev, tmp_path):
    record = scored(tmp_path, **request(tiny_base, folders, dev, pairs=[("a", "own groups"), ("a", "a")]))
    pair, same = record.paired
    losses = {c.name: c for c in record.contestants}
    assert pair.loss.value == pytest.approx(losses["a"].loss.value - losses["own groups"].loss.value)
    assert pair.loss.n == 12 and set(pair.loss_by_cluster) == set(CLUSTER_NAMES)
    assert (same.loss.value, same.loss.low, same.loss.high) == (0.0, 0.0, 0.0)
    # The paired interval is narrower than that of two independent samples would be.
    wide = paired_difference(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]), np.array([1, 1, 1]))
    assert wide.low < 0 < wide.high


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"route": None}, r"items lack the assignment[\s\S]*own groups[\s\S]*expected +own"),
        ({"route": OWN[:5]}, "differ in number"),
        ({"route": (2, *OWN[1:])}, r"assignment own[\s\S]*0 to 1"),
        ({"pairs": [("a", "nobody")]}, r"a pair names no contestant[\s\S]*nobody"),
    ],
)
def test_assignments_and_pairs_that_do_not_fit_are_refused(tiny_base, folders, dev, tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        scored(tmp_path, **request(tiny_base, folders, dev, **changes))


@pytest.mark.parametrize("contestant", [Contestant("x", "control"), Contestant("x", "adapter", ("f",), "own")])
def test_a_route_without_a_control_library_is_refused(tiny_base, folders, dev, tmp_path, contestant):
    given = request(tiny_base, folders, dev)
    given["contestants"] = [contestant]
    with pytest.raises(ConfigError, match="wrong number of adapter folders"):
        scored(tmp_path, **given)

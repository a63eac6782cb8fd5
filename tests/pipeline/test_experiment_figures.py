"""Figures of an experiment from made-up losses: whose difference is known, whose rows are whose, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from tclora.config.experiment import experiment_settings
from tclora.config.experiment_merges import MergesSettings
from tclora.errors import ConfigError
from tclora.pipeline.experiments.contrasts import groups_of, versus_of
from tclora.pipeline.experiments.figures import cells_of, pooled_of
from tclora.pipeline.experiments.losses import Losses
from tclora.pipeline.experiments.measure import Measured, MeasuredLibrary
from tclora.records.experiment import ExperimentRecord
from tclora.reporting.experiment_merges import merges_page
from tclora.reporting.experiment_page import page_markdown

N = 120
SHIFTS = {"routed": -0.4, "mean": 0.0, "svd": -0.1, "tc_lora": 0.0}


def settings(**changes):
    keys = {
        "name": "made-up",
        "title": "Made up",
        "question": "Who wins?",
        "output": "x",
        "libraries": {name: {"run": "run.yaml", "output": name + "-{seed}"} for name in ("a", "b")},
        "contestants": {"routed": {"kind": "routed"}, "mean": {}, "svd": {}, "tc_lora": {}},
        "seeds": [0, 1],
        "about": ["svd"],
        "rivals": ["mean", "a/mean"],
        "by": "family",
        "by_min_rows": 20,
        "exact_match": {"rows": 3},
        "n_bootstrap": 400,
    }
    return experiment_settings(MergesSettings, keys | changes, where="test")


def measured(name, seed, *, shift=0.0, rows="same"):
    """Every row of a contestant loses the row's own difficulty plus the contestant's shift, in nats per token."""
    generator = np.random.default_rng(seed)
    n_tokens = generator.integers(1, 6, size=N)
    hard = generator.random(N) + seed

    def one(offset, contestant):
        losses = Losses((hard + offset + shift) * n_tokens, n_tokens)
        right = (True, False, contestant == "routed")
        scale = 1.0 if contestant == "routed" else 2.0
        path = {} if contestant == "routed" else {1.0: 0.2, 2.0: 0.1, 3.0: 0.3}
        return Measured(scale, False, path, {"report": losses}, right, 20, 2.0, 0.9, 0.1, None, None)

    return MeasuredLibrary(
        name=name,
        seed=seed,
        base="base",
        n_parameters=1000,
        n_adapters=10,
        n_rows={"choose": 9, "report": N},
        rows={"choose": "c", "report": f"{rows} {seed}"},
        groups=("math",) * 60 + ("qa",) * 55 + ("rare",) * 3 + ("odd",) * 2,
        contestants={contestant: one(offset, contestant) for contestant, offset in SHIFTS.items()},
        left_out=(),
        spectra=(),
        quality=None,
    )


LIBRARIES = [measured("a", 0), measured("a", 1), measured("b", 0, shift=0.05), measured("b", 1, shift=0.05)]


def test_differences_are_the_shifts_whatever_the_rows():
    found = {(one.library, one.contestant): one for one in pooled_of(settings(), LIBRARIES)}
    assert len(found) == 8
    svd = found["a", "svd"].less["mean"]["report"]
    # Every row differs by the same amount, so draws differ by rounding alone.
    assert (svd.value, svd.low, svd.high) == pytest.approx((-0.1, -0.1, -0.1), abs=1e-9)
    assert svd.n_rows == 2 * N and svd.n_seeds == 2
    # Three are compared with mean in a library: Holm multiplies the smallest p by three at most.
    assert svd.p == pytest.approx(2 / 401) and svd.p < svd.p_holm <= 3 * svd.p + 1e-12
    assert found["a", "tc_lora"].less["mean"]["report"].p == 1
    assert found["a", "svd"].gap_closed["report"].value == pytest.approx(0.25)
    assert found["a", "routed"].gap_closed["report"].value == pytest.approx(1)


def test_a_rival_of_another_library_is_compared_on_its_own_rows():
    found = {(one.library, one.contestant): one for one in pooled_of(settings(), LIBRARIES)}
    across = found["b", "mean"].less["a/mean"]["report"]
    assert (across.value, across.low) == pytest.approx((0.05, 0.05), abs=1e-9)
    # In its own library the same contestant is the plain rival, and is not compared with itself.
    assert "a/mean" not in found["a", "mean"].less and found["a", "svd"].less["a/mean"]["report"].value < 0


def test_a_rival_on_other_rows_is_refused():
    others = [measured("a", 0), measured("a", 1), measured("b", 0, rows="other"), measured("b", 1)]
    with pytest.raises(ConfigError, match="have other rows"):
        pooled_of(settings(), others)


def test_seeds_alone_give_each_its_own_figures():
    cells = {(one.library, one.seed, one.contestant): one for one in cells_of(settings(), LIBRARIES)}
    assert len(cells) == 16
    low, high = (cells["a", seed, "mean"].loss["report"].value for seed in (0, 1))
    assert high - low == pytest.approx(1, abs=0.2)  # the made-up seeds differ by 1, and 120 rows by their mean
    assert cells["a", 0, "svd"].losses_by_scale == {"1": 0.2, "2": 0.1, "3": 0.3}
    assert cells["a", 0, "routed"].exact_match.value == pytest.approx(2 / 3)


def test_what_it_is_about_is_held_against_everyone():
    rows = {(one.library, one.other): one for one in versus_of(settings(), LIBRARIES)}
    assert set(rows) == {(library, other) for library in "ab" for other in ("routed", "mean", "tc_lora")}
    assert rows["b", "routed"].less["report"].value == pytest.approx(0.3)
    assert rows["b", "routed"].other_kind == "routed" and versus_of(settings(about=[]), LIBRARIES) == ()


def test_groups_hold_every_row_once_and_small_ones_are_put_together():
    groups = groups_of(settings(), LIBRARIES)
    sizes = {one.group: one.n_rows for one in groups if (one.library, one.contestant) == ("a", "mean")}
    assert sizes == {"math": 120, "qa": 110, "others": 10} and list(sizes)[-1] == "others"
    assert all(one.less["mean"].value == pytest.approx(-0.1) for one in groups if one.contestant == "svd")


def test_a_contestant_that_one_seed_lacks_is_not_pooled():
    short = replace(LIBRARIES[1], contestants={k: v for k, v in LIBRARIES[1].contestants.items() if k != "tc_lora"})
    found = pooled_of(settings(), [LIBRARIES[0], short, *LIBRARIES[2:]])
    assert [one.contestant for one in found if one.library == "a"] == ["routed", "mean", "svd"]


def test_all_of_it_makes_a_page():
    asked = settings()
    record = ExperimentRecord(
        name="made-up",
        base="base",
        n_parameters=1000,
        seeds=(0, 1),
        rows={"a": {"choose": 18, "report": 2 * N}, "b": {"choose": 18, "report": 2 * N}},
        n_adapters={"a": (10, 10), "b": (10, 10)},
        cells=cells_of(asked, LIBRARIES),
        pooled=pooled_of(asked, LIBRARIES),
        versus=versus_of(asked, LIBRARIES),
        groups=groups_of(asked, LIBRARIES),
    )
    page = merges_page(record, asked, command="", how=[])
    text = page_markdown(page)
    assert "svd in a" in page.answer and "svd of b less a/mean is -0.050" in page.answer
    for part in ("## a: 10 adapters", "## b: 10 adapters", "Against every other contestant", "By group, b: less mean"):
        assert part in text

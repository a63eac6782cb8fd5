"""Settings per module: which modules a pattern means, which override wins, and what is refused by name."""

import fnmatch
import re
import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tclora.errors import ConfigError
from tclora.merging import MeanParams, TcLoraParams, merge_adapters
from tclora.merging.module_patterns import match_modules
from tclora.merging.settings import ModuleSettings, Override, resolve_settings

LEAVES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.gate_up_proj")
MODULES = tuple(f"model.layers.{layer}.{leaf}" for layer in range(12) for leaf in LEAVES)


def settings(method="tc_lora", n=2, **given):
    return resolve_settings(MODULES, method, n, **given)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("q_proj", lambda p: p.endswith(".q_proj")),
        ("up_proj", lambda p: p.endswith(".up_proj")),
        ("mlp.up_proj", lambda p: p.endswith(".mlp.up_proj")),
        ("self_attn", lambda p: ".self_attn." in p),
        ("layers.1", lambda p: ".layers.1." in p),
        ("layers.0-7", lambda p: int(p.split(".")[2]) <= 7),
        ("layers.1.", lambda p: ".layers.1." in p),
        ("layers.10-99.mlp", lambda p: int(p.split(".")[2]) >= 10 and ".mlp." in p),
        ("model.layers.3.*", lambda p: p.startswith("model.layers.3.")),
        ("*.self_attn.*", lambda p: ".self_attn." in p),
        ("layers.*.mlp", lambda p: ".mlp." in p),
        ("layers.?.mlp", lambda p: int(p.split(".")[2]) <= 9 and ".mlp." in p),
        ("layers.8-10.*_proj", lambda p: 8 <= int(p.split(".")[2]) <= 10),
        ("*", lambda p: True),
        ("**up_proj", lambda p: "up_proj" in p),
        (r"re:.*\.layers\.(0|11)\..*", lambda p: p.split(".")[2] in ("0", "11")),
        ("model.layers.3.mlp.up_proj", lambda p: p == "model.layers.3.mlp.up_proj"),
    ],
)
def test_a_pattern_means_what_it_says(pattern, matches):
    assert match_modules(pattern, MODULES) == tuple(path for path in MODULES if matches(path))


@given(st.text(alphabet="al.1*?", min_size=1, max_size=8))
def test_wildcards_agree_with_fnmatch_on_some_run_of_whole_parts(pattern):
    """The oracle tries every run of parts with the standard library's shell patterns."""
    paths = ("a.l.1", "al.11.a", "l.1.al.a", "aa.l")
    pattern = pattern.strip(".")

    def meant(path: str) -> bool:
        parts = path.split(".")
        runs = [".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
        return any(re.fullmatch(fnmatch.translate(pattern), run) for run in runs)

    wanted = tuple(path for path in paths if meant(path))
    try:
        assert match_modules(pattern, paths) == wanted
    except ConfigError:
        assert wanted == ()


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("q_prj", r"(?s)'q_prj' matches no module.*did you mean 'q_proj'"),
        ("mlp.up_prj", r"(?s)matches no module.*'mlp\.up_proj'"),
        ("layers.12-20", "matches no module"),
        ("layers.7-0", "matches no module"),
        ("layers.7-0.*", "matches no module"),
        ("proj", "matches no module"),
        ("", "matches no module"),
        ("re:q_proj", "matches no module"),
        ("re:(", r"(?s)cannot be used.*not closed"),
        (r"re:(a)\1", r"(?s)cannot be used.*not supported"),
        ("lm_head", "matches no module"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_by_name(pattern, said):
    with pytest.raises(ConfigError, match=said):
        match_modules(pattern, MODULES)


@pytest.mark.parametrize("pattern", ["re:(.*.*)*b", "*a" * 200 + "b", "re:(a|a)*" * 50])
def test_a_pattern_cannot_run_for_ever(pattern):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"cannot be used|matches no module"):
        match_modules(pattern, ["a." * 200 + "a"] * 50)
    # A backtracking matcher would need longer than the age of the universe; the budget is about one second.
    assert time.monotonic() - start < 20


def test_without_overrides_every_module_has_the_defaults():
    found = settings()
    assert set(found.values()) == {ModuleSettings((0.5, 0.5), TcLoraParams(), 1.0)}
    assert tuple(found) == MODULES


def test_later_overrides_win_key_by_key():
    found = settings(
        params={"cp_rank": 8, "rule": "sum"},
        scale=2.0,
        overrides=[
            Override("self_attn", adapter_weights=(0.9, 0.1), params={"cp_rank": 4, "seed": 7}),
            Override("q_proj", params={"cp_rank": 2}, scale=0.5),
            Override("layers.11", adapter_weights=(0.0, 1.0)),
        ],
    )
    base = TcLoraParams(cp_rank=8, rule="sum")
    assert found["model.layers.0.mlp.up_proj"] == ModuleSettings((0.5, 0.5), base, 2.0)
    assert found["model.layers.0.self_attn.v_proj"].params == replace(base, cp_rank=4, seed=7)
    assert found["model.layers.0.self_attn.q_proj"] == ModuleSettings((0.9, 0.1), replace(base, cp_rank=2, seed=7), 0.5)
    assert found["model.layers.11.self_attn.q_proj"].adapter_weights == (0.0, 1.0)


def test_plain_values_and_a_parameter_object_settle_alike():
    overrides = [Override("mlp", params={"rule": "self-weighted", "cp_rank": "3"})]
    plain = settings(params={"cp_rank": 8}, overrides=overrides)
    assert settings(params=TcLoraParams(cp_rank=8), overrides=overrides) == plain


def test_modules_under_the_same_overrides_share_one_parameter_object():
    found = settings(overrides=[Override("q_proj", params={"cp_rank": 3})])
    assert len({id(value.params) for value in found.values()}) == 2


def test_an_override_of_whole_paths_touches_these_alone():
    chosen = MODULES[1:3]
    found = settings(overrides=[Override(chosen, scale=3.0)])
    assert [path for path in MODULES if found[path].scale == 3.0] == list(chosen)
    with pytest.raises(ConfigError, match=r"(?s)no adapter has.*lm_head"):
        settings(overrides=[Override(("lm_head",), scale=3.0)])


def test_learned_weights_are_taken_module_by_module_and_overridden():
    learned = {path: (float(i), 1.0) for i, path in enumerate(MODULES)}
    found = settings(adapter_weights=learned, overrides=[Override("layers.0", adapter_weights=(5.0, 5.0))])
    assert found[MODULES[0]].adapter_weights == (5.0, 5.0)
    assert found[MODULES[-1]].adapter_weights == (float(len(MODULES) - 1), 1.0)


@pytest.mark.parametrize("change", [lambda w: w.pop(MODULES[0]), lambda w: w.update(lm_head=(1.0, 1.0))])
def test_learned_weights_must_be_of_these_modules(change):
    learned = dict.fromkeys(MODULES, (1.0, 1.0))
    change(learned)
    with pytest.raises(ConfigError, match="weights per module do not match"):
        settings(adapter_weights=learned)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"overrides": [Override("q_prj", scale=1.0)]}, "'q_prj' matches no module"),
        ({"overrides": [Override("mlp", adapter_weights=(1.0,))]}, r"(?s)override of mlp.*1 weights for 2"),
        ({"overrides": [Override("mlp", adapter_weights=(1.0, float("nan")))]}, r"(?s)not a finite.*mlp: weight 2"),
        ({"overrides": [Override("mlp", params={"cp_rnk": 2})]}, r"(?s)'cp_rnk'.*override of mlp.*'cp_rank'"),
        ({"overrides": [Override("mlp", params={"cp_rank": 0})]}, r"(?s)too small.*override of mlp"),
        ({"params": TcLoraParams(), "overrides": [Override("mlp", params={"cp_rank": 0})]}, r"(?s)too small.*of mlp"),
        ({"overrides": [Override("mlp", scale=float("inf"))]}, r"(?s)scale is not.*override of mlp"),
        ({"adapter_weights": [1.0, 2.0, 3.0]}, "3 weights for 2 adapters"),
        ({"adapter_weights": dict.fromkeys(MODULES, (1.0,))}, r"(?s)do not match.*model\.layers\.0"),
        ({"params": {"nope": 1}}, "no parameter 'nope'"),
        ({"scale": float("nan")}, "scale"),
    ],
)
def test_what_is_wrong_is_refused_and_placed(given, said):
    with pytest.raises(ConfigError, match=said):
        settings(**given)


@dataclass(frozen=True)
class Pruned:
    """A parameter class with one value per adapter, as methods that prune have."""

    density: float | tuple[float, ...] = 1.0

    def holding(self, rank: int) -> "Pruned":
        return Pruned()

    def in_order(self, order) -> "Pruned":
        return Pruned(tuple(self.density[i] for i in order)) if isinstance(self.density, tuple) else self


def test_values_per_adapter_move_with_the_adapters():
    turned = ModuleSettings((0.1, 0.2, 0.3), Pruned((0.4, 0.5, 0.6)), 2.0).in_order((2, 0, 1))
    assert turned == ModuleSettings((0.3, 0.1, 0.2), Pruned((0.6, 0.4, 0.5)), 2.0)
    assert ModuleSettings((0.1, 0.2), MeanParams(), 1.0).in_order((1, 0)).adapter_weights == (0.2, 0.1)


def test_values_per_adapter_must_be_one_for_each():
    with pytest.raises(ConfigError, match=r"(?s)'density' is given per adapter.*3 values for 2 adapters"):
        settings("ties", params={"density": (0.1, 0.2, 0.3)})


def test_the_parameters_of_another_method_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)not those of mean.*found *Pruned.*MeanParams"):
        settings("mean", params=Pruned())


def test_settings_can_be_keys_of_a_group():
    found = settings(overrides=[Override("mlp", params={"cp_rank": 3})])
    assert len({(value.params, value.scale) for value in found.values()}) == 2


def test_nothing_to_merge_is_refused():
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge_adapters([], "mean")

"""A merge's file settled for real modules: gradients, filters, weights per adapter, and what each module ends with."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tclora.config import merge_file_of
from tclora.errors import ConfigError, UnknownNameError
from tclora.pipeline.merges.settings import settle
from tclora.pipeline.setting_values import SettingValues, split_values

LAYERS = 5
MODULES = tuple(
    sorted(f"model.layers.{n}.{leaf}" for n in range(LAYERS) for leaf in ("self_attn.q_proj", "mlp.up_proj"))
)
Q, UP = (lambda n: f"model.layers.{n}.self_attn.q_proj"), (lambda n: f"model.layers.{n}.mlp.up_proj")


def settled(modules=MODULES, embeddings=(), **keys):
    file = merge_file_of({"adapters": ["A", "B"], **keys}, where="here")
    return settle(file, modules, embeddings=embeddings)


def weights_of(merge, path):
    return merge.modules[path].adapter_weights


def test_nothing_stated_is_the_methods_own():
    merge = settled(merge_method="mean")
    assert merge.adapter_weights == (0.5, 0.5)
    assert (merge.params, merge.scale, merge.overrides) == ({}, 1.0, ())
    assert settled(merge_method="task_arithmetic").adapter_weights == (1.0, 1.0)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7), st.integers(1, 9))
def test_a_gradient_is_linear_between_its_points(gradient, n_layers):
    """The oracle: numpy's interpolation over the same places."""
    import numpy as np

    paths = [f"h.{n}.x" for n in range(n_layers)]
    found = SettingValues(paths).at_modules(tuple(gradient), where="")
    places = np.linspace(0, 1, n_layers) if n_layers > 1 else np.ones(1)
    wanted = np.interp(places, np.linspace(0, 1, len(gradient)) if len(gradient) > 1 else [0.0], gradient)
    # Two roundings of numbers of up to 10.
    assert [found[path] for path in paths] == pytest.approx(list(wanted), abs=1e-13)


def test_modules_outside_the_layers_stand_at_the_ends():
    paths = ("model.embed_tokens", *MODULES, "lm_head")
    found = SettingValues(paths, embeddings=["model.embed_tokens"]).at_modules((0.0, 1.0), where="")
    assert (found["model.embed_tokens"], found["lm_head"], found[Q(0)], found[Q(LAYERS - 1)]) == (0.0, 1.0, 0.0, 1.0)


def test_towers_have_layers_of_their_own():
    found = SettingValues(("text.layers.0.q", "text.layers.1.q", "vision.blocks.10.q", "vision.blocks.5.q")).at_modules(
        (0.0, 1.0), where=""
    )
    assert list(found.values()) == [0.0, 1.0, 1.0, 0.5]


def test_the_first_filter_that_matches_wins_and_the_rest_take_the_default():
    rows = [
        {"filter": "layers.0", "value": 0.1},
        {"filter": "self_attn", "value": [0.0, 0.8]},
    ]
    merge = settled(merge_method="tc_lora", parameters={"shared_share": rows})
    shares = {path: setting.params.shared_share for path, setting in merge.modules.items()}
    assert shares[Q(0)] == shares[UP(0)] == 0.1
    assert [shares[Q(n)] for n in (1, 4)] == pytest.approx([0.2, 0.8])
    assert shares[UP(3)] == 0.5


def test_weights_may_differ_by_adapter_and_module():
    adapters = [
        {"adapter": "A", "parameters": {"weight": [0, 1]}},
        {"adapter": "B", "parameters": {"weight": [{"filter": "mlp", "value": 0.3}]}},
    ]
    merge = settled(merge_method="mean", adapters=adapters, parameters={"weight": 2})
    assert weights_of(merge, UP(0)) == (0.0, 0.3)
    assert weights_of(merge, Q(2)) == (0.5, 2.0)
    assert weights_of(merge, Q(4)) == (1.0, 2.0)


def test_a_weight_for_all_is_a_weight_for_each():
    assert settled(merge_method="mean", parameters={"weight": 0.7}).adapter_weights == (0.7, 0.7)


@pytest.mark.parametrize("weights", [(3.0, 1.0), (-1.0, 4.0)])
def test_normalize_divides_by_the_sum_everywhere(weights):
    merge = settled(
        merge_method="mean",
        weights=list(weights),
        parameters={"normalize": True},
        overrides=[{"modules": "mlp", "weights": [1, 1]}],
    )
    assert weights_of(merge, Q(1)) == pytest.approx([w / math.fsum(weights) for w in weights])
    assert weights_of(merge, UP(1)) == (0.5, 0.5)


def test_a_value_that_is_the_same_for_every_adapter_is_one_value():
    adapters = [{"adapter": a, "parameters": {"rank": 3}} for a in "AB"]
    assert settled(merge_method="svd", adapters=adapters).params == {"rank": 3}


def test_the_seed_goes_to_methods_that_draw():
    assert settled(merge_method="tc_lora", seed=5).params == {"seed": 5}
    assert settled(merge_method="mean", seed=5).params == {}


def test_overrides_hold_for_their_modules_and_later_ones_win():
    merge = settled(
        merge_method="tc_lora",
        parameters={"cp_rank": 9, "scale": [1, 2]},
        overrides=[
            {"modules": "layers.0-1", "parameters": {"cp_rank": 5, "shared_share": [0, 1]}},
            {"modules": "q_proj", "weights": [1, 0], "parameters": {"cp_rank": 3, "scale": 7}},
        ],
    )
    q, up = merge.modules[Q(1)], merge.modules[UP(1)]
    assert (q.params.cp_rank, q.params.shared_share, q.scale, q.adapter_weights) == (3, 0.25, 7.0, (1.0, 0.0))
    assert (up.params.cp_rank, up.params.shared_share, up.scale) == (5, 0.25, 1.25)
    assert merge.modules[UP(4)].params.cp_rank == 9
    assert merge.modules[UP(4)].scale == 2.0


def test_modules_of_the_same_settings_share_their_parameters():
    merge = settled(merge_method="svd", parameters={"rank": [{"filter": "mlp", "value": 2}, {"value": 3}]})
    assert len({id(setting.params) for setting in merge.modules.values()}) == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"parameters": {"rnk": 3}}, r"(?s)no parameter 'rnk'.*did you mean 'rank'"),
        (
            {"parameters": {"rank": [{"filter": "q_prj", "value": 2}]}},
            r"(?s)'q_prj' matches no.*where +parameters\.rank",
        ),
        (
            {"overrides": [{"modules": "q_prj"}]},
            r"(?s)'q_prj' matches no.*overrides\.0\.modules.*did you mean 'q_proj'",
        ),
        ({"overrides": [{"modules": "mlp", "weights": [1]}]}, r"(?s)1 weights for 2"),
        ({"overrides": [{"modules": "mlp", "parameters": {"rank": 0}}]}, r"(?s)not positive.*override of mlp"),
        ({"overrides": [{"modules": "mlp", "parameters": {"scale": "x"}}]}, r"(?s)not a number.*overrides\.0\.scale"),
        ({"parameters": {"rank": [2, 5]}}, "wrong type"),
        ({"parameters": {"weight": "much"}}, r"(?s)not a number.*A: weight.*'much'"),
        ({"parameters": {"scale": True}}, r"(?s)not a number.*parameters\.scale"),
        ({"parameters": {"normalize": "perhaps"}}, r"(?s)neither true nor false"),
        ({"parameters": {"normalize": True}, "weights": [1, -1]}, r"(?s)sum to zero.*weights"),
        ({"weights": [1, float("nan")]}, "not a finite number"),
        (
            {"adapters": [{"adapter": "A", "parameters": {"weight": 1}}, "B"]},
            r"(?s)'weight' is given for some adapters and not for others.*where +B, module",
        ),
        (
            {"adapters": [{"adapter": "A", "parameters": {"rank": 1}}, {"adapter": "B", "parameters": {"rank": 2}}]},
            r"(?s)'rank'.*wrong type.*\(1, 2\)",
        ),
        (
            {"adapters": [{"adapter": "A", "parameters": {"scale": 2}}, "B"]},
            r"(?s)'scale' holds for the merge.*where +A",
        ),
        ({"adapters": [{"adapter": "A", "parameters": {"normalize": True}}]}, r"(?s)'normalize' holds for the merge"),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(keys, said):
    with pytest.raises(ConfigError, match=said):
        settled(merge_method="svd", **keys)


def test_an_unknown_method_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean tc_lora"):
        settled(merge_method="tclora")


def test_splitting_keeps_what_is_the_same_and_groups_what_differs():
    same, groups = split_values({"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 3}, "c": {"x": 4}}, ("x", "y"))
    assert same == {"a": 1}
    assert groups == [(("x",), {"b": 2, "c": 4}), (("y",), {"b": 3})]

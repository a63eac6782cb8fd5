"""Distilling: each teacher is imitated on its own prompts, no label is read, and what was learned can be kept."""

import dataclasses

import pytest
import torch
from stacks import dense, distance
from tiny_base import MODULES, bundled_tokenizer, random_on, tiny_llama

from tclora.adapters import LoraFactors, make_adapter
from tclora.data import Example
from tclora.errors import AdapterMismatchError, ArtifactError, ConfigError, NumericalError
from tclora.merging import MERGE_METHODS, merge_adapters, parse_params
from tclora.merging.learning import DistillParams, LearningProblem, learn_weights, read_learned, write_learned
from tclora.merging.learning.answers import answered
from tclora.merging.learning.lessons import divergence_sums, divergences, lessons_of
from tclora.merging.learning.regmean import RegmeanParams, statistics_of
from tclora.merging.learning.start import joint_start, regression_start
from tclora.merging.learning.student import make_student
from tclora.models import attached, collate, tokenize_prompt

POOLS = {
    "opposite": (Example("Name a fruit.", output="apple"), Example("Name a color.", output="green")),
    "good": (Example("Say yes.", input="now", output="yes"), Example("Count.", output="one two")),
    "noise": (Example("Go.", output="x"), Example("Wait.", output="y")),
}
UNEVEN = POOLS | {"good": (*POOLS["good"], Example("Say no."), Example("Count back."))}
UNEVEN = UNEVEN | {"noise": POOLS["noise"][:1], "opposite": POOLS["opposite"][:1]}
QUICK = {
    "cp_rank": 3,
    "steps": 12,
    "max_new_tokens": 4,
    "start": "tc_lora",
    "count": "pools",
    "lr": 0.04,
    "batch_size": 2,
}
REGRESSION = QUICK | {"start": "regmean", "count": "prompts"}


@pytest.fixture(scope="module")
def base():
    return tiny_llama(vocab_size=4096, tokenizer=bundled_tokenizer())


@pytest.fixture(scope="module")
def library(base):
    return tuple(random_on(base, name, 2, seed, size=0.3) for seed, name in enumerate(POOLS))


def learn(base, library, params=QUICK, pools=POOLS, seed=3, **kwargs):
    return learn_weights("distill", library, LearningProblem(base, pools, seed), params=params, **kwargs)


@pytest.fixture(scope="module")
def learned(base, library):
    return {refit: learn(base, library, QUICK | {"refit": refit}) for refit in ("factors", "terms")}


def merged(found, library, refit="factors"):
    params, weights = found.settle(parse_params("distill", QUICK | {"refit": refit}), library)
    assert weights is None
    return merge_adapters(library, "distill", params=params).adapter


def kl_by_hand(base, teacher, student, ids, n_prompt):
    """Sum over the vocabulary in float64, one row, whole logits."""
    logs = []
    for adapter in (teacher, student):
        with attached(base, adapter), torch.no_grad():
            logs.append(torch.log_softmax(base.model(torch.tensor([ids])).logits[0].double(), dim=-1))
    return (logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1)[n_prompt - 1 : len(ids) - 1]


def test_the_divergence_is_its_definition_and_zero_for_the_teacher_itself(base, library):
    rows = answered(base, library[0], POOLS["good"], max_new_tokens=4, batch_size=2, seed=(0,))
    batch = collate(rows, device=base.device)
    found = divergences(base, library[0], library[1], batch)
    expected = torch.cat([kl_by_hand(base, library[0], library[1], row.ids, row.n_prompt) for row in rows])
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)  # float32 logits over 4,096 words
    assert expected.max() > 0.01
    assert divergences(base, library[0], library[0], batch).abs().max() < 1e-6


@pytest.mark.parametrize("with_head", [False, True])
def test_a_teacher_asked_once_says_what_it_says_when_asked_again(base, library, with_head):
    """Its hidden states are kept, or, where it changes the output layer itself, it is asked in every pass."""
    head = {"lm_head": LoraFactors(torch.ones(1, 16), 0.1 * torch.arange(4096.0)[:, None] / 4096)}
    teachers = [
        make_adapter(a.name, dict(a.modules) | (head if with_head and a is library[0] else {})) for a in library
    ]
    pools = [
        answered(base, teacher, pool, max_new_tokens=4, batch_size=2, seed=(k,))
        for k, (teacher, pool) in enumerate(zip(teachers, POOLS.values(), strict=True))
    ]
    lessons = lessons_of(base, teachers, pools)
    assert [[one.states is None for one in pool] for pool in lessons] == [[with_head] * 2, [False] * 2, [False] * 2]
    student, n_found = library[1], 0
    passes = divergence_sums(base, lambda: student, [one for pool in lessons for one in pool])
    for some, sums in passes:
        for one, found in zip(some, sums, strict=True):
            expected = kl_by_hand(base, one.teacher, student, one.tokens.ids, one.tokens.n_prompt).sum()
            assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)  # float32 logits, 4,096 words
            n_found += 1
    assert n_found == 6


def test_answers_are_the_adapters_own_and_labels_are_never_read(base, library):
    relabelled = [dataclasses.replace(example, output="something else") for example in POOLS["good"]]
    one, two = (
        answered(base, library[0], pool, max_new_tokens=4, batch_size=size, seed=(0,))
        for pool, size in ((POOLS["good"], 2), (relabelled, 1))
    )
    assert one == two  # nor does the batch matter
    for row, example in zip(one, POOLS["good"], strict=True):
        prompt = tokenize_prompt(base, example).ids
        assert row.ids[: row.n_prompt] == prompt and row.n_scored >= 1
    assert one != answered(base, library[0], POOLS["good"], max_new_tokens=4, batch_size=2, seed=(1,))


def test_a_text_that_asks_nothing_is_read_as_it_is(base, library):
    text = Example("", output="Once upon a time.")
    (row,) = answered(base, library[0], [text], max_new_tokens=4, batch_size=1, seed=(0,))
    assert row.n_prompt == 1 and row.n_scored == len(row.ids) - 1 > 3


@pytest.mark.parametrize("refit", ["factors", "terms"])
def test_it_comes_closer_to_every_adapter_than_its_start_and_says_by_how_much(base, library, learned, refit):
    found = learned[refit]
    assert found.loss_after < found.loss_before
    start = merge_adapters(library, "tc_lora", params={"cp_rank": 3}).adapter
    by_name = {adapter.name: adapter for adapter in library}
    means = []
    # As learning does: pools in the order of the digests, answers drawn by the seed and that place.
    for k, name in enumerate(found.adapters):
        rows = answered(base, by_name[name], POOLS[name], max_new_tokens=4, batch_size=32, seed=(3, k))
        pairs = [
            torch.cat([kl_by_hand(base, by_name[name], one, row.ids, row.n_prompt) for row in rows]).mean()
            for one in (start, merged(found, library, refit))
        ]
        means.append(pairs)
    before, after = (float(sum(pair[i] for pair in means) / 3) for i in (0, 1))
    # float32 sums over 4,096 words and two layers of hooks against one product.
    assert found.loss_before == pytest.approx(before, rel=1e-3)
    assert found.loss_after == pytest.approx(after, rel=1e-3)


def test_all_entries_hold_more_than_one_number_per_term(learned):
    assert learned["factors"].loss_after < learned["terms"].loss_after


def test_refitting_terms_keeps_the_directions_of_the_joint_model(library, learned):
    start = merge_adapters(library, "tc_lora", params={"cp_rank": 3}).adapter
    found = merged(learned["terms"], library, "terms")
    assert distance(dense(found), dense(start)) > 0.01
    for name in MODULES:
        one, two = start.modules[name], found.modules[name]
        for axis, (a, b) in enumerate(((one.lora_a.mT, two.lora_a.mT), (one.lora_b, two.lora_b))):
            q = torch.linalg.qr(a.double())[0]
            outside = b.double() - q @ (q.mT @ b.double())
            assert outside.norm() < 1e-5 * b.norm(), (name, axis)  # float32 factors


def test_the_result_has_the_rank_that_was_asked_for(library, learned):
    assert {shape.r for shape in merged(learned["factors"], library).shapes.values()} == {3}


@pytest.fixture(scope="module")
def from_regression(base, library):
    return learn(base, library, REGRESSION, UNEVEN)


def uneven_rows(base, library, names):
    """As learning does: pools in the order of the digests, answers drawn by the seed and that place."""
    by_name = {adapter.name: adapter for adapter in library}
    return [by_name[name] for name in names], [
        answered(base, by_name[name], UNEVEN[name], max_new_tokens=4, batch_size=32, seed=(3, k))
        for k, name in enumerate(names)
    ]


def test_prompts_that_count_alike_are_a_mean_over_all_tokens(base, library, from_regression):
    """Before and after are the divergence per token of all answers together, however uneven the pools."""
    teachers, pools = uneven_rows(base, library, from_regression.adapters)
    weights = [len(pool) / 6 for pool in pools]
    start = regression_start(base, teachers, pools, rank=3, weights=weights, seed=3)
    found = []
    for one in (start, merged(from_regression, library)):
        sums = [
            kl_by_hand(base, teacher, one, row.ids, row.n_prompt).sum()
            for teacher, pool in zip(teachers, pools, strict=True)
            for row in pool
        ]
        found.append(float(sum(sums)) / sum(row.n_scored for pool in pools for row in pool))
    # float32 sums over 4,096 words and two layers of hooks against one product.
    assert [from_regression.loss_before, from_regression.loss_after] == pytest.approx(found, rel=1e-3)
    assert from_regression.loss_after < from_regression.loss_before


@pytest.mark.parametrize("count", ["pools", "prompts"])
def test_the_start_is_the_regression_mean_of_the_same_rows(base, library, count):
    """A step too small to see leaves the start, up to the stretch; its weights follow what is counted."""
    names = [name for name in learn(base, library, REGRESSION | {"steps": 1}, UNEVEN).adapters]
    teachers, pools = uneven_rows(base, library, names)
    counts = [len(pool) if count == "prompts" else 1 for pool in pools]
    weights = [one / sum(counts) for one in counts]
    params = RegmeanParams(max_tokens=4096, rank=3)
    statistics = tuple(statistics_of(base, teachers, pools, params, 3))
    params = dataclasses.replace(params, statistics=statistics)
    expected = dense(merge_adapters(teachers, "regmean", params=params, adapter_weights=weights).adapter)
    found = dense(merged(learn(base, library, REGRESSION | {"count": count, "steps": 1, "lr": 1e-7}, UNEVEN), library))
    ratios = {name: float((found[name] * expected[name]).sum() / expected[name].square().sum()) for name in expected}
    assert max(ratios.values()) - min(ratios.values()) < 1e-4  # float32 factors, and steps of 1e-7
    stretched = {name: ratios[name] * expected[name] for name in expected}
    assert distance(found, stretched) < 1e-5


def test_it_starts_at_another_place_than_the_joint_model(base, library, from_regression):
    joint = learn(base, library, REGRESSION | {"start": "tc_lora"}, UNEVEN)
    assert joint.loss_before != from_regression.loss_before


def test_small_pools_keep_no_prompt_back_where_large_ones_do(base, library):
    pools = {name: [Example(f"Say {k} {name}.") for k in range(9 if name == "good" else 2)] for name in POOLS}
    few, many = (learn(base, library, QUICK | {"steps": 1, "count": count}, pools) for count in ("pools", "prompts"))
    assert few.loss_before != many.loss_before


def test_one_adapter_has_nothing_to_learn(base, library):
    """At its own rank it is its own joint model: the loss is 0 to rounding and it comes back."""
    alone = library[:1]
    found = learn(base, alone, QUICK | {"cp_rank": 2}, {"opposite": POOLS["opposite"]})
    params, _ = found.settle(parse_params("distill", {}), alone)
    assert found.loss_before < 1e-5 and found.loss_after <= found.loss_before
    again = merge_adapters(alone, "distill", params=params).adapter
    assert distance(dense(again), dense(alone[0])) < 1e-5  # the best state is the start


def test_one_adapter_takes_a_pool_without_a_name(base, library):
    assert learn(base, library[:1], QUICK | {"steps": 1}, POOLS["good"]).n_examples == 2


@pytest.mark.parametrize("refit", ["factors", "terms", "regression"])
def test_order_and_a_second_time_change_no_bit_and_it_can_be_kept(base, library, request, tmp_path, refit):
    if refit == "regression":
        learned = {refit: request.getfixturevalue("from_regression")}
        again = learn(base, library[::-1], REGRESSION, UNEVEN)
    else:
        learned = request.getfixturevalue("learned")
        again = learn(base, library[::-1], QUICK | {"refit": refit})
    for name, value in (("one", learned[refit]), ("two", again)):
        write_learned(value, tmp_path / name)
    for file in ("learned.json", "learned.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    kept = read_learned(tmp_path / "one")
    assert kept.loss_after == learned[refit].loss_after
    held = "terms" if refit == "terms" else "factors"
    assert distance(dense(merged(kept, library, held)), dense(merged(learned[refit], library, held))) == 0


def test_another_seed_draws_other_answers(base, library, learned):
    assert learn(base, library, seed=4).loss_before != learned["factors"].loss_before


def test_rows_are_kept_back_where_pools_are_large_enough(base, library):
    pools = {name: [Example(f"Say {k} {name}.") for k in range(8)] for name in POOLS}
    found = learn(base, library, QUICK | {"steps": 6}, pools)
    assert found.n_examples == 24 and found.loss_after <= found.loss_before


def test_nothing_touches_global_random_state_or_the_base(base, library):
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in base.model.state_dict().items()}
    learn(base, library, QUICK | {"steps": 1})
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(weights[k], v) for k, v in base.model.state_dict().items())
    assert all(not module._forward_hooks for module in base.model.modules())


def test_progress_counts_answers_and_steps(base, library):
    told = []
    learn(base, library, QUICK | {"steps": 2}, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(k, 5) for k in range(1, 6)]


def test_one_pool_for_several_adapters_is_refused(base, library):
    with pytest.raises(ConfigError, match=r"(?s)which adapter answers.*one pool.*--examples NAME=FILE"):
        learn(base, library, pools=POOLS["good"])


def test_settings_out_of_range_are_refused():
    for wrong in ({"cp_rank": 0}, {"steps": 0}, {"lr": -1.0}, {"batch_size": 0}, {"max_new_tokens": 0}):
        with pytest.raises(ConfigError, match=f"'{next(iter(wrong))}' of distill"):
            DistillParams(**wrong)
    with pytest.raises(ConfigError, match="factors"):
        parse_params("distill", {"factors": "mine"})
    for wrong, known in (({"start": "mean"}, "regmean"), ({"count": "rows"}, "prompts")):
        with pytest.raises(ConfigError, match=known):
            parse_params("distill", wrong)


def test_without_learning_it_says_what_to_do(library):
    with pytest.raises(ConfigError, match=r"(?s)needs what was learned.*nothing learned.*--learned"):
        merge_adapters(library, "distill")


def test_adapter_weights_are_refused(library, learned):
    params, _ = learned["factors"].settle(parse_params("distill", {}), library)
    with pytest.raises(ConfigError, match="takes no adapter weights"):
        merge_adapters(library, "distill", params=params, adapter_weights=[0.5, 0.25, 0.25])


def test_factors_of_other_modules_or_sizes_are_refused(library, learned):
    name, rest = MODULES[0], {m: f for m, f in learned["factors"].factors.items() if m != MODULES[0]}
    odd = rest | {name: LoraFactors(torch.ones(3, 5), torch.ones(16, 3))}
    for factors, text in ((rest, "other modules"), (odd, r"another size(?s:.*)\(16, 5\)")):
        with pytest.raises(ConfigError, match=text):
            merge_adapters(library, "distill", params=DistillParams(factors=factors))


def test_it_is_not_used_for_other_adapters(base, library, learned):
    other = random_on(base, "other", 2, 99)
    with pytest.raises(AdapterMismatchError, match="other adapters"):
        learned["factors"].settle(parse_params("distill", {}), [*library[:2], other])


def test_a_damaged_file_is_refused(learned, tmp_path):
    write_learned(learned["factors"], tmp_path)
    (tmp_path / "learned.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="missing or are not those"):
        read_learned(tmp_path)


def test_a_loss_that_is_not_finite_names_the_step(base, library):
    huge = {m: LoraFactors(f.lora_a * 1e18, f.lora_b * 1e18) for m, f in library[0].modules.items()}
    with pytest.raises(NumericalError, match=r"(?s)distilling gave out.*step 1.*lower lr"):
        learn(base, [make_adapter("opposite", huge), *library[1:]], QUICK | {"steps": 1})


def test_a_student_steps_in_units_of_what_it_moves(library):
    """Ten times the adapters, steps ten times as long (split evenly between the factors)."""
    larger = [
        make_adapter(a.name, {m: LoraFactors(f.lora_a, 10 * f.lora_b) for m, f in a.modules.items()}) for a in library
    ]
    for refit, times in (("terms", 10), ("factors", 10**0.5)):
        rates = [
            [group["lr"] for group in make_student(joint_start(given, 3), refit, torch.device("cpu")).groups(0.1)]
            for given in (library, larger)
        ]
        assert rates[1] == pytest.approx([times * rate for rate in rates[0]], rel=1e-3)  # the solver's tolerance


def test_the_registry_says_what_it_is():
    entry = MERGE_METHODS.entry("distill")
    assert entry.facts["labelled"] is False and "prompts" in str(entry.facts["needs"])

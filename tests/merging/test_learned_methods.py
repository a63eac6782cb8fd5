"""Learned weights: what was planted is found, what was learned is what the merged adapter does, and it can be kept."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from stacks import dense, distance, random_adapter, weighted_sum
from tiny_base import MODULES, bundled_tokenizer, random_on, tiny_llama, trained_on

from tclora.adapters import LoraFactors, make_adapter, weights_digest
from tclora.data import Example
from tclora.errors import AdapterMismatchError, ArtifactError, ConfigError, DataError, NumericalError
from tclora.merging import MERGE_METHODS, merge_adapters, parse_params
from tclora.merging.learning import LearningProblem, learn_weights, learns, read_learned, write_learned
from tclora.models import attached, response_losses, tokenize_example, tokenize_prompt

EXAMPLES = (
    Example("Name a fruit.", output="apple"),
    Example("Name a color.", output="green"),
    Example("Say yes.", input="now", output="yes yes yes"),
    Example("Count.", output="one two three"),
)
# Few and quick; what is planted is plain enough.
QUICK = {
    "lorahub": {"max_evaluations": 25},
    "learned_cat": {"steps": 30, "lr": 0.1},
    "adamerging": {"steps": 25, "lr": 0.02},
    "regmean": {},
}
WEIGHTED = ("lorahub", "learned_cat", "adamerging")
# The hooks add to outputs in float32, the merged adapter is one product: a few roundings a module, over two layers.
SAME_LOSS = 1e-4


@pytest.fixture(scope="module")
def base():
    return tiny_llama(vocab_size=4096, tokenizer=bundled_tokenizer())


@pytest.fixture(scope="module")
def library(base):
    """`good` goes down the gradient of the examples' loss; `opposite` up that of half of them, `noise` nowhere."""
    rows = [tokenize_example(base, example) for example in EXAMPLES]
    up = trained_on(base, "up", 2, rows[:2])
    opposite = {name: LoraFactors(f.lora_a, -f.lora_b) for name, f in up.modules.items()}
    noise = random_on(base, "noise", 2, 5, size=0.5)
    return (make_adapter("opposite", opposite), trained_on(base, "good", 2, rows), noise)


@pytest.fixture(scope="module")
def learned(base, library):
    """Each method on the same problem, once."""
    problem = LearningProblem(base, EXAMPLES, seed=3)
    return {method: learn_weights(method, library, problem, params=QUICK[method]) for method in QUICK}


def label_loss(base, adapter=None, examples=EXAMPLES) -> float:
    rows = [tokenize_example(base, example) for example in examples]
    if adapter is None:
        sums, counts = response_losses(base, rows, batch_size=4)
    else:
        with attached(base, adapter):
            sums, counts = response_losses(base, rows, batch_size=4)
    return float(sums.sum() / counts.sum())


def prompt_entropy(base, adapter, examples=EXAMPLES) -> float:
    """Mean over all positions of all prompts, one row at a time, in float64."""
    found = []
    with attached(base, adapter), torch.no_grad():
        for example in examples:
            ids = torch.tensor([tokenize_prompt(base, example).ids])
            p = torch.softmax(base.model(ids).logits[0].double(), dim=-1)
            found.append(-(p * p.log()).sum(dim=-1))
    return float(torch.cat(found).mean())


def merged_by(method, learned, library, **params):
    weights = learned.weights_for(library)
    return merge_adapters(library, method, params=params, adapter_weights=weights).adapter


def test_the_methods_that_learn_say_so():
    # `distill` needs a pool per adapter and has tests of its own.
    assert [name for name in MERGE_METHODS if learns(name)] == sorted([*QUICK, "distill"])
    for name in [*QUICK, "distill"]:
        facts = MERGE_METHODS.entry(name).facts
        assert "base" in str(facts["needs"]) and isinstance(facts["labelled"], bool)


@pytest.mark.parametrize("method", ["lorahub", "learned_cat"])
def test_the_adapter_that_helps_gets_the_largest_weight(method, base, library, learned):
    assert label_loss(base, library[1]) < label_loss(base) - 0.5  # what was planted
    weights = learned[method].weights_for(library)
    assert all(max(range(3), key=lambda i: row[i]) == 1 for row in weights.values())
    assert learned[method].loss_after < learned[method].loss_before - 0.1


def test_lorahub_has_one_weight_per_adapter_and_starts_at_the_mean(base, library, learned):
    assert len(set(learned["lorahub"].weights.values())) == 1
    start = merge_adapters(library, "mean").adapter
    assert learned["lorahub"].loss_before == pytest.approx(label_loss(base, start), abs=SAME_LOSS)


def test_learned_shares_of_a_module_sum_to_one_and_start_equal(base, library, learned):
    assert all(sum(row) == pytest.approx(1, abs=1e-12) for row in learned["learned_cat"].weights.values())
    assert len(set(learned["learned_cat"].weights.values())) == len(MODULES)
    start = merge_adapters(library, "mean").adapter
    assert learned["learned_cat"].loss_before == pytest.approx(label_loss(base, start), abs=SAME_LOSS)


def test_adamerging_lowers_the_entropy_within_its_box(base, library, learned):
    found = learned["adamerging"]
    assert found.loss_after < found.loss_before - 1e-3
    assert all(0 <= weight <= 1 for row in found.weights.values() for weight in row)
    start = merge_adapters(library, "adamerging", adapter_weights=[0.3] * 3).adapter
    assert found.loss_before == pytest.approx(prompt_entropy(base, start), abs=SAME_LOSS)


@pytest.mark.parametrize("method", WEIGHTED)
def test_the_merged_adapter_does_what_was_learned(method, base, library, learned):
    merged = merged_by(method, learned[method], library)
    loss = prompt_entropy(base, merged) if method == "adamerging" else label_loss(base, merged)
    assert learned[method].loss_after == pytest.approx(loss, abs=SAME_LOSS)


def test_the_published_form_of_lorahub_adds_factors(base, library):
    params = {"combine": "factors", "start": "zero", "max_evaluations": 15}
    found = learn_weights("lorahub", library, LearningProblem(base, EXAMPLES), params=params)
    assert found.loss_before == pytest.approx(label_loss(base), abs=SAME_LOSS)
    merged = merged_by("lorahub", found, library, **params)
    assert found.loss_after == pytest.approx(label_loss(base, merged), abs=SAME_LOSS)
    weights = found.weights_for(library)[MODULES[0]]
    factors = [adapter.modules[MODULES[0]] for adapter in library]
    up = sum(w * f.lora_b.double() for w, f in zip(weights, factors, strict=True))
    down = sum(w * f.lora_a.double() for w, f in zip(weights, factors, strict=True))
    assert distance({"q": dense(merged)[MODULES[0]]}, {"q": up @ down}) < 1e-6  # float32 factors
    assert merged.shapes[MODULES[0]].r == 2


def test_the_published_form_lacks_the_invariance_to_how_an_adapter_is_factored():
    turn = torch.tensor([[2.0, 1.0], [0.0, 0.25]])
    given = [random_adapter("a", 2, 1), random_adapter("b", 2, 2)]
    modules = {
        name: LoraFactors(torch.linalg.inv(turn) @ f.lora_a, f.lora_b @ turn) for name, f in given[0].modules.items()
    }
    turned = [make_adapter("a", modules, base_model="org/base"), given[1]]
    for combine, breaks in (("factors", True), ("deltas", False)):
        results = [dense(merge_adapters(x, "lorahub", params={"combine": combine}).adapter) for x in (given, turned)]
        assert (distance(results[0], results[1]) > 0.1) == breaks


def test_one_coefficient_per_adapter_where_asked_for(base, library):
    params = QUICK["adamerging"] | {"per": "adapter", "steps": 8}
    found = learn_weights("adamerging", library, LearningProblem(base, EXAMPLES), params=params)
    assert len(set(found.weights.values())) == 1
    assert found.loss_after < found.loss_before


POOLS = {"opposite": EXAMPLES[:1], "good": EXAMPLES[1:3], "noise": EXAMPLES}


@pytest.mark.parametrize("method", WEIGHTED)
def test_each_adapters_examples_count_alike(method, base, library):
    """The loss is the mean over the pools of the mean over their tokens, however long a pool is."""
    params = {"max_evaluations": 1} if method == "lorahub" else {"steps": 1, "lr": 1e-9}
    found = learn_weights(method, library, LearningProblem(base, POOLS), params=params)
    weight = 0.3 if method == "adamerging" else 1 / 3
    start = merge_adapters(library, "mean", adapter_weights=[weight] * 3).adapter
    loss_of = prompt_entropy if method == "adamerging" else label_loss
    means = [loss_of(base, start, pool) for pool in POOLS.values()]
    assert found.loss_before == pytest.approx(sum(means) / 3, abs=SAME_LOSS)
    assert found.n_examples == 7


def test_batches_smaller_than_the_pool_and_passes_smaller_than_the_batch_learn_as_well(base, library, monkeypatch):
    params = QUICK["learned_cat"] | {"batch_size": 3}
    problem = LearningProblem(base, EXAMPLES)
    whole = learn_weights("learned_cat", library, problem, params=params)
    assert whole.loss_after < whole.loss_before - 0.1
    # One row a pass adds up the same gradients.
    monkeypatch.setattr("tclora.merging.learning.descent._MAX_LOGITS", 1)
    split = learn_weights("learned_cat", library, problem, params=params)
    assert split.loss_after == pytest.approx(whole.loss_after, abs=1e-3)  # Adam enlarges roundings of small gradients


@pytest.mark.parametrize("method", QUICK)
def test_the_order_of_adapters_and_a_second_time_change_no_bit(method, base, library, learned, tmp_path):
    problem = LearningProblem(base, EXAMPLES, seed=3)
    again = learn_weights(method, library[::-1], problem, params=QUICK[method])
    for name, value in (("one", learned[method]), ("two", again)):
        write_learned(value, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == (["learned.json", "learned.safetensors"] if method == "regmean" else ["learned.json"])
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_another_seed_draws_other_batches(base, library):
    params = QUICK["learned_cat"] | {"batch_size": 1, "steps": 3}
    one, two = (
        learn_weights("learned_cat", library, LearningProblem(base, EXAMPLES, seed=s), params=params) for s in (0, 1)
    )
    assert one.weights != two.weights


def test_nothing_touches_global_random_state_or_the_base(base, library):
    before, weights = torch.get_rng_state(), base.model.state_dict()
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    learn_weights("learned_cat", library, LearningProblem(base, EXAMPLES), params={"steps": 2})
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], tensor) for name, tensor in kept.items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize("method", QUICK)
def test_what_was_written_and_read_gives_the_same_merge(method, library, learned, tmp_path):
    write_learned(learned[method], tmp_path / "kept")
    read = read_learned(tmp_path / "kept" / "learned.json")
    digests = []
    for found in (learned[method], read):
        params = parse_params(method, {})
        if method == "regmean":
            params = dataclasses.replace(params, statistics=found.statistics_for(library))
        result = merge_adapters(library, method, params=params, adapter_weights=found.weights_for(library) or None)
        digests.append(weights_digest(result.adapter))
    assert digests[0] == digests[1]
    facts = ("method", "params", "base", "seed", "n_examples", "adapters", "digests", "loss_before", "loss_after")
    assert all(getattr(read, name) == getattr(learned[method], name) for name in facts)


def test_weights_follow_the_adapters_and_not_their_names(library, learned):
    renamed = [dataclasses.replace(adapter, name=f"other{i}") for i, adapter in enumerate(library[::-1])]
    straight, turned = learned["lorahub"].weights_for(library), learned["lorahub"].weights_for(renamed)
    assert {name: row[::-1] for name, row in turned.items()} == straight


def test_learned_weights_are_of_these_adapters_and_of_all_of_them(base, library, learned):
    stranger = random_on(base, "stranger", 2, 77)
    with pytest.raises(AdapterMismatchError, match=r"(?s)of other adapters.*stranger.*learn again"):
        learned["lorahub"].weights_for([*library[:2], stranger])
    with pytest.raises(AdapterMismatchError, match=r"(?s)more adapters than these.*also noise"):
        learned["regmean"].statistics_for(library[:2])


def test_regmean_without_labels_keeps_outputs_better_than_the_mean(base, library):
    """Each adapter on its own examples; the outputs that count are those of the modules on their inputs."""
    pools = {"opposite": EXAMPLES[:1], "good": EXAMPLES[1:3], "noise": EXAMPLES[3:]}
    unlabelled = {name: [dataclasses.replace(e, output="") for e in pool] for name, pool in pools.items()}
    found = learn_weights("regmean", library, LearningProblem(base, unlabelled))
    assert found.loss_before is None and not found.weights
    params = dataclasses.replace(parse_params("regmean", {"shrink": 1.0}), statistics=found.statistics_for(library))
    merged = merge_adapters(library, "regmean", params=params)
    mean = weighted_sum(list(library), [1 / 3] * 3)
    for name in MODULES:
        rows = [one.of(name).double() for one in params.statistics]
        lost = whole = 0.0
        for adapter, r in zip(library, rows, strict=True):
            own = dense(adapter)[name]
            lost += float(((mean[name] - own) @ r.mT).norm() ** 2)
            whole += float((own @ r.mT).norm() ** 2)
        assert merged.modules[name]["output_error"] < math.sqrt(lost / whole)


def test_regmean_of_one_pool_read_by_the_base_alone_is_refused(base, library):
    with pytest.raises(ConfigError, match=r"(?s)plain mean.*NAME=FILE"):
        learn_weights("regmean", library, LearningProblem(base, EXAMPLES), params={"active": "base"})
    pools = dict(zip(("opposite", "good", "noise"), (EXAMPLES[:1], EXAMPLES[1:2], EXAMPLES[2:]), strict=True))
    found = learn_weights("regmean", library, LearningProblem(base, pools), params={"active": "base"})
    assert len(found.statistics) == 3


@pytest.mark.parametrize("method", ["lorahub", "learned_cat"])
def test_a_missing_response_is_refused(method, base, library):
    problem = LearningProblem(base, [*EXAMPLES, Example("No answer.")])
    with pytest.raises(DataError, match=r"(?s)no response.*example 5.*No answer.*adamerging or regmean"):
        learn_weights(method, library, problem)


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([], "no examples to learn from"),
        ({"opposite": EXAMPLES, "good": [], "noise": EXAMPLES}, r"(?s)no examples.*adapter good"),
        ({"opposite": EXAMPLES, "good": EXAMPLES}, r"(?s)do not match the adapters.*good, noise, opposite"),
    ],
)
@pytest.mark.parametrize("method", QUICK)
def test_a_lack_of_examples_is_refused(method, examples, said, base, library):
    with pytest.raises(ConfigError, match=said):
        learn_weights(method, library, LearningProblem(base, examples))


def test_equal_adapters_and_adapters_of_another_base_are_refused(base, library):
    twice = [*library, dataclasses.replace(library[0], name="twin")]
    with pytest.raises(AdapterMismatchError, match=r"(?s)same weights.*opposite, twin"):
        learn_weights("lorahub", twice, LearningProblem(base, EXAMPLES))
    with pytest.raises(AdapterMismatchError, match=r"base model lacks|does not fit"):
        learn_weights("learned_cat", [random_adapter("a", 2, 1)], LearningProblem(base, EXAMPLES))
    with pytest.raises(ConfigError, match="learns nothing"):
        learn_weights("mean", library, LearningProblem(base, EXAMPLES))
    with pytest.raises(ConfigError, match="not parameters of 'lorahub'"):
        learn_weights("lorahub", library, LearningProblem(base, EXAMPLES), params=parse_params("mean", {}))


def test_a_loss_that_is_not_finite_stops_the_descent(base, library):
    huge = {name: LoraFactors(f.lora_a * 1e18, f.lora_b * 1e18) for name, f in library[2].modules.items()}
    adapters = [library[1], make_adapter("huge", huge)]
    with pytest.raises(NumericalError, match=r"(?s)gave out.*step 1.*lower lr"):
        learn_weights("learned_cat", adapters, LearningProblem(base, EXAMPLES), params={"steps": 2})


@pytest.mark.parametrize("n_bad", [1, 4])
def test_points_where_the_model_overflows_are_passed_over(n_bad, base, library, monkeypatch):
    """The first points, the start among them, are made to overflow."""
    asked = []

    def losses(base, rows, *, batch_size):
        asked.append(None)
        sums, counts = response_losses(base, rows, batch_size=batch_size)
        return (sums * math.inf if len(asked) <= n_bad else sums), counts

    monkeypatch.setattr("tclora.merging.learning.lorahub.response_losses", losses)
    found = learn_weights("lorahub", library, LearningProblem(base, EXAMPLES), params={"max_evaluations": 12})
    assert found.loss_before is None and math.isfinite(found.loss_after)


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_loss_that_is_finite_nowhere_is_refused_by_the_search(loss, base, library, monkeypatch):
    def losses(base, rows, *, batch_size):
        return np.full(len(rows), loss), np.ones(len(rows), dtype=int)

    monkeypatch.setattr("tclora.merging.learning.lorahub.response_losses", losses)
    with pytest.raises(NumericalError, match=r"(?s)no weights were found.*5 points.*start=zero"):
        learn_weights("lorahub", library, LearningProblem(base, EXAMPLES), params={"max_evaluations": 5})


def break_json(folder):
    (folder / "learned.json").write_text("{")


def other_format(folder):
    data = json.loads((folder / "learned.json").read_text())
    (folder / "learned.json").write_text(json.dumps(data | {"format": 99}))


def short_row(folder):
    data = json.loads((folder / "learned.json").read_text())
    data["weights"] = {MODULES[0]: [1.0]}
    (folder / "learned.json").write_text(json.dumps(data))


def words_for_numbers(folder):
    data = json.loads((folder / "learned.json").read_text())
    data["weights"] = {MODULES[0]: ["a", "b", "c"]}
    (folder / "learned.json").write_text(json.dumps(data))


def of_another_kind(folder):
    (folder / "learned.json").write_text('{"method": "regmean"}')


def no_tensors(folder):
    (folder / "learned.safetensors").unlink()


def flip_a_bit(folder):
    raw = bytearray((folder / "learned.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "learned.safetensors").write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_json, "not readable JSON"),
        (other_format, "format 99"),
        (short_row, r"wrong weights for model\.layers\.0"),
        (words_for_numbers, "is damaged"),
        (of_another_kind, "no file of learned weights"),
        (no_tensors, "missing or are not those"),
        (flip_a_bit, "missing or are not those"),
        (lambda folder: (folder / "learned.json").unlink(), "not readable JSON"),
    ],
)
def test_damaged_files_are_refused(damage, said, learned, tmp_path):
    write_learned(learned["regmean"], tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=said):
        read_learned(tmp_path)


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("lorahub", {"penalty": -1}, "penalty"),
        ("lorahub", {"bound": 0}, "bound"),
        ("lorahub", {"max_evaluations": 0}, "max_evaluations"),
        ("lorahub", {"combine": "ranks"}, "no such value"),
        ("learned_cat", {"lr": 0}, "lr"),
        ("learned_cat", {"steps": 0}, "steps"),
        ("adamerging", {"start": 2}, "start"),
        ("adamerging", {"batch_size": 0}, "batch_size"),
        ("adamerging", {"per": "token"}, "no such value"),
    ],
)
def test_wrong_parameters_are_refused(method, values, said):
    with pytest.raises(ConfigError, match=said):
        parse_params(method, values)

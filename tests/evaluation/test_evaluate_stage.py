"""The whole stage on a tiny base: figures against direct computation, routing as selection, resuming from disk."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tclora.adapters import read_adapter
from tclora.config import EvaluateConfig
from tclora.errors import AdapterError, AdapterMismatchError, DataError, NumericalError
from tclora.evaluation import ChoiceSet, Contestant, DevSet, evaluate, is_exact_match, scoring
from tclora.evaluation import rows as rows_module
from tclora.models import attached, greedy_answers, response_losses, tokenize_example, tokenize_prompt

CONFIG = EvaluateConfig(batch_size=4, max_new_tokens=3, n_bootstrap=50)
NAMES = ("cluster-0", "cluster-1", "cluster-2")


def contestants(folders) -> list[Contestant]:
    singles = [Contestant(f"adapter-{i}", "adapter", (folder,)) for i, folder in enumerate(folders)]
    return [Contestant("base", "base"), *singles, Contestant("routed", "routed", folders)]


def run(base, who, dev, choices, cache, **options):
    config = options.pop("config", CONFIG)
    return evaluate(base, who, dev, choices, config, cluster_names=NAMES, cache=cache, **options)


@pytest.fixture(scope="module")
def record(tiny_base, folders, dev, choices, tmp_path_factory):
    return run(tiny_base, contestants(folders), dev, choices, tmp_path_factory.mktemp("cache"))


def by_name(record):
    return {contestant.name: contestant for contestant in record.contestants}


def direct_losses(base, folder, dev):
    tokens = [tokenize_example(base, example) for example in dev.examples]
    with attached(base, read_adapter(Path(folder))):
        return response_losses(base, tokens, batch_size=1)


def test_loss_of_an_adapter_is_its_direct_loss(tiny_base, folders, dev, record):
    nats, n_tokens = direct_losses(tiny_base, folders[1], dev)
    # float32 sums in another batch order.
    assert by_name(record)["adapter-1"].loss.value == pytest.approx(nats.sum() / n_tokens.sum(), rel=1e-5)


def test_routed_loss_takes_each_example_from_its_clusters_adapter(tiny_base, folders, dev, record):
    per_adapter = [direct_losses(tiny_base, folder, dev) for folder in folders]
    nats = sum(per_adapter[c][0][i] for i, c in enumerate(dev.clusters))
    assert by_name(record)["routed"].loss.value == pytest.approx(nats / per_adapter[0][1].sum(), rel=1e-5)


def test_routed_equals_the_single_adapter_inside_a_cluster(record):
    found = by_name(record)
    for i, name in enumerate(NAMES):
        assert found["routed"].loss_by_cluster[name] == found[f"adapter-{i}"].loss_by_cluster[name]
        assert found["routed"].exact_match_by_cluster[name] == found[f"adapter-{i}"].exact_match_by_cluster[name]


def test_the_contestants_differ(record):
    # Otherwise the routing tests above could not fail.
    assert len({contestant.loss.value for contestant in record.contestants}) == 5


def test_routing_alone_gives_the_same_figures_as_routing_beside_the_adapters(
    tiny_base, folders, dev, choices, record, tmp_path
):
    alone = run(tiny_base, [Contestant("routed", "routed", folders)], dev, choices, tmp_path).contestants[0]
    beside = by_name(record)["routed"]
    assert alone.loss.value == pytest.approx(beside.loss.value, rel=1e-5)
    assert (alone.choice_accuracy, alone.exact_match) == (beside.choice_accuracy, beside.exact_match)


def test_exact_match_counts_direct_answers(tiny_base, folders, dev, choices, tmp_path):
    # Give half of the examples the very answer that the adapter generates.
    prompts = [tokenize_prompt(tiny_base, example) for example in dev.examples]
    with attached(tiny_base, read_adapter(Path(folders[0]))):
        answers = greedy_answers(tiny_base, prompts, max_new_tokens=3, batch_size=4)
    pairs = zip(dev.examples, answers, strict=True)
    examples = [replace(e, output=f" {a.upper()}. " if i % 2 else e.output) for i, (e, a) in enumerate(pairs)]
    expected = sum(is_exact_match(a, e.output) for e, a in zip(examples, answers, strict=True))
    who = [Contestant("one", "merged", (folders[0],))]
    score = run(tiny_base, who, DevSet(tuple(examples), dev.clusters), [], tmp_path).contestants[0].exact_match
    assert (score.n, score.value) == (12, expected / 12)
    assert expected >= 6


def test_every_figure_states_its_sample_size(record, dev):
    for contestant in record.contestants:
        assert contestant.loss.n == contestant.exact_match.n == len(dev.examples)
        assert [score.n for score in contestant.loss_by_cluster.values()] == [4, 4, 4]
        assert {name: score.n for name, score in contestant.choice_accuracy.items()} == record.n_choice


def test_the_record_names_base_template_and_chance(record):
    assert (record.base, record.template, record.n_dev) == ("tiny", "plain", 12)
    assert record.chance == {"quiz": pytest.approx(3 / 7), "blanks": pytest.approx(1 / 2)}


def test_ranks_are_those_of_the_folders(record):
    assert [contestant.rank for contestant in record.contestants] == [None, 1, 2, 3, 3]


def test_max_exact_match_bounds_each_cluster(tiny_base, dev, tmp_path):
    config = CONFIG.model_copy(update={"max_exact_match": 2})
    found = run(tiny_base, [Contestant("base", "base")], dev, [], tmp_path, config=config).contestants[0]
    assert [score.n for score in found.exact_match_by_cluster.values()] == [2, 2, 2]


def test_exact_match_can_be_left_out(tiny_base, dev, tmp_path):
    config = CONFIG.model_copy(update={"exact_match": False})
    found = run(tiny_base, [Contestant("base", "base")], dev, [], tmp_path, config=config).contestants[0]
    assert (found.exact_match, found.exact_match_by_cluster) == (None, {})


def test_a_cluster_without_examples_has_no_figure(tiny_base, dev, tmp_path):
    some = DevSet(dev.examples[:2], (0, 2))
    found = run(tiny_base, [Contestant("base", "base")], some, [], tmp_path).contestants[0]
    assert list(found.loss_by_cluster) == ["cluster-0", "cluster-2"]


def test_choices_alone_have_no_loss(tiny_base, choices, tmp_path):
    found = run(tiny_base, [Contestant("base", "base")], DevSet((), ()), choices, tmp_path).contestants[0]
    assert (found.loss, found.exact_match, set(found.choice_accuracy)) == (None, None, {"quiz", "blanks"})


def test_the_base_is_left_untouched(tiny_base, folders, dev, tmp_path):
    before = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    run(tiny_base, contestants(folders), dev, [], tmp_path)
    assert all(np.array_equal(before[name], value) for name, value in tiny_base.model.state_dict().items())
    assert not any(module._forward_hooks for module in tiny_base.model.modules())


# --- what is on disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """Rows put to the model, in order of the calls."""
    seen = []

    def counted(base, row_set, wanted, *, batch_size):
        seen.append((row_set.name, list(wanted)))
        return rows_module.score_rows(base, row_set, wanted, batch_size=batch_size)

    monkeypatch.setattr(scoring, "score_rows", counted)
    return seen


def test_each_row_is_asked_once_of_each_adapter(tiny_base, folders, dev, choices, tmp_path, calls):
    run(tiny_base, contestants(folders), dev, choices, tmp_path)
    assert len(calls) == 4 * 4  # base and three adapters, four row sets; routing adds none


def test_routing_alone_asks_each_adapter_only_its_rows(tiny_base, folders, dev, tmp_path, calls):
    config = CONFIG.model_copy(update={"exact_match": False})
    run(tiny_base, [Contestant("routed", "routed", folders)], dev, [], tmp_path, config=config)
    assert [rows for _, rows in calls] == [[i for i, c in enumerate(dev.clusters) if c == k] for k in range(3)]


def test_a_second_evaluation_asks_nothing_and_says_the_same(tiny_base, folders, dev, choices, tmp_path, calls):
    first = run(tiny_base, contestants(folders), dev, choices, tmp_path)
    calls.clear()
    assert run(tiny_base, contestants(folders), dev, choices, tmp_path) == first
    assert calls == []


def test_a_killed_evaluation_goes_on(tiny_base, folders, dev, choices, tmp_path, monkeypatch, calls, record):
    count = 0

    def killed(name, done, total):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_base, contestants(folders), dev, choices, tmp_path, on_progress=killed)
    calls.clear()
    assert run(tiny_base, contestants(folders), dev, choices, tmp_path) == record
    assert len(calls) == 16 - 6


DAMAGE = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "one digit": lambda text: text.replace("[[", "[[1", 1) if "[[" in text else text.replace('["', '["x', 1),
    "a row less": lambda text: text[: text.rindex(",")] + "]}",
    "NaN": lambda text: text.replace("[[", "[[NaN, 1], [", 1) if "[[" in text else '{"rows": NaN}',
    "other JSON": lambda text: "[1, 2]",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damaged_file_is_computed_again(tiny_base, folders, dev, choices, tmp_path, calls, damage):
    who = [Contestant("one", "adapter", (folders[0],))]
    first = run(tiny_base, who, dev, choices, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for path in files:
        text = path.read_text()
        assert DAMAGE[damage](text) != text
        path.write_text(DAMAGE[damage](text))
        calls.clear()
        assert run(tiny_base, who, dev, choices, tmp_path) == first
        assert len(calls) == 1
        assert path.read_text() == text


def test_bytes_that_are_no_text_are_computed_again(tiny_base, dev, tmp_path, calls):
    first = run(tiny_base, [Contestant("base", "base")], dev, [], tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xff\xfe\x00")
    calls.clear()
    assert run(tiny_base, [Contestant("base", "base")], dev, [], tmp_path) == first
    assert len(calls) == 2


def test_a_changed_adapter_is_scored_again(tiny_base, folders, dev, tmp_path, calls):
    folder = tmp_path / "adapter"
    shutil.copytree(folders[0], folder)
    who = [Contestant("one", "adapter", (str(folder),))]
    first = run(tiny_base, who, dev, [], tmp_path / "cache")
    shutil.copy(Path(folders[2]) / "adapter_model.safetensors", folder)
    shutil.copy(Path(folders[2]) / "adapter_config.json", folder)
    calls.clear()
    assert run(tiny_base, who, dev, [], tmp_path / "cache").contestants[0].loss != first.contestants[0].loss
    assert len(calls) == 2


def test_a_changed_alpha_alone_is_scored_again(tiny_base, folders, dev, tmp_path, calls):
    folder = tmp_path / "adapter"
    shutil.copytree(folders[0], folder)
    who = [Contestant("one", "adapter", (str(folder),))]
    run(tiny_base, who, dev, [], tmp_path / "cache")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 16'))
    calls.clear()
    run(tiny_base, who, dev, [], tmp_path / "cache")
    assert len(calls) == 2


def test_another_prompt_is_scored_again_and_the_rest_is_not(tiny_base, dev, choices, tmp_path, calls):
    run(tiny_base, [Contestant("base", "base")], dev, choices, tmp_path)
    items = (replace(choices[0].items[0], question="Another?"), *choices[0].items[1:])
    changed = ChoiceSet("quiz", items, choices[0].clusters, choices[0].normalize)
    calls.clear()
    run(tiny_base, [Contestant("base", "base")], dev, [changed, choices[1]], tmp_path)
    assert [name for name, _ in calls] == ["choice quiz"]


def test_another_normalization_needs_no_model(tiny_base, dev, choices, tmp_path, calls):
    run(tiny_base, [Contestant("base", "base")], dev, choices, tmp_path)
    calls.clear()
    run(tiny_base, [Contestant("base", "base")], dev, [replace(choices[0], normalize="none"), choices[1]], tmp_path)
    assert calls == []


def test_progress_counts_every_unit(tiny_base, folders, dev, choices, tmp_path):
    seen = []
    run(tiny_base, contestants(folders), dev, choices, tmp_path, on_progress=lambda *unit: seen.append(unit))
    assert [(done, total) for _, done, total in seen] == [(i + 1, 16) for i in range(16)]
    assert seen[0][0] == "base: dev loss"


# --- what is refused -----------------------------------------------------------------------------------------------


def test_an_adapter_of_another_base_is_refused(tiny_base, dev, tmp_path, make_lora):
    from safetensors.torch import load_file, save_file

    folder = Path(make_lora(tmp_path / "stranger", seed=0))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {key.replace("layers.1", "layers.9"): t for key, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(AdapterMismatchError, match=r"layers\.9"):
        run(tiny_base, [Contestant("stranger", "adapter", (str(folder),))], dev, [], tmp_path / "cache")


def test_a_folder_that_is_no_adapter_is_refused(tiny_base, dev, tmp_path):
    with pytest.raises(AdapterError, match="nowhere"):
        run(tiny_base, [Contestant("gone", "adapter", (str(tmp_path / "nowhere"),))], dev, [], tmp_path / "cache")


@pytest.mark.parametrize(
    ("nats", "count", "error", "message"),
    [
        (float("nan"), 1, NumericalError, r"not finite(?s:.)*dev loss, row 0"),
        (float("inf"), 1, NumericalError, r"not finite(?s:.)*dev loss, row 0"),
        (0.0, 0, DataError, r"no response token(?s:.)*dev loss, row 0"),
    ],
)
def test_losses_that_are_no_losses_are_refused_and_not_kept(
    tiny_base, dev, tmp_path, monkeypatch, nats, count, error, message
):
    def broken(base, tokens, *, batch_size):
        return np.full(len(tokens), nats), np.full(len(tokens), count)

    monkeypatch.setattr(rows_module, "response_losses", broken)
    with pytest.raises(error, match=message):
        run(tiny_base, [Contestant("base", "base")], dev, [], tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- the real thing ------------------------------------------------------------------------------------------------


@pytest.mark.needs_shared
def test_the_bundled_base_on_real_items(shared, tmp_path):
    from tclora.config import BaseModelConfig
    from tclora.data import read_choice_items, read_examples
    from tclora.models import load_base

    base = load_base(BaseModelConfig(path="bundled", device="cpu", max_length=256))
    examples = read_examples([str(shared / "data/dev/instruction_induction.jsonl.gz")])[::30]
    items = read_choice_items(shared / "data/eval/winogrande.jsonl.gz")[:20]
    dev = DevSet(tuple(examples), (0,) * len(examples))
    choices = [ChoiceSet("winogrande", tuple(items), (0,) * 20, "bytes")]
    config = EvaluateConfig(batch_size=8, max_new_tokens=6, n_bootstrap=100)
    found = evaluate(base, [Contestant("base", "base")], dev, choices, config, cluster_names=["all"], cache=tmp_path)
    contestant = found.contestants[0]
    # A uniform guess over 4,096 tokens costs 8.3 nats; the base has seen this prompt format.
    assert 0 < contestant.loss.value < 5
    assert contestant.choice_accuracy["winogrande"].n == 20
    assert found.chance["winogrande"] == 0.5

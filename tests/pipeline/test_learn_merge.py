"""Learning before a merge: which files and flags lead where, and what is refused before a base is loaded."""

import json

import pytest
from tiny_base import bundled_tokenizer, random_on, tiny_llama

from tclora.errors import AdapterMismatchError, ConfigError, DataError
from tclora.merging import MERGE_METHODS, merge_adapters
from tclora.merging.learning import write_learned
from tclora.pipeline.merges.learn import LearnSources, learn_for_merge

ROWS = [
    {"instruction": "Name a fruit.", "output": "apple"},
    {"instruction": "Say yes.", "input": "now", "output": "yes yes"},
    {"instruction": "Count.", "output": "one two"},
]
QUICK = {
    "lorahub": {"max_evaluations": 3},
    "learned_cat": {"steps": 2},
    "adamerging": {"steps": 2},
    "regmean": {"max_tokens": 30},
}


@pytest.fixture(scope="module")
def tiny():
    return tiny_llama(vocab_size=4096, tokenizer=bundled_tokenizer())


@pytest.fixture(scope="module")
def library(tiny):
    return [random_on(tiny, name, 2, seed) for seed, name in enumerate(("law", "code", "math"))]


@pytest.fixture
def loads(tiny, monkeypatch):
    """How often a base is loaded; it is the tiny one whatever is asked for."""
    asked = []
    monkeypatch.setattr("tclora.pipeline.merges.learn.load_base", lambda config: asked.append(config.path) or tiny)
    return asked


def write_rows(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Steps:
    """A progress that remembers its steps."""

    def __init__(self):
        self.told = []

    def begin(self, stage):
        pass

    def step(self, label, done, total):
        self.told.append((label, done, total))

    def end(self, stage, *, wall_s, skipped):
        pass

    def note(self, text):
        pass


@pytest.mark.parametrize("method", QUICK)
def test_from_files_to_a_merge_and_again_from_what_was_learned(method, library, loads, tmp_path):
    steps, sources = Steps(), LearnSources(base="org/base", examples=(write_rows(tmp_path / "mix.jsonl"),))
    first = learn_for_merge(method, library, QUICK[method], sources, steps)
    assert loads == ["org/base"]
    assert steps.told[-1][0] == f"learn {method}" and steps.told[-1][1] <= steps.told[-1][2]
    assert first.learned.n_examples == 3
    write_learned(first.learned, tmp_path / "kept")
    again = learn_for_merge(method, library, QUICK[method], LearnSources(learned=str(tmp_path / "kept")))
    assert len(loads) == 1  # what was learned needs no base
    merged = [
        merge_adapters(library, method, params=found.params, adapter_weights=found.adapter_weights).adapter
        for found in (first, again)
    ]
    assert all((merged[0].modules[n].lora_a == merged[1].modules[n].lora_a).all() for n in merged[0].modules)


def test_a_method_that_learns_nothing_loads_no_base(library, loads):
    found = learn_for_merge("mean", library, {}, LearnSources(base="org/base"))
    assert (found.adapter_weights, found.learned, loads) == (None, None, [])


def test_files_named_after_adapters_are_their_own_pools(library, loads, tmp_path):
    files = tuple(f"{name}={write_rows(tmp_path / f'{name}.jsonl', ROWS[:k])}" for k, name in ((1, "law"), (2, "code")))
    extra = (f"math={write_rows(tmp_path / 'm1.jsonl')}", f"math={write_rows(tmp_path / 'm2.jsonl')}")
    sources = LearnSources(base="b", examples=files + extra)
    assert learn_for_merge("regmean", library, {"active": "base"}, sources).learned.n_examples == 9


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(library, loads, tmp_path):
    sources = LearnSources(base="b", examples=(write_rows(tmp_path / "seed=1.jsonl"),))
    assert learn_for_merge("lorahub", library, QUICK["lorahub"], sources).learned.n_examples == 3


def test_prompts_without_responses_serve_the_methods_that_need_none(library, loads, tmp_path):
    bare = write_rows(tmp_path / "bare.jsonl", [{"instruction": "Name a fruit."}, {"instruction": "Count."}])
    sources = LearnSources(base="b", examples=(bare,))
    for method in QUICK:
        if MERGE_METHODS.entry(method).facts["labelled"]:
            with pytest.raises(DataError):
                learn_for_merge(method, library, QUICK[method], sources)
        else:
            assert learn_for_merge(method, library, QUICK[method], sources).learned.n_examples == 2


@pytest.mark.parametrize(
    ("method", "sources", "said"),
    [
        ("lorahub", LearnSources(), r"(?s)no --base and no --examples.*give --base and --examples, or --learned FILE"),
        ("regmean", LearnSources(base="b"), r"(?s)found +no --examples"),
        ("adamerging", LearnSources(examples=("x",)), r"(?s)found +no --base"),
        ("learned_cat", LearnSources(base="b", examples=("x",), learned="y"), "both examples and a learned file"),
        ("mean", LearnSources(base="b", examples=("x",)), r"(?s)'mean' learns nothing.*--examples"),
        ("svd", LearnSources(learned="y"), r"(?s)'svd' learns nothing.*--learned"),
        ("lorahub", LearnSources(base="b", examples=("law=x", "y")), "some data files are of one adapter"),
    ],
)
def test_sources_that_do_not_fit_are_refused_before_a_base_is_loaded(method, sources, said, library, loads):
    with pytest.raises(ConfigError, match=said):
        learn_for_merge(method, library, {}, sources)
    assert loads == []


def test_a_file_that_is_not_there_is_refused_before_a_base_is_loaded(library, loads, tmp_path):
    with pytest.raises(DataError):
        learn_for_merge("lorahub", library, {}, LearnSources(base="b", examples=(str(tmp_path / "none.jsonl"),)))
    assert loads == []


def test_what_another_method_or_other_adapters_learned_is_refused(library, loads, tmp_path):
    sources = LearnSources(base="b", examples=(write_rows(tmp_path / "mix.jsonl"),))
    write_learned(learn_for_merge("lorahub", library, QUICK["lorahub"], sources).learned, tmp_path / "kept")
    kept = LearnSources(learned=str(tmp_path / "kept"))
    with pytest.raises(ConfigError, match=r"(?s)of another method.*found +lorahub.*expected +learned_cat"):
        learn_for_merge("learned_cat", library, {}, kept)
    with pytest.raises(AdapterMismatchError, match="also"):
        learn_for_merge("lorahub", library[:2], {}, kept)


def test_the_bundled_base_learns_on_its_own_modules(tmp_path):
    """The real door: load the base that ships, two small adapters, three examples."""
    from tclora.config import BaseModelConfig
    from tclora.models import load_base

    base = load_base(BaseModelConfig(path="bundled"))
    modules = ("model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj")
    library = [random_on(base, name, 2, seed, modules=modules, size=0.1) for seed, name in enumerate("ab")]
    sources = LearnSources(base="bundled", examples=(write_rows(tmp_path / "mix.jsonl"),))
    found = learn_for_merge("lorahub", library, {"max_evaluations": 12, "start": "zero"}, sources)
    assert found.learned.base == "tclora/seed-lm"
    assert found.learned.loss_after <= found.learned.loss_before

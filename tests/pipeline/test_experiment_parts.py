"""The parts of an experiment that need no model: folds, scales, arithmetic on adapters, sweeps."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from tclora.adapters import LoraFactors, make_adapter
from tclora.config import RunConfig, read_yaml
from tclora.config.experiment import experiment_settings
from tclora.config.experiment_merges import MergesSettings
from tclora.data import Example
from tclora.errors import ConfigError, FolderInUseError
from tclora.pipeline.experiments import library
from tclora.pipeline.experiments.adapter_arithmetic import adapter_norm, cosine, random_like, scaled
from tclora.pipeline.experiments.merges import check_merges
from tclora.pipeline.experiments.rows import fold_of
from tclora.pipeline.experiments.run import load_experiment
from tclora.pipeline.experiments.scale_search import best_scale, search_scale
from tclora.pipeline.progress import Silent

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = [path for path in sorted((ROOT / "experiments").glob("*.yaml")) if "question" in read_yaml(path)]
GRID = (0.1, 0.3, 1.0, 3.0, 10.0)


def adapter(seed, *, modules=("layers.0.q", "layers.1.q")):
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: LoraFactors(torch.randn(3, 6, generator=generator), torch.randn(5, 3, generator=generator))
        for path in modules
    }
    return make_adapter(f"adapter-{seed}", factors)


def dense(one, modules=("layers.0.q", "layers.1.q")):
    deltas = [
        (one.modules[path].lora_b.double() @ one.modules[path].lora_a.double()).flatten()
        if path in one.modules
        else torch.zeros(30, dtype=torch.float64)
        for path in modules
    ]
    return torch.cat(deltas)


def test_norms_angles_and_multiples_are_those_of_the_dense_deltas():
    one, other = adapter(0), adapter(1, modules=("layers.1.q",))
    a, b = dense(one), dense(other)
    # Float64 throughout: a few ulps of sums of 60 products.
    assert adapter_norm(one) == pytest.approx(float(a.norm()), rel=1e-12)
    assert cosine(one, other) == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e-12)
    # Factors are float32 and entries of size 1 to 5, so multiples are right to its rounding.
    assert torch.allclose(dense(scaled(one, 0.7)), 0.7 * a, atol=1e-6)
    assert scaled(one, 1.0) is one


def test_a_scaled_adapter_is_not_taken_for_the_file_it_came_from(tmp_path):
    from tclora.adapters import read_adapter, weights_digest, write_adapter

    write_adapter(adapter(0), tmp_path / "a")
    stored = read_adapter(tmp_path / "a")
    assert weights_digest(scaled(stored, 2.0)) != weights_digest(stored)


def test_random_factors_have_the_ranks_and_norms_of_each_module_and_nothing_else():
    one = adapter(0)
    drawn, again, other = (random_like(one, seed=seed) for seed in (4, 4, 5))
    for path in one.modules:
        norms = [float((x.modules[path].lora_b @ x.modules[path].lora_a).norm()) for x in (one, drawn)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)  # float32 factors
        assert one.shapes[path] == drawn.shapes[path]
        assert torch.equal(drawn.modules[path].lora_a, again.modules[path].lora_a)
        assert not torch.equal(drawn.modules[path].lora_a, other.modules[path].lora_a)


@pytest.mark.parametrize("best", [0.2, 0.5, 1.0, 2.6, 5.0])
def test_the_search_finds_the_bottom_of_a_valley(best):
    seen = []

    def loss(scale):
        seen.append(scale)
        return math.log(scale / best) ** 2 + 0.1 * math.log(scale / best) ** 3 / 10

    found, at_end = best_scale(search_scale(loss, GRID, steps=2))
    # Two parabola steps on a nearly quadratic valley; the grid alone is wrong by up to 70 %.
    assert found == pytest.approx(best, rel=0.15) and not at_end and len(seen) == len(set(seen)) <= 7


def test_a_search_that_ends_at_the_grids_end_says_so():
    assert best_scale(search_scale(lambda scale: -scale, GRID)) == (10.0, True)
    assert best_scale(search_scale(lambda scale: scale, GRID)) == (0.1, True)
    assert best_scale({1.0: 3.0}) == (1.0, False)


def test_every_scale_of_the_grid_is_looked_at_where_that_is_asked():
    assert set(GRID) == set(search_scale(lambda scale: abs(scale - 1), GRID, steps=0, every=True))


def test_folds_are_halves_that_depend_on_the_text_alone():
    examples = [Example(f"question {i}", "", "yes", task="a/b") for i in range(2000)]
    folds = [fold_of(example) for example in examples]
    # A fair coin 2,000 times has a standard deviation of 22.
    assert set(folds) == {"choose", "report"} and abs(folds.count("choose") - 1000) < 90
    # Known answers: another hash would move rows between folds, and so mix what chose with what is reported.
    assert folds[:6] == KNOWN_FOLDS


KNOWN_FOLDS = ["choose", "choose", "report", "report", "choose", "report"]


def settings(**changes):
    base = {
        "name": "x",
        "title": "x",
        "question": "x?",
        "output": "x",
        "libraries": {"l": {"run": "run.yaml", "output": "l-{seed}"}},
        "contestants": {"mean": {}, "routed": {"kind": "routed"}},
    }
    return experiment_settings(MergesSettings, base | changes, where="test")


def test_a_sweep_becomes_contestants():
    swept = {
        "svd": {"sweep": {"over": "rank", "values": [1, 2]}},
        "t": {"method": "ties", "sweep": {"over": "output_rank", "values": [3]}},
    }
    entries = settings(contestants={"mean": {}, "routed": {"kind": "routed"}} | swept).entries
    assert list(entries) == ["mean", "routed", "svd rank=1", "svd rank=2", "t output_rank=3"]
    one, cut = entries["svd rank=2"], entries["t output_rank=3"]
    assert (one.method, one.params, one.series, one.x) == ("svd", {"rank": 2}, "svd", 2.0)
    assert (cut.method, cut.params, cut.output_rank) == ("ties", {}, 3)


def test_scales_are_chosen_for_single_adapters_and_given_for_those_taken_as_trained():
    more = {"base": {"kind": "base"}, "m1": {"method": "mean", "scale": 1}, "r": {"kind": "routed", "scale": "choose"}}
    entries = settings(contestants={"mean": {}, "routed": {"kind": "routed"}} | more).entries
    chosen = {name: one.chosen_scale for name, one in entries.items()}
    assert chosen == {"mean": None, "routed": 1.0, "base": 1.0, "m1": 1.0, "r": None}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_of_the_project_is_valid(path):
    """Its settings, its libraries' runs, its methods and their parameters; nothing is trained or read."""
    settings = load_experiment(path)[1]
    assert settings.name == path.stem and settings.page == f"docs/results/{path.stem}"
    if isinstance(settings, MergesSettings):
        assert len(check_merges(settings)) == len(settings.libraries) * len(settings.seeds)


def test_the_documented_experiment_is_valid():
    (code,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(), flags=re.S)
    settings = experiment_settings(MergesSettings, yaml.safe_load(code), where="docs/experiments.md")
    assert [name for name in settings.entries if name.startswith("tc_lora")] == [
        f"tc_lora cp_rank={rank}" for rank in (5, 10, 20)
    ]


def test_a_likeness_that_is_not_in_the_library_is_refused():
    library = {"run": str(ROOT / "experiments" / "library.yaml")}
    contestants = {
        "mean": {},
        "svd": {"libraries": ["a"]},
        "random": {"kind": "random_factors", "like": "svd"},
    }
    found = settings(
        libraries={name: library | {"output": name + "-{seed}"} for name in "ab"}, contestants=contestants, gap=None
    )
    with pytest.raises(ConfigError, match="does not take part in every library"):
        check_merges(found)


def test_two_libraries_in_one_folder_are_refused():
    library = {"run": str(ROOT / "experiments" / "library.yaml"), "output": "same-{seed}"}
    with pytest.raises(ConfigError, match="two libraries lie in one folder"):
        check_merges(settings(libraries={"a": library, "b": library}))


def test_a_library_that_another_process_works_in_is_waited_for(monkeypatch):
    answers = iter([FolderInUseError("in use", where="k10", found="process 7")] * 2 + [None])
    notes: list[str] = []

    def busy(*_, **__):
        if error := next(answers):
            raise error

    told = Silent()
    monkeypatch.setattr(library, "run_pipeline", busy)
    monkeypatch.setattr(library, "_LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(told, "note", notes.append, raising=False)
    library._finish(RunConfig.model_construct(), told)
    assert notes == ["k10 is in use by process 7: waiting for it"]


def test_other_faults_of_a_library_are_not_waited_for(monkeypatch):
    def broken(*_, **__):
        raise ConfigError("no such base")

    monkeypatch.setattr(library, "run_pipeline", broken)
    with pytest.raises(ConfigError, match="no such base"):
        library._finish(RunConfig.model_construct(), Silent())

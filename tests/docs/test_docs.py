"""The documentation runs: README and pages on real folders, doctests, and every method and rule in its page."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

import tclora.registry
from tclora.adapters import read_adapter, write_adapter
from tclora.cli.app import _status
from tclora.config import config_kind, load_config, load_merge_file, read_yaml
from tclora.config.study import load_study
from tclora.merging import COMPONENT_RULES, MERGE_METHODS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


@pytest.fixture
def adapters(tmp_path, monkeypatch) -> Path:
    from stacks import random_adapter

    for seed, name in enumerate("ABC"):
        write_adapter(random_adapter(name, 4, seed), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_python_runs(adapters):
    (code,) = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    assert read_adapter(adapters / "merged").shapes


def merge_commands() -> list[str]:
    texts = (README, (ROOT / "docs" / "commands.md").read_text())
    lines = [line.split("#")[0].strip() for text in texts for block in blocks(text, "sh") for line in block.split("\n")]
    tried = ("tclora merge A", "tclora check A", "tclora analyse A", "tclora methods")
    return [line for line in lines if line.startswith(tried)]


def test_there_are_commands_to_try():
    assert len(merge_commands()) >= 6


@pytest.mark.parametrize("command", merge_commands())
def test_the_documented_commands_run(adapters, command):
    try:
        status = _status(shlex.split(command)[1:])
    except SystemExit as stop:
        status = stop.code
    assert not status


@pytest.mark.parametrize("name", sorted(MERGE_METHODS))
def test_every_method_is_documented(name):
    assert f"| `{name}` |" in (ROOT / "docs" / "methods.md").read_text()


@pytest.mark.parametrize("rule", sorted(COMPONENT_RULES))
def test_every_rule_is_documented(rule):
    assert f"`{rule}`" in (ROOT / "docs" / "methods.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_config_is_valid(path):
    data = read_yaml(path)
    if "study" in data:
        assert load_study(path)[1].clusterings
    elif config_kind(data, where=path.name) == "merge":
        assert load_merge_file(path).adapters
    else:
        assert load_config(path).name


def test_the_example_of_a_merge_runs(adapters):
    with pytest.raises(SystemExit) as stop:
        _status(["merge", str(ROOT / "examples" / "merge.yaml"), "-o", "merged", "--verify"])
    assert not stop.value.code
    assert read_adapter(adapters / "merged").shapes


def test_doctests():
    assert doctest.testmod(tclora.registry).failed == 0
    assert doctest.testmod(tclora.registry).attempted > 0


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target

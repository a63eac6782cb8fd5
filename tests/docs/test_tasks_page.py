"""The page of tasks: its table is the registry's, its YAML loads, its metrics are all of them."""

import re
from pathlib import Path

import pytest

from tclora.config.task_file import TaskFile, load_task_file
from tclora.evaluation.tasks import EVAL_TASKS, load_task
from tclora.evaluation.tasks.scorers import LOSS_METRICS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)


def test_the_table_is_the_registrys():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+).*? \| `(\w+)` \| ([\d.]*)", PAGE, flags=re.M)
    expected = []
    for entry in EVAL_TASKS.entries():
        metrics, chance = entry.facts["metrics"], entry.facts.get("chance")
        expected.append(
            (entry.name, f"{entry.facts['n']:,}", metrics[0], f"{100 * chance:.1f}" if chance is not None else "")
        )
    assert rows == expected


def test_every_metric_is_explained():
    known = {metric for entry in EVAL_TASKS.entries() for metric in entry.facts["metrics"]} | set(LOSS_METRICS)
    assert [metric for metric in sorted(known) if not re.search(rf"^\|.*`{metric}`.*\|", PAGE, flags=re.M)] == []


def test_every_key_of_the_yaml_is_explained():
    assert [key for key in TaskFile.model_fields if f"`{key}`" not in PAGE and key != "fields"] == []


@pytest.mark.parametrize("yaml", BLOCKS, ids=[block.split("\n")[0] for block in BLOCKS])
def test_its_yaml_is_read(tmp_path, yaml):
    (tmp_path / "mine.yaml").write_text(yaml)
    assert load_task_file(tmp_path / "mine.yaml").kind in yaml


def test_its_first_task_works(tmp_path):
    (row,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.S)
    (tmp_path / "quiz.jsonl").write_text(row)
    (tmp_path / "mine.yaml").write_text(BLOCKS[0])
    (item,) = load_task(tmp_path / "mine.yaml").items()
    assert item.ask[0].prompt.text == "Question: What color is the sky?\nAnswer:"
    assert item.gold.answer == 1

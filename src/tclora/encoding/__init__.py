"""Texts to unit rows for clustering: TF-IDF, the base's hidden states, sentence-transformers, or the user's own."""

from tclora.encoding.encoder import Encoder, unit_rows
from tclora.encoding.hidden_states import HiddenStatesEncoder
from tclora.encoding.precomputed import read_precomputed
from tclora.encoding.sentence import SentenceEncoder
from tclora.encoding.store import fit_encoder, load_encoder, save_encoder
from tclora.encoding.tfidf import TfidfEncoder

__all__ = [
    "Encoder",
    "HiddenStatesEncoder",
    "SentenceEncoder",
    "TfidfEncoder",
    "fit_encoder",
    "load_encoder",
    "read_precomputed",
    "save_encoder",
    "unit_rows",
]

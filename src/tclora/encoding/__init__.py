"""Texts to unit rows for clustering: TF-IDF, the base's hidden states, sentence-transformers, or the user's own."""

from tclora.encoding.encoder import Encoder, RowError, unit_rows
from tclora.encoding.hidden_states import HiddenStatesEncoder
from tclora.encoding.job import CHUNK_ROWS, MAX_SHARDS, EncodeJob, ShardRecord, shard_ranges
from tclora.encoding.join import join_shards
from tclora.encoding.precomputed import open_precomputed, precomputed_path, read_precomputed
from tclora.encoding.presets import PAPER_MODEL, SENTENCE_ENCODERS, sentence_digest, sentence_source
from tclora.encoding.sampling import sample_rows
from tclora.encoding.sentence import SentenceEncoder
from tclora.encoding.shard import encode_shard
from tclora.encoding.store import fit_encoder, fit_limit, load_encoder, save_encoder, save_sentence_encoder
from tclora.encoding.tfidf import TfidfEncoder

__all__ = [
    "CHUNK_ROWS",
    "MAX_SHARDS",
    "PAPER_MODEL",
    "SENTENCE_ENCODERS",
    "EncodeJob",
    "Encoder",
    "HiddenStatesEncoder",
    "RowError",
    "SentenceEncoder",
    "ShardRecord",
    "TfidfEncoder",
    "encode_shard",
    "fit_encoder",
    "fit_limit",
    "join_shards",
    "load_encoder",
    "open_precomputed",
    "precomputed_path",
    "read_precomputed",
    "sample_rows",
    "save_encoder",
    "save_sentence_encoder",
    "sentence_digest",
    "sentence_source",
    "shard_ranges",
    "unit_rows",
]

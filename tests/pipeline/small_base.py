"""A base on disk that costs next to nothing to load and to train on: a random Llama of two layers."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from tclora.models import bundled_base_path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "dtype": "float32",
}
MATRICES = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}
_KEPT: list[tempfile.TemporaryDirectory] = []


@functools.cache
def small_base() -> str:
    """Its folder, made once in a process; with the tokenizer of the bundled base. Transformers is not loaded."""
    _KEPT.append(tempfile.TemporaryDirectory(prefix="tclora-small-base-"))
    folder = Path(_KEPT[0].name) / "base"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_base_path() / name, folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def _weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {"model.embed_tokens.weight": torch.randn(4096, 32, generator=generator) * 0.1}
    for layer in range(2):
        for name, shape in MATRICES.items():
            # Small enough to learn from, large enough that what is hooked on changes what it says.
            made[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape, generator=generator) * 0.1
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"model.layers.{layer}.{name}.weight"] = torch.ones(32)
    return made | {"model.norm.weight": torch.ones(32)}

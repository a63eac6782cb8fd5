"""Libraries of made adapters for the benchmarks: PEFT folders of a named base's real shapes, seeded, in bf16.

The factors are half common to all adapters and half their own, with decaying sizes, as adapters of one base are:
neither all alike nor strangers.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

# d_out, d_in of every linear layer of a block, and the number of blocks.
MISTRAL_7B = (
    {
        "self_attn.q_proj": (4096, 4096),
        "self_attn.k_proj": (1024, 4096),
        "self_attn.v_proj": (1024, 4096),
        "self_attn.o_proj": (4096, 4096),
        "mlp.gate_proj": (14336, 4096),
        "mlp.up_proj": (14336, 4096),
        "mlp.down_proj": (4096, 14336),
    },
    32,
)
SMALL = (
    {
        "self_attn.q_proj": (256, 256),
        "self_attn.v_proj": (128, 256),
        "mlp.up_proj": (688, 256),
        "mlp.down_proj": (256, 688),
    },
    4,
)
BUNDLED = (
    {
        "self_attn.q_proj": (256, 256),
        "self_attn.k_proj": (128, 256),
        "self_attn.v_proj": (128, 256),
        "self_attn.o_proj": (256, 256),
        "mlp.gate_proj": (704, 256),
        "mlp.up_proj": (704, 256),
        "mlp.down_proj": (256, 704),
    },
    6,
)
SHAPES = {"mistral-7b": MISTRAL_7B, "small": SMALL, "bundled": BUNDLED}


def make_library(
    folder: Path, base: str, n: int, r: int, *, common: float = 0.5, layers: int | None = None
) -> list[Path]:
    """Write `n` adapters of rank `r` unless they are there already; returns their folders."""
    shapes, blocks = SHAPES[base]
    folders = [folder / f"adapter-{i:04d}" for i in range(n)]
    for i, adapter in enumerate(folders):
        if not (adapter / "adapter_config.json").exists():
            _write(adapter, shapes, layers or blocks, (i, r, common))
    return folders


def _write(folder: Path, shapes: dict, blocks: int, kind: tuple[int, int, float]) -> None:
    i, r, common = kind
    tensors = {}
    decay = torch.exp(-0.15 * torch.arange(r))
    for block in range(blocks):
        for place, (leaf, (d_out, d_in)) in enumerate(shapes.items()):
            path = f"base_model.model.model.layers.{block}.{leaf}"
            for side, rows in (("lora_A", d_in), ("lora_B", d_out)):
                shared, own = (
                    torch.randn(
                        rows,
                        r,
                        generator=torch.Generator().manual_seed(hash((block, place, side == "lora_A", owner)) % 2**31),
                    )
                    for owner in (-1, i)
                )
                columns = (common * shared + (1 - common) * own) * decay / rows**0.5
                columns = columns.bfloat16()
                tensors[f"{path}.{side}.weight"] = columns.T.contiguous() if side == "lora_A" else columns
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "made",
        "r": r,
        "lora_alpha": 2 * r,
        "target_modules": [leaf.split(".")[-1] for leaf in shapes],
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))

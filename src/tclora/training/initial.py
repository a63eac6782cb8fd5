"""Starts of training that are more than random numbers: taken from the base's weights, or from the data.

In: a base wrapped by PEFT. PiSSA and OLoRA take factors `lora_b0 @ lora_a0` out of each weight and train them; PEFT
subtracts them from the base. Here the base gets its own weights back at once, to the bit, and a second, frozen adapter
holds `-lora_b0 @ lora_a0`: the forward pass is the same, in any dtype without a rounded residual, and the trained
delta against the untouched base is `lora_b @ lora_a - lora_b0 @ lora_a0`, a LoRA of twice the rank. EVA takes `lora_a`
from the inputs of each module. Refused: modules for which a start has no rule, and data too few for EVA.

Source: PiSSA, Meng et al. 2024, arXiv 2404.02948 (appendix on conversion to LoRA); OLoRA, Büyükakyüz 2024, arXiv
2406.01775; EVA, Paischer et al. 2024, arXiv 2410.07170; MiCA, arXiv 2604.01694; the layers are PEFT's.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tclora.config import TrainConfig
from tclora.errors import ConfigError, DataError, NumericalError
from tclora.models import Base, Tokens, collate
from tclora.training.variants import pattern_value

__all__ = ["OFFSET", "check_start", "eva_start", "hold_back_start"]

OFFSET = "start"
"""PEFT's name for the frozen adapter that takes the start back out; it never stands in a file."""

_EVA_ROWS, _EVA_PASS_TOKENS, _EVA_PASSES = 256, 1024, 400


def check_start(base: Base, params: TrainConfig, layers: dict[str, Any]) -> None:
    """Refuse an initialization that has no rule for one of the modules to be adapted (path to module).

    Raises:
        ConfigError: names the module and the reason.
    """
    start = params.init_lora_weights
    if not isinstance(start, str) or start == "gaussian":
        return
    for path, module in layers.items():
        r = pattern_value(params.rank_pattern, path, params.r)
        reason = _no_rule(base, start, module, r)
        if reason is not None:
            raise ConfigError(
                f"init_lora_weights: {start} cannot start this module",
                where=f"train.init_lora_weights, {path} ({type(module).__name__})",
                found=reason,
                expected="a module, a rank and a base that the initialization is defined for",
                do="leave the module out of target_modules, or choose init_lora_weights: true or gaussian",
            )


def hold_back_start(peft: Any, wrapped: Any, config: Any, params: TrainConfig) -> None:
    """Give every LoRA layer its start from the base's weights, and add the frozen adapter that takes it back out."""
    layers = _lora_layers(wrapped)
    start = {name: value for name, value in config.to_dict().items() if name in _OFFSET_FIELDS}
    wrapped.add_adapter(OFFSET, peft.LoraConfig(**start, lora_dropout=0.0, bias="none"))
    with torch.no_grad():
        for layer in layers.values():
            weight = layer.get_base_layer().weight
            own = weight.data
            weight.data = own.clone()  # one module at a time: OLoRA subtracts in place
            _draw(layer, params)
            weight.data = own
            for factor, sign in (("lora_A", 1), ("lora_B", -1)):
                drawn = getattr(layer, factor)["default"].weight
                getattr(layer, factor)[OFFSET].weight.copy_(sign * drawn)
    wrapped.base_model.set_adapter(["default", OFFSET])
    for name, weight in wrapped.named_parameters():
        weight.requires_grad_(".default." in name)


def eva_start(peft: Any, wrapped: Any, rows: Sequence[Tokens], *, seed: int, max_rank: int) -> None:
    """Set `lora_a` of every layer to the leading directions of its inputs on the training rows.

    Up to 256 rows, prompt and response tokens alike. Every module keeps its rank (`rho` 1): ranks that differ by
    cluster would help no merge.

    Raises:
        DataError: the rows have fewer tokens than a rank.
        NumericalError: the directions do not settle.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(rows))[:_EVA_ROWS]
    batches = _eva_batches([rows[index] for index in order], max_rank, next(wrapped.parameters()).device)
    # PEFT prints what it skips.
    with contextlib.redirect_stdout(io.StringIO()):
        peft.initialize_lora_eva_weights(
            wrapped, batches, forward_fn=_counted_forward(), show_progress_bar=False, gather_distributed_inputs=False
        )


_OFFSET_FIELDS = frozenset(
    {
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "fan_in_fan_out",
    }
)


def _no_rule(base: Base, start: str, module: Any, r: int) -> str | None:
    if isinstance(module, torch.nn.Embedding) and start != "mica":
        return "it is an embedding, and this start is defined for linear layers"
    if start == "orthogonal" and r % 2:
        return f"rank {r} is odd, and the rows are drawn in pairs"
    if start in ("orthogonal", "eva"):
        return None
    if base.quantized:
        return "the base is quantized, and this start needs a decomposition of its weights"
    if r > min(module.weight.shape):
        return f"rank {r} is larger than the weight {tuple(module.weight.shape)}"
    # PEFT decomposes Conv1D's (d_in, d_out) storage as if it were (d_out, d_in).
    transposed = type(module).__name__ == "Conv1D" and start == "olora"
    return "the weight is stored transposed, which OLoRA in PEFT does not know" if transposed else None


def _draw(layer: Any, params: TrainConfig) -> None:
    start = str(params.init_lora_weights)
    if start == "olora":
        layer.olora_init("default")
    else:
        layer.pissa_init("default", start)


def _lora_layers(wrapped: Any) -> dict[str, Any]:
    return {name: module for name, module in wrapped.named_modules() if hasattr(module, "lora_A")}


def _eva_batches(rows: Sequence[Tokens], max_rank: int, device: torch.device) -> list[dict[str, Tensor]]:
    n_tokens = sum(len(row.ids) for row in rows)
    if n_tokens < max_rank:
        raise DataError(
            "init_lora_weights: eva needs more data",
            where="train.init_lora_weights",
            found=f"{n_tokens} tokens in {len(rows)} rows",
            expected=f"at least {max_rank}, the largest rank",
            do="lower the rank, ask for fewer clusters, or choose another initialization",
        )
    groups: list[list[Tokens]] = [[]]
    for row in rows:
        if sum(len(one.ids) for one in groups[-1]) >= max(_EVA_PASS_TOKENS, max_rank):
            groups.append([])
        groups[-1].append(row)
    # A last group with fewer tokens than components would be left out by PEFT without a word.
    if len(groups) > 1 and sum(len(one.ids) for one in groups[-1]) < max_rank:
        groups[-2] += groups.pop()
    return [_eva_batch(group, device) for group in groups]


def _eva_batch(rows: Sequence[Tokens], device: torch.device) -> dict[str, Tensor]:
    ids = collate(rows, device=device).ids
    lengths = torch.tensor([len(row.ids) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()}


def _counted_forward() -> Callable[[Any, dict[str, Tensor]], Any]:
    """PEFT goes round the data until all directions stand still, which data of too low a rank never do."""
    done = 0

    def forward(model: Any, inputs: dict[str, Tensor]) -> Any:
        nonlocal done
        done += 1
        if done > _EVA_PASSES:
            raise NumericalError(
                "the directions of init_lora_weights: eva do not settle",
                where="train.init_lora_weights",
                found=f"{_EVA_PASSES} passes over the data",
                expected="inputs of each module that span at least its rank",
                do="lower the rank, or choose another initialization",
            )
        return model(**inputs, use_cache=False)

    return forward

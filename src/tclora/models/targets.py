"""Which modules of a base model LoRA goes on.

In: a model and a setting (`attention`, `all-linear`, names, or a regular expression). Out: the shortest dotted endings
that match those modules and no others, as PEFT's `target_modules` reads them. Refused: what matches nothing.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tclora.errors import ConfigError

__all__ = ["attention_targets", "resolve_targets"]

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def attention_targets(base_model: Any) -> tuple[str, ...]:
    """The attention projections of the architecture, in the order of the forward pass.

    `("q_proj", "k_proj", "v_proj", "o_proj")` for Llama, `("c_attn", "attn.c_proj")` for GPT-2: an ending is as long as
    it must be to leave other modules out.

    Raises:
        ConfigError: no linear module lies inside an attention module.
    """
    return _endings(base_model, lambda path: any(_ATTENTION.search(part) for part in path.split(".")[:-1]), "attention")


def resolve_targets(base_model: Any, targets: tuple[str, ...] | str) -> tuple[str, ...] | str:
    """What `target_modules` of the settings means for this model.

    Returns:
        dotted endings, sorted where the user gave names; a regular expression as it was given.

    Raises:
        ConfigError: a name, or the expression, matches no linear or embedding module.
    """
    if targets == "attention":
        return attention_targets(base_model)
    if targets == "all-linear":
        head = base_model.get_output_embeddings()
        return _endings(base_model, lambda path: base_model.get_submodule(path) is not head, "all-linear")
    paths = _linear_paths(base_model, embeddings=True)
    if isinstance(targets, str):
        if not any(_fullmatch(targets, path) for path in paths):
            raise _no_match(targets, paths)
        return targets
    for name in targets:
        if not any(_ends(path, name) for path in paths):
            raise _no_match(name, paths)
    return tuple(sorted(set(targets)))


def _endings(model: Any, wanted: Callable[[str], bool], setting: str) -> tuple[str, ...]:
    paths = _linear_paths(model, embeddings=False)
    chosen = [path for path in paths if wanted(path)]
    others = [path for path, _ in model.named_modules() if path not in set(chosen)]
    if not chosen:
        raise _no_match(setting, paths)
    return tuple(dict.fromkeys(_shortest_ending(path, others) for path in chosen))


def _shortest_ending(path: str, others: Sequence[str]) -> str:
    parts = path.split(".")
    endings = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
    return next(ending for ending in endings if not any(_ends(other, ending) for other in others))


def _linear_paths(model: Any, *, embeddings: bool) -> list[str]:
    kinds = (torch.nn.Linear, torch.nn.Embedding) if embeddings else torch.nn.Linear
    named = model.named_modules()
    return [path for path, module in named if isinstance(module, kinds) or type(module).__name__ == "Conv1D"]


def _ends(path: str, ending: str) -> bool:
    return path == ending or path.endswith("." + ending)


def _fullmatch(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error as error:
        raise ConfigError(
            "target_modules is no regular expression",
            where="train.target_modules",
            found=f"{pattern}: {error}",
            expected="attention, all-linear, a list of names, or a regular expression",
            do="correct it",
        ) from None


def _no_match(name: str, paths: Sequence[str]) -> ConfigError:
    leaves = sorted({path.rsplit(".", 1)[-1] for path in paths})
    near = difflib.get_close_matches(name, leaves, n=3, cutoff=0.5)
    return ConfigError(
        "target_modules matches no module of the base model",
        where="train.target_modules",
        found=name,
        expected="names among " + (", ".join(leaves) or "none: the model has no linear module"),
        do=f"did you mean {' or '.join(near)}?" if near else "choose among the names above",
    )

"""The factor between `lora_b @ lora_a` as stored and the delta it stands for.

In: a config and the shapes of the stored tensors. Out: one number per module, `alpha / r`, or `alpha / sqrt(r)` with
rsLoRA, where r and alpha come from `rank_pattern` and `alpha_pattern`: the first key that matches the module path by
`(.*\\.)?(KEY)$` wins, each table by itself. Refused: a rank that is not the tensor's, and patterns that cannot be
matched in bounded time. Source: rsLoRA, arXiv 2312.03732; PEFT's `LoraModel._create_and_replace`.
"""

import math
from collections.abc import Mapping

from tclora.adapters.config import LoraConfig
from tclora.adapters.keys import ModuleKeys
from tclora.adapters.patterns import PatternTable, UnsupportedPatternError
from tclora.errors import AdapterError

__all__ = ["module_scales", "other_ranks", "scale_rule"]


def module_scales(config: LoraConfig, modules: Mapping[str, ModuleKeys], *, where: object) -> dict[str, float]:
    """The factor of each module, by path.

    Raises:
        AdapterError: the config's rank of a module is not that of its tensors, or a pattern cannot be used.
    """
    try:
        ranks = PatternTable.of(config.rank_pattern)
        alphas = PatternTable.of(config.alpha_pattern)
        return {path: _scale(config, path, keys, ranks, alphas, where) for path, keys in modules.items()}
    except UnsupportedPatternError as error:
        raise AdapterError(
            "a rank_pattern or alpha_pattern cannot be used",
            where=where,
            found=str(error),
            expected="module names, or simple regular expressions that match in bounded time",
            do="write the module names out in the config",
        ) from None


def other_ranks(config: LoraConfig, modules: Mapping[str, ModuleKeys]) -> list[str]:
    """The modules whose tensors are not of the rank that the config states for them, each in words.

    Raises:
        UnsupportedPatternError: a pattern cannot be matched in bounded time.
    """
    ranks = PatternTable.of(config.rank_pattern)
    stated = ((path, keys.shape.r, _rank(config, path, ranks)) for path, keys in modules.items())
    return [f"{path}: {r} for {expected}" for path, r, expected in stated if r != expected]


def _rank(config: LoraConfig, path: str, ranks: PatternTable) -> int:
    key = ranks.key_for(path)
    return config.r if key is None else config.rank_pattern[key]


def scale_rule(config: LoraConfig) -> str:
    """The rule in words, for people."""
    patterns = [name for name in ("rank_pattern", "alpha_pattern") if getattr(config, name)]
    formula = "alpha / sqrt(r)" if config.use_rslora else "alpha / r"
    exceptions = f", except by {' and '.join(patterns)}" if patterns else ""
    return f"{formula} with alpha {config.alpha:g}, r {config.r}{exceptions}"


def _scale(
    config: LoraConfig, path: str, keys: ModuleKeys, ranks: PatternTable, alphas: PatternTable, where: object
) -> float:
    rank_key, alpha_key = ranks.key_for(path), alphas.key_for(path)
    r = _rank(config, path, ranks)
    alpha = config.alpha if alpha_key is None else config.alpha_pattern[alpha_key]
    if r != keys.shape.r:
        raise AdapterError(
            f"the rank of {path} is not that of the config",
            where=where,
            found=f"{keys.lora_a} of rank {keys.shape.r}",
            expected=f"rank {r}, from " + ("r" if rank_key is None else f"rank_pattern[{rank_key[:200]!r}]"),
            do="the config belongs to other tensors; find the one saved with these",
        )
    return alpha / (math.sqrt(r) if config.use_rslora else r)

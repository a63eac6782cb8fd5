"""What vLLM refuses or ignores when it loads an adapter.

Source: the main branch as stored in October 2026: `vllm/lora/peft_helper.py` (`validate_legal`), `vllm/lora/utils.py`
(`parse_fine_tuned_lora_name`), `vllm/lora/lora_model.py` (`from_lora_tensors`), `vllm/config/lora.py` (`MaxLoRARanks`,
16 by default). The largest rank of a module may be any number up to `--max-lora-rank`. rsLoRA is honored (pull request
6909), a `target_modules` pattern is not looked at, frozen copies of `embed_tokens` and `lm_head` are skipped. The
newest sources honor `rank_pattern` and `alpha_pattern` (`get_rank_and_scaling`); released versions before them scale
every module by the adapter-wide alpha and r. Not known without the running server: whether the architecture takes a
LoRA at all, and which of its modules.
"""

import math
import re
from collections.abc import Iterable

from tclora.adapters.serving.facts import ServingFacts
from tclora.adapters.serving.findings import Finding, some
from tclora.adapters.serving.servers import SERVERS, RankLimit, over_rank

__all__ = ["VLLM_RANKS", "vllm_rules"]

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_REFUSED_FIELDS = {
    "use_dora": "DoRA",
    "lora_bias": "a bias on lora_B",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QA-LoRA",
}
_NOT_LORA = "merge the adapter into the base model and serve that, or train it again as a plain LoRA"
_CLASSIFIERS = ("classifier", "score")
_PARSED = re.compile(r".+\.(?:lora_[AB]\.weight|lora_embedding_[AB])|.*\.(?:embed_tokens|lm_head)\.base_layer\.weight")


@SERVERS.register(
    "vllm",
    source="vLLM main of October 2026: vllm/lora/{peft_helper,utils,lora_model}.py, vllm/config/lora.py",
    limit=RankLimit("--max-lora-rank", default=16, allowed=VLLM_RANKS),
)
def vllm_rules(facts: ServingFacts, max_rank: int | None) -> Iterable[Finding]:
    """vLLM: ranks, features it does not have, tensors it cannot name, patterns that released versions ignore."""
    return [
        *over_rank(facts, "vllm", max_rank),
        *_features(facts),
        *_unnamed(facts),
        *_missing_fields(facts),
        *_scales(facts),
    ]


def _features(facts: ServingFacts) -> Iterable[Finding]:
    fields = [f"{name} ({words})" for name, words in _REFUSED_FIELDS.items() if facts.is_set(name)]
    if facts.raw.get("bias", "none") not in ("none", None):
        fields.append(f"bias ({str(facts.raw['bias'])[:20]})")
    fields += [f"modules_to_save ({name[:60]})" for name in facts.listed("modules_to_save") if name not in _CLASSIFIERS]
    if facts.base_changing_init:
        fields.append(f"init_lora_weights ({facts.base_changing_init})")
    if fields:
        yield Finding(
            "refuse",
            "the config asks for what vLLM does not have",
            found=some(fields),
            expected="a plain LoRA",
            do=_NOT_LORA,
            fixable=False,
        )


def _unnamed(facts: ServingFacts) -> Iterable[Finding]:
    strange = [name for name in facts.names if not _PARSED.fullmatch(name)]
    if strange:
        finding = Finding(
            "refuse",
            "tensors that vLLM cannot place ('unsupported LoRA weight')",
            found=some(strange),
            expected="names that end in lora_A.weight, lora_B.weight, lora_embedding_A or lora_embedding_B",
        )
        yield finding if facts.rewritable(strange) else finding.beyond_a_copy(_NOT_LORA)


def _missing_fields(facts: ServingFacts) -> Iterable[Finding]:
    missing = [name for name in ("r", "lora_alpha", "target_modules") if name not in facts.raw]
    if missing:
        yield Finding("refuse", "fields are missing from the config", found=some(missing), expected="all three present")


def _scales(facts: ServingFacts) -> Iterable[Finding]:
    if facts.config is None:
        return
    r, alpha = facts.config.r, facts.config.alpha
    whole = alpha / (math.sqrt(r) if facts.config.use_rslora else r)
    if wrong := facts.misscaled(dict.fromkeys(facts.scales, whole)):
        yield Finding(
            "ignore",
            "released versions scale every module by the adapter-wide alpha and r",
            found=f"a factor of {wrong}",
            expected="one factor for all modules",
        )

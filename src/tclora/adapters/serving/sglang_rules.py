"""What SGLang refuses or ignores when it loads an adapter.

Source: the main branch as stored in October 2026: `python/sglang/srt/lora/lora_manager.py` (`validate_new_adapter`),
`lora_config.py`, `lora.py` (`scaling = alpha / r`; `normalize_qkv_proj`), `mem_pool.py` (`can_support`; buffers of the
config's rank), `utils.py` (`get_normalized_target_modules` and the modules that its memory pool knows). rsLoRA is not
looked at: issue 40835. A missing `v_proj` beside `q_proj` raises KeyError: pull request 28199. The newest sources
refuse `rank_pattern` and `alpha_pattern`; older ones ignored the alphas and failed on the shapes of other ranks.
Not known without the running server: `--lora-target-modules`, by default those of the adapters it starts with.
"""

from collections.abc import Iterable

from tclora.adapters.serving.facts import ServingFacts
from tclora.adapters.serving.findings import Finding, some
from tclora.adapters.serving.servers import SERVERS, RankLimit, over_rank
from tclora.adapters.targets import leaf_of

__all__ = ["SGLANG_LEAVES", "sglang_rules"]

_LEAVES = (
    "q_proj k_proj v_proj qkv_proj qkvr o_proj out_proj wo_ud gate_proj up_proj gate_up_proj down_proj "
    "embed_tokens vocab_emb embeddings word_embeddings lm_head output unembed_tokens "
    "q_a_proj q_b_proj kv_b_proj kv_a_proj_with_mqa fused_qkv_a_proj_with_mqa wq_b wk weights_proj "
    "in_proj in_proj_q in_proj_k in_proj_v in_proj_z in_proj_qkv in_proj_qkvz fc1_latent_proj fc2_latent_proj"
)
SGLANG_LEAVES = frozenset(_LEAVES.split())
_SHORTHANDS = ("all", "all-linear")
_LATENT = {"q_a_proj", "kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa"}
_NO_PLACE = "merge the adapter into the base model and serve that"


@SERVERS.register(
    "sglang",
    source="SGLang main of October 2026: python/sglang/srt/lora/{lora_manager,lora_config,lora,mem_pool,utils}.py",
    limit=RankLimit("--max-lora-rank"),
)
def sglang_rules(facts: ServingFacts, max_rank: int | None) -> Iterable[Finding]:
    """SGLang: ranks, modules without a buffer, patterns, targets given as an expression, rsLoRA."""
    return [
        *over_rank(facts, "sglang", max_rank),
        *_features(facts),
        *_targets(facts),
        *_stacked(facts),
        *_patterns(facts),
        *_ignored(facts),
    ]


def _features(facts: ServingFacts) -> Iterable[Finding]:
    found = ["use_dora"] if facts.is_set("use_dora") else []
    # A bias has no buffer of its own: whatever is not lora_A is taken for lora_B.
    found += [name for name in facts.loose_names if name.endswith(".bias")]
    if found:
        yield Finding(
            "refuse",
            "SGLang has no DoRA and no place for biases",
            found=some(found),
            expected="a plain LoRA",
            do=_NO_PLACE,
            fixable=False,
        )


def _targets(facts: ServingFacts) -> Iterable[Finding]:
    targets = facts.raw.get("target_modules")
    if not isinstance(targets, list) and targets not in _SHORTHANDS:
        yield Finding(
            "refuse",
            "target_modules is neither a list nor 'all-linear'",
            found=repr(targets)[:200],
            expected="a list of module names",
        )
    named = {leaf_of(name) for name in facts.listed("target_modules")} if isinstance(targets, list) else set()
    held, stated = facts.leaves - SGLANG_LEAVES, named - facts.leaves - SGLANG_LEAVES
    what, expected = "SGLang has no buffer for modules of these names", "names such as q_proj, gate_proj, down_proj"
    if held:
        yield Finding("refuse", what, some(sorted(held)), expected, do=_NO_PLACE, fixable=False)
    if stated:
        yield Finding("refuse", f"{what}, which hold no tensors", some(sorted(stated)), expected)


def _stacked(facts: ServingFacts) -> Iterable[Finding]:
    if facts.leaves & _LATENT:
        return
    by_parent: dict[str, set[str]] = {}
    for path in facts.paths:
        by_parent.setdefault(path.rpartition(".")[0], set()).add(leaf_of(path))
    parts = ({"q_proj", "k_proj", "v_proj"} & leaves for leaves in by_parent.values())
    broken = [name for name, found in zip(by_parent, parts, strict=True) if found and not {"q_proj", "v_proj"} <= found]
    if broken:
        yield Finding(
            "refuse",
            "q_proj, k_proj and v_proj are stacked on loading, which needs q_proj and v_proj together",
            found=some(broken),
            expected="a LoRA on both, or on none of the three",
            do="train q_proj and v_proj together, or " + _NO_PLACE,
            fixable=False,
        )


def _patterns(facts: ServingFacts) -> Iterable[Finding]:
    if found := facts.overrides_in_words():
        yield Finding(
            "refuse",
            "ranks or alphas that differ between modules (older versions ignored the alphas)",
            found=found,
            expected="one rank and one alpha for all modules",
        )


def _ignored(facts: ServingFacts) -> Iterable[Finding]:
    whole = facts.config.alpha / facts.config.r if facts.config is not None else 0.0
    if wrong := facts.misscaled(dict.fromkeys(facts.scales, whole)):
        yield Finding(
            "ignore",
            "every module is scaled by the adapter-wide alpha / r, and use_rslora is not looked at",
            found=f"a factor of {wrong}",
            expected="alpha / r as the factor of all modules",
        )
    full = [name for name in facts.loose_names if name.endswith(".weight") and ".base_layer." not in name]
    if full or facts.is_set("modules_to_save"):
        yield Finding(
            "ignore",
            "fully trained modules are skipped",
            found=some(full or facts.listed("modules_to_save")),
            expected="a plain LoRA",
            do=_NO_PLACE,
            fixable=False,
        )
    if facts.base_changing_init:
        yield Finding(
            "ignore",
            "the initialization changed the base weights, and the served base is the plain one",
            found=f"init_lora_weights {facts.base_changing_init}",
            expected="an adapter against the plain base",
            do="save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            fixable=False,
        )

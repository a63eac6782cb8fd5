"""What llama.cpp refuses or ignores: its converter `convert_lora_to_gguf.py`, then its loader `src/llama-adapter.cpp`.

Source: the master branch as stored in October 2026. The converter writes one alpha per file and stops at any tensor
that is not a LoRA factor, a norm or a copy of a base weight. The loader scales each pair by alpha / r with r from the
tensor itself, so `rank_pattern` is right, `alpha_pattern` and `use_rslora` are not looked at, and an alpha of 0 counts
as not given (scale 1). Norms are skipped. LoRA on embeddings is taken; on `lm_head` only where the base has one of its
own (issue 9065). GPT-2's Conv1D weights are transposed on converting, and its LoRA factors with them although PEFT
stores those untransposed. Not known here: which names the architecture's tensor map lacks.
"""

from collections.abc import Iterable

from tclora.adapters.lora import ModuleShape
from tclora.adapters.serving.facts import ServingFacts
from tclora.adapters.serving.findings import Finding, some
from tclora.adapters.serving.servers import SERVERS
from tclora.adapters.targets import leaf_of

__all__ = ["llama_cpp_rules"]

_FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
_NORMS = ("_layernorm", ".norm")
_NOT_LORA = "train it again as a plain LoRA, or merge it into the base model and convert that"


@SERVERS.register(
    "llama.cpp",
    source="llama.cpp master of October 2026: convert_lora_to_gguf.py, src/llama-adapter.{h,cpp}",
)
def llama_cpp_rules(facts: ServingFacts, max_rank: int | None) -> Iterable[Finding]:
    """llama.cpp: tensors its converter stops at, scales it does not know, Conv1D, tied output layers."""
    return [*_stops(facts), *_norms(facts), *_conv1d(facts), *_tied_head(facts), *_scales(facts), *_base(facts)]


def _stops(facts: ServingFacts) -> Iterable[Finding]:
    stops = [name for name in facts.names if _kind(name) == "other"]
    if stops:
        finding = Finding(
            "refuse",
            "the converter stops at tensors that are not LoRA factors",
            found=some(stops),
            expected="names with lora_A.weight, lora_B.weight, lora_embedding_A or lora_embedding_B",
        )
        yield finding if facts.rewritable(stops) else finding.beyond_a_copy(_NOT_LORA)


def _norms(facts: ServingFacts) -> Iterable[Finding]:
    norms = [name for name in facts.names if _kind(name) == "norm"]
    if norms:
        yield Finding(
            "ignore",
            "trained norms are converted and then skipped on loading",
            found=some(norms),
            expected="a plain LoRA",
            do=_NOT_LORA,
            fixable=False,
        )


def _conv1d(facts: ServingFacts) -> Iterable[Finding]:
    turned = [path for path, keys in facts.modules.items() if _is_conv1d(path, keys.shape, facts)]
    if turned:
        yield Finding(
            "refuse",
            "the LoRA of GPT-2's Conv1D layers is transposed on converting and then fits no tensor of the base",
            found=some(turned),
            expected="linear layers",
            do="merge the adapter into the base model and convert that",
            fixable=False,
        )


def _tied_head(facts: ServingFacts) -> Iterable[Finding]:
    heads = [path for path in facts.paths if leaf_of(path) == "lm_head"]
    if heads and facts.base is not None and not any(name.endswith("lm_head.weight") for name in facts.base):
        yield Finding(
            "refuse",
            "the base's output layer is tied to its embedding, so there is no tensor for a LoRA on it",
            found=some(heads),
            expected="no LoRA on lm_head",
            do="train without lm_head, or merge the adapter into the base model and convert that",
            fixable=False,
        )


def _scales(facts: ServingFacts) -> Iterable[Finding]:
    alpha = facts.config.alpha if facts.config is not None else 0.0
    # An alpha of 0 counts as not given.
    served = {path: alpha / facts.modules[path].shape.r if alpha else 1.0 for path in facts.scales}
    if wrong := facts.misscaled(served):
        yield Finding(
            "ignore",
            "every module is scaled by alpha / r with one alpha per file, and use_rslora is not looked at",
            found=f"a factor of {wrong}",
            expected="alpha / r as the factor of all modules, with one alpha other than 0",
        )


def _base(facts: ServingFacts) -> Iterable[Finding]:
    if facts.base_changing_init:
        yield Finding(
            "ignore",
            "the initialization changed the base weights, and the converted base is the plain one",
            found=f"init_lora_weights {facts.base_changing_init}",
            expected="an adapter against the plain base",
            do="save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            fixable=False,
        )
    if not facts.raw.get("base_model_name_or_path"):
        yield Finding(
            "warn",
            "the converter does not find the base model's config by itself",
            found="no base_model_name_or_path",
            expected="the base model's name in the config",
            do="give convert_lora_to_gguf.py --base FOLDER",
            fixable=False,
        )


def _kind(name: str) -> str:
    if any(part in name for part in _FACTORS):
        return "factor"
    if ".base_layer.weight" in name:
        return "copy"
    return "norm" if any(part in name for part in _NORMS) else "other"


def _is_conv1d(path: str, shape: ModuleShape, facts: ServingFacts) -> bool:
    leaf = leaf_of(path)
    if leaf not in ("c_attn", "c_fc", "c_proj") or (facts.base is not None and facts.base.model_type != "gpt2"):
        return False
    # Without the base: PEFT notes the layout when it trains such a layer; GPT-2's c_attn holds q, k and v of full size.
    return bool(
        facts.base is not None
        or facts.raw.get("fan_in_fan_out")
        or any(leaf_of(p) == "c_attn" and k.shape.d_out == 3 * k.shape.d_in for p, k in facts.modules.items())
    )

"""What PEFT itself refuses or ignores when it loads a folder.

Source: the `LoraConfig` of PEFT 0.5 to 0.21.2, compared field by field; `PeftConfigMixin.from_peft_type`, which drops
unknown fields with a warning from 0.14 on and raises TypeError before; `set_peft_model_state_dict` of 0.21.2, run:
tensors that `target_modules` does not cover are dropped without a word, and so are tensors whose names carry an
adapter's name other than `default`.
"""

from collections.abc import Iterable

from tclora.adapters.keys import tensor_names
from tclora.adapters.patterns import UnsupportedPatternError
from tclora.adapters.scaling import other_ranks
from tclora.adapters.serving.facts import ServingFacts
from tclora.adapters.serving.findings import Finding, some
from tclora.adapters.serving.servers import SERVERS
from tclora.adapters.targets import absent_targets, untargeted_paths

__all__ = ["FIRST_VERSION", "peft_rules"]

_FIRST_06 = (
    "peft_type auto_mapping base_model_name_or_path revision task_type inference_mode r target_modules lora_alpha "
    "lora_dropout fan_in_fan_out bias modules_to_save init_lora_weights layers_to_transform layers_pattern "
    "rank_pattern alpha_pattern"
)
_LATER = {
    "0.7": "loftq_config megatron_config megatron_core",
    "0.8": "use_rslora",
    "0.9": "use_dora",
    "0.10": "layer_replication",
    "0.12": "runtime_config",
    "0.14": "eva_config exclude_modules lora_bias",
    "0.15": "corda_config trainable_token_indices",
    "0.16": "qalora_group_size use_qalora",
    "0.17": "target_parameters",
    "0.18": "alora_invocation_tokens arrow_config ensure_weight_tying peft_version",
    "0.19": "lora_ga_config use_bdlora",
    "0.20": "monteclora_config velora_config",
    "0.21": "kasa_config",
}
FIRST_VERSION = {field: "0.6" for field in _FIRST_06.split()} | {
    field: version for version, fields in _LATER.items() for field in fields.split()
}
_NEVER = "not in 0.21"


@SERVERS.register("peft", source="PEFT 0.5 to 0.21.2: peft/config.py, peft/utils/save_and_load.py")
def peft_rules(facts: ServingFacts, max_rank: int | None) -> Iterable[Finding]:
    """PEFT: tensors of other ranks, dropped tensors, targets without tensors, fields that are new."""
    return [*_other_ranks(facts), *_dropped(facts), *_renamed(facts), *_absent(facts), *_newer_fields(facts)]


def _other_ranks(facts: ServingFacts) -> Iterable[Finding]:
    try:
        other = other_ranks(facts.config, facts.modules) if facts.config else []
    except UnsupportedPatternError:
        return
    if other:
        yield Finding(
            "refuse",
            "tensors are not of the rank that the config states, and do not fit the ones PEFT makes for them",
            found=some(other),
            expected="the config that was saved with these tensors",
            fixable=False,
        )


def _dropped(facts: ServingFacts) -> Iterable[Finding]:
    try:
        dropped = untargeted_paths(facts.config.target_modules, facts.paths) if facts.config else []
    except UnsupportedPatternError:
        return
    if dropped:
        yield Finding(
            "ignore",
            "tensors that target_modules does not cover are dropped on loading",
            found=some(dropped),
            expected="every module with tensors in target_modules",
        )


def _renamed(facts: ServingFacts) -> Iterable[Finding]:
    usual = {name for path, keys in facts.modules.items() for name in tensor_names(path, keys.shape.kind)}
    stored = [name for keys in facts.modules.values() for name in (keys.lora_a, keys.lora_b)]
    renamed = [n for n in stored if n not in usual and not n.removesuffix(".weight").endswith(".default")]
    if renamed:
        yield Finding(
            "ignore",
            "tensors whose names carry an adapter's name are dropped on loading",
            found=some(renamed),
            expected="names such as base_model.model.PATH.lora_A.weight",
        )


def _absent(facts: ServingFacts) -> Iterable[Finding]:
    absent = absent_targets(facts.config.target_modules, facts.paths) if facts.config else []
    if absent and facts.modules:
        yield Finding(
            "warn",
            "targets without tensors get a LoRA of zeros, with a warning on loading",
            found=some(absent),
            expected="only modules that the file holds tensors for",
        )


def _newer_fields(facts: ServingFacts) -> Iterable[Finding]:
    newer = [(FIRST_VERSION.get(name, _NEVER), name) for name in facts.raw]
    newer = [(version, name) for version, name in newer if version != "0.6"]
    if newer:
        # The newest first: they decide which PEFT is new enough.
        ordered = sorted(newer, key=lambda pair: (-_number(pair[0]), pair[1]))
        yield Finding(
            "warn",
            "older versions of PEFT do not know fields of the config",
            found=some(f"{name[:60]} ({version})" for version, name in ordered),
            expected="fields that PEFT 0.6 knows; versions before 0.14 refuse others, later ones drop them and warn",
        )


def _number(version: str) -> int:
    return 10**6 if version == _NEVER else int(version.split(".")[1])

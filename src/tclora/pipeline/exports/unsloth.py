"""Jobs for unsloth: one script, its settings as JSON, and rendered rows.

In: an `ExportPlan` and rendered rows. Out: `train_unsloth.py` (`python train_unsloth.py NAME`), `settings.json`,
`data/NAME.{train,dev}.jsonl` with the columns prompt and response. The script cuts text into tokens and long rows to
the window exactly as `tclora train` does, and hands unsloth rows with labels, which it takes as they are. Refused:
target modules that unsloth has no LoRA for, and chat messages, since the rendered rows already hold the template.

Source: unslothai/unsloth, README.md, unsloth/models/llama.py (`from_pretrained`, `get_peft_model` and its accepted
modules) and the dataset preparation in unsloth_zoo (rows with `labels` are not prepared again), as of 2025.
"""

import json
from pathlib import Path
from typing import Any

from tclora.data import Example
from tclora.errors import ConfigError
from tclora.pipeline.exports.plan import ExportPlan, micro_batches, step_bound
from tclora.pipeline.exports.rows import Rendered

__all__ = ["UNSLOTH_MODULES", "unsloth_command", "unsloth_files", "unsloth_row"]

UNSLOTH_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def unsloth_command(name: str) -> str:
    """What trains the job `name`, in the export's folder."""
    return f"python train_unsloth.py {name}"


def unsloth_row(example: Example, row: Rendered, prompts: str, where: str) -> dict[str, Any]:
    """One line of a data file."""
    return {"prompt": row.prompt, "response": row.response}


def unsloth_files(plan: ExportPlan) -> dict[str, str]:
    """The script and its settings, by path in the export.

    Raises:
        ConfigError: a target module that unsloth refuses, or chat messages.
    """
    if plan.prompts != "rendered":
        raise ConfigError("unsloth is given rendered rows only", where="--prompts", found=plan.prompts)
    others = [name for name in plan.targets if name not in UNSLOTH_MODULES]
    if others:
        raise ConfigError(
            "unsloth has no LoRA for some target modules",
            where="train.target_modules",
            found=", ".join(others[:5]),
            expected="some of " + ", ".join(UNSLOTH_MODULES),
            do="name others, or export for axolotl or llama-factory",
        )
    script = Path(__file__).with_name("unsloth_script.txt").read_text(encoding="utf-8")
    return {
        "train_unsloth.py": script,
        "settings.json": json.dumps(_settings(plan), indent=2, ensure_ascii=False) + "\n",
    }


def _settings(plan: ExportPlan) -> dict[str, Any]:
    params = plan.train
    micro, accumulated = micro_batches(params)
    dtypes = {"auto": None, "bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}
    return {
        "model_name": plan.source,
        "revision": plan.config.base.revision,
        "trust_remote_code": plan.config.base.trust_remote_code,
        "dtype": dtypes[plan.config.base.dtype],
        "load_in_4bit": plan.four_bit,
        "max_seq_length": plan.max_length,
        "pad_token": plan.pad_token,
        "lora": {
            "r": params.r,
            "lora_alpha": params.lora_alpha,
            "lora_dropout": params.lora_dropout,
            "target_modules": list(plan.targets),
            "use_rslora": params.use_rslora,
        },
        "training": {
            "per_device_train_batch_size": micro,
            "per_device_eval_batch_size": micro,
            "gradient_accumulation_steps": accumulated,
            "num_train_epochs": params.epochs,
            "learning_rate": params.lr,
            "lr_scheduler_type": _SCHEDULES[params.schedule],
            "warmup_ratio": params.warmup_fraction,
            "weight_decay": params.weight_decay,
            "max_grad_norm": params.grad_clip,
            "seed": plan.config.seed,
        },
        "max_steps": {job.name: step_bound(params, job.n_train) for job in plan.jobs},
    }

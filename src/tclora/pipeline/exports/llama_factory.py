"""Jobs for LLaMA-Factory: one YAML for each cluster, data files, and the `dataset_info.json` that names them.

In: an `ExportPlan` and rendered rows. Out: `configs/NAME.yaml`, `data/NAME.{train,dev}.jsonl`,
`data/dataset_info.json`. Rendered rows have the columns prompt and response and go with the template `empty`, which
adds no token. Messages are in the OpenAI form of `sharegpt`, with the tokenizer's own template (none named) or the
one that is named, and `mask_history` puts the loss on the last answer alone.

Source of the keys: hiyouga/LLaMA-Factory, data/README.md, examples/train_lora/qwen3_lora_sft.yaml,
src/llamafactory/hparams/{model,data,finetuning}_args.py and src/llamafactory/data/{template,converter}.py, as of
release 0.9.3 and later.
"""

import json
from typing import Any

from tclora.data import Example
from tclora.errors import ConfigError
from tclora.pipeline.exports.plan import ExportPlan, JobFacts, flat_yaml, micro_batches, step_bound, whole_alpha
from tclora.pipeline.exports.rows import Rendered, as_messages

__all__ = ["llama_factory_command", "llama_factory_files", "llama_factory_row"]

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
_OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def llama_factory_command(name: str) -> str:
    """What trains the job `name`, in the export's folder."""
    return f"llamafactory-cli train configs/{name}.yaml"


def llama_factory_row(example: Example, row: Rendered, prompts: str, where: str) -> dict[str, Any]:
    """One line of a data file."""
    if prompts == "messages":
        return {"messages": as_messages(example, where=where)}
    return {"prompt": row.prompt, "response": row.response}


def llama_factory_files(plan: ExportPlan) -> dict[str, str]:
    """The text of every config and of `dataset_info.json`, by its path in the export."""
    files = {f"configs/{job.name}.yaml": flat_yaml(_settings(plan, job), title=_title(job)) for job in plan.jobs}
    info = {name: entry for job in plan.jobs for name, entry in _datasets(plan, job).items()}
    return files | {"data/dataset_info.json": json.dumps(info, indent=2, ensure_ascii=False) + "\n"}


def _title(job: JobFacts) -> str:
    return f"{job.name}: {job.n_train} examples. Run in the folder above: {llama_factory_command(job.name)}"


def _datasets(plan: ExportPlan, job: JobFacts) -> dict[str, dict[str, Any]]:
    if plan.prompts == "rendered":
        form: dict[str, Any] = {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "response"}}
    else:
        form = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": _OPENAI_TAGS}
    entries = {job.name: {"file_name": f"{job.name}.train.jsonl", **form}}
    if job.n_dev:
        entries[f"{job.name}-dev"] = {"file_name": f"{job.name}.dev.jsonl", **form}
    return entries


def _settings(plan: ExportPlan, job: JobFacts) -> dict[str, Any]:
    params = plan.train
    micro, accumulated = micro_batches(params)
    return {
        "model_name_or_path": plan.source,
        "model_revision": plan.config.base.revision,
        "trust_remote_code": plan.config.base.trust_remote_code or None,
        "quantization_bit": 4 if plan.four_bit else None,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": params.r,
        "lora_alpha": whole_alpha(params, "LLaMA-Factory"),
        "lora_dropout": params.lora_dropout,
        "lora_target": _target_list(plan.targets),
        "use_rslora": params.use_rslora or None,
        "dataset_dir": "data",
        "dataset": job.name,
        "eval_dataset": f"{job.name}-dev" if job.n_dev else None,
        "template": "empty" if plan.prompts == "rendered" else plan.template,
        "cutoff_len": plan.max_length,
        "train_on_prompt": False,
        "mask_history": plan.prompts == "messages",
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro if job.n_dev else None,
        "gradient_accumulation_steps": accumulated,
        "num_train_epochs": params.epochs,
        "max_steps": step_bound(params, job.n_train),
        "learning_rate": params.lr,
        "lr_scheduler_type": _SCHEDULES[params.schedule],
        "warmup_ratio": params.warmup_fraction,
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.grad_clip,
        "bf16": plan.config.base.dtype in ("auto", "bfloat16"),
        "fp16": plan.config.base.dtype == "float16",
        "eval_strategy": "epoch" if job.n_dev else None,
        "logging_steps": 10,
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "report_to": "none",
        "seed": plan.config.seed,
        "output_dir": job.folder,
    }


def _target_list(targets: tuple[str, ...]) -> str:
    for name in targets:
        if "," in name:
            raise ConfigError(
                "LLaMA-Factory takes module names apart at commas", where="train.target_modules", found=name
            )
    return ",".join(targets)

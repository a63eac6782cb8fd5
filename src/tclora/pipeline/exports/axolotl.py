"""Jobs for axolotl: one YAML and two data files for each cluster.

In: an `ExportPlan` and rendered rows. Out: `configs/NAME.yaml` and `data/NAME.{train,dev}.jsonl`. Rendered rows are of
type `input_output`: segments of finished text, each with or without loss, to which axolotl adds no token. Messages are
of type `chat_template`, with the loss on the last answer alone by `message_field_training`.

Source of the keys: axolotl-ai-cloud/axolotl, src/axolotl/utils/schemas/{config,datasets,model,peft,training}.py and
src/axolotl/prompt_strategies/input_output.py, as of release 0.8 to 0.13.
"""

from typing import Any

from tclora.data import Example
from tclora.pipeline.exports.plan import ExportPlan, JobFacts, flat_yaml, micro_batches, step_bound, whole_alpha
from tclora.pipeline.exports.rows import Rendered, as_messages

__all__ = ["axolotl_command", "axolotl_files", "axolotl_row"]

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def axolotl_command(name: str) -> str:
    """What trains the job `name`, in the export's folder."""
    return f"axolotl train configs/{name}.yaml"


def axolotl_row(example: Example, row: Rendered, prompts: str, where: str) -> dict[str, Any]:
    """One line of a data file."""
    if prompts == "messages":
        messages = as_messages(example, where=where)
        last = len(messages) - 1
        return {"messages": [{**message, "train": index == last} for index, message in enumerate(messages)]}
    return {"segments": [{"label": False, "text": row.prompt}, {"label": True, "text": row.response}]}


def axolotl_files(plan: ExportPlan) -> dict[str, str]:
    """The text of every config, by its path in the export."""
    return {f"configs/{job.name}.yaml": flat_yaml(_settings(plan, job), title=_title(job)) for job in plan.jobs}


def _title(job: JobFacts) -> str:
    return f"{job.name}: {job.n_train} examples. Run in the folder above: {axolotl_command(job.name)}"


def _settings(plan: ExportPlan, job: JobFacts) -> dict[str, Any]:
    params = plan.train
    micro, accumulated = micro_batches(params)
    return {
        "base_model": plan.source,
        "revision_of_model": plan.config.base.revision,
        "trust_remote_code": plan.config.base.trust_remote_code or None,
        "load_in_4bit": plan.four_bit or None,
        "special_tokens": {"pad_token": plan.pad_token} if plan.pad_token else None,
        "datasets": [_dataset(plan, f"data/{job.name}.train.jsonl")],
        "test_datasets": [_dataset(plan, f"data/{job.name}.dev.jsonl") | {"split": "train"}] if job.n_dev else None,
        "val_set_size": 0.0,
        "dataset_prepared_path": f"prepared/{job.name}",
        "train_on_inputs": False,
        "sequence_len": plan.max_length,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "adapter": "qlora" if plan.four_bit else "lora",
        "lora_r": params.r,
        "lora_alpha": whole_alpha(params, "axolotl"),
        "lora_dropout": params.lora_dropout,
        "lora_target_modules": list(plan.targets),
        "peft_use_rslora": params.use_rslora or None,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": accumulated,
        "num_epochs": params.epochs,
        "max_steps": step_bound(params, job.n_train),
        "optimizer": "adamw_torch",
        "learning_rate": params.lr,
        "lr_scheduler": _SCHEDULES[params.schedule],
        "warmup_ratio": params.warmup_fraction,
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.grad_clip,
        "gradient_checkpointing": True,
        "logging_steps": 10,
        "evals_per_epoch": 1 if job.n_dev else None,
        "saves_per_epoch": 1,
        "save_total_limit": 1,
        "auto_resume_from_checkpoints": True,
        "seed": plan.config.seed,
        "output_dir": job.folder,
    } | _precision(plan)


def _dataset(plan: ExportPlan, path: str) -> dict[str, Any]:
    if plan.prompts == "rendered":
        return {"path": path, "ds_type": "json", "type": "input_output"}
    return {
        "path": path,
        "ds_type": "json",
        "type": "chat_template",
        "chat_template": plan.template or "tokenizer_default",
        "field_messages": "messages",
        "message_field_training": "train",
        "roles_to_train": [],
        "train_on_eos": "turn",
    }


def _precision(plan: ExportPlan) -> dict[str, Any]:
    dtype = plan.config.base.dtype
    if dtype == "auto":
        return {"bf16": "auto"}
    return {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}

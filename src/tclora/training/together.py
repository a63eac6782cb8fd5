"""A library of adapters from one copy of the base: the entry to grouped training.

In: `TrainJob`s. Out: the folders and records that `train_adapter` makes, each written as its adapter is done. Jobs of
one base and precision are trained together, up to `max_together` at a time; what cannot be grouped is trained one
after another through PEFT's layers, and its record says why. The same call finishes a killed one. Refused: two jobs
with one output, data without a response that fits (before anything is trained), and `trainer: grouped` where it
cannot be had.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tclora.artifacts import digest_of, folder_lock
from tclora.errors import ConfigError, TcLoraError
from tclora.models import Base
from tclora.records import TrainRecord
from tclora.training.data import JobData, mean_loss, read_data
from tclora.training.group import Group, run_group
from tclora.training.job import TrainJob, job_digest
from tclora.training.member import Member
from tclora.training.output import Outcome, finished_record, record_of, remove_partials, work_folder, write_output
from tclora.training.recompute import recomputing
from tclora.training.shared_base import SharedBase, layout_of
from tclora.training.start import Start, peft_start
from tclora.training.train import cached_base, train_alone

__all__ = ["train_together"]

OnStep = Callable[[str, int, int], None]


def train_together(
    jobs: Sequence[TrainJob], *, base: Base | None = None, on_step: OnStep | None = None
) -> tuple[TrainRecord, ...]:
    """Train one LoRA for each job on one frozen base, several in one forward pass.

    An adapter gets the updates it would get alone: its own batches, learning rates, clipping, AdamW and dropout
    masks. Alone and together differ by float rounding only, since a matrix product with more rows may add in another
    order. The same call on the same jobs gives the same bytes on the CPU, killed and resumed or not. Finished adapters
    are not trained again.

    Args:
        base: the base that all jobs describe, where it is loaded already; it is left as it was.
        on_step: called with (name of the job, steps done, steps in all) after every step of every adapter.

    Returns:
        the records in the order of the jobs.

    Raises:
        ConfigError: two jobs have one output, the base cannot be loaded, `target_modules` matches nothing, or
            `trainer: grouped` or `patience` is asked for where adapters cannot be grouped.
        OutputExistsError: an output exists and is not its job's finished adapter.
        DataError: the data of a job cannot be read, or no response fits.
        NumericalError: the loss of a job is not finite; raised when all others are finished.
        ArtifactError: another process is training one of the jobs.

    Source: Hu et al. 2021, arXiv 2106.09685; several adapters in one pass as in Ye et al. 2023, arXiv 2312.02515.
    """
    _check_outputs(jobs)
    records: dict[str, TrainRecord] = {}
    errors: list[TcLoraError] = []
    for some in _slices(jobs):
        found, failed = _Slice(some, base, on_step).train()
        records |= found
        errors += failed
    if errors:
        raise errors[0]
    return tuple(records[job.out] for job in jobs)


def _check_outputs(jobs: Sequence[TrainJob]) -> None:
    outs = [str(Path(job.out)) for job in jobs]
    for job, out in zip(jobs, outs, strict=True):
        if outs.count(out) > 1:
            raise ConfigError(
                "two trainings have one output",
                where=job.name,
                found=f"{outs.count(out)} jobs that write {out}",
                expected="an output of its own for each job",
                do="give each job another `out`",
            )


def _slices(jobs: Sequence[TrainJob]) -> list[list[TrainJob]]:
    """Jobs that can share passes, in their order, as many as are trained at a time."""
    alike: dict[Any, list[list[TrainJob]]] = {}
    for job in jobs:
        p = job.params
        key = (job.base.model_dump_json(), p.trainer, p.autocast, p.gradient_checkpointing, p.max_pass_tokens)
        slices = alike.setdefault(key, [])
        if not slices or len(slices[-1]) >= p.max_together:
            slices.append([])
        slices[-1].append(job)
    return [some for slices in alike.values() for some in slices]


class _Slice:
    """Jobs that are trained at the same time."""

    def __init__(self, jobs: Sequence[TrainJob], base: Base | None, on_step: OnStep | None):
        self._jobs, self._given_base, self._on_step = jobs, base, on_step
        self._digests = {job.out: job_digest(job) for job in jobs}
        self._records: dict[str, TrainRecord] = {}

    def train(self) -> tuple[dict[str, TrainRecord], list[TcLoraError]]:
        """Records by output, and the errors of adapters that failed while the others went on."""
        if not self._look(self._jobs):
            return self._records, []
        with ExitStack() as locks:
            for job in [job for job in self._jobs if job.out not in self._records]:
                locks.enter_context(folder_lock(work_folder(job)))
                remove_partials(work_folder(job))
            # Another process may have finished some while this one waited to look.
            open_jobs = self._look(self._jobs)
            return self._records, self._train(open_jobs) if open_jobs else []

    def _look(self, jobs: Sequence[TrainJob]) -> list[TrainJob]:
        """Note the finished ones; returns the others."""
        for job in jobs:
            record = finished_record(Path(job.out), self._digests[job.out])
            if record is not None:
                self._note(job, record)
        return [job for job in jobs if job.out not in self._records]

    def _note(self, job: TrainJob, record: TrainRecord) -> None:
        self._records[job.out] = record
        if work_folder(job).exists():
            shutil.rmtree(work_folder(job))

    def _train(self, jobs: list[TrainJob]) -> list[TcLoraError]:
        base = self._given_base or cached_base(jobs[0].base.model_dump_json())
        data = {job.out: read_data(job, base) for job in jobs}
        starts, reasons, packed = _starts(base, jobs, data)
        grouped = [job for job in jobs if job.out not in reasons]
        errors: list[TcLoraError] = []
        if grouped:
            errors = self._train_group(base, grouped, data, starts, packed)
        for job in jobs:
            if job.out in reasons:
                self._note(job, self._train_plain(job, base, reasons[job.out]))
        return errors

    def _train_plain(self, job: TrainJob, base: Base, reason: str) -> TrainRecord:
        report = self._on_step
        step = None if report is None else lambda done, total: report(job.name, done, total)
        return train_alone(job, base, self._digests[job.out], step, notes=(reason,))

    def _train_group(
        self,
        base: Base,
        jobs: Sequence[TrainJob],
        data: dict[str, JobData],
        starts: dict[str, Start],
        packed: bool,
    ) -> list[TcLoraError]:
        members = [Member(job, self._digests[job.out], data[job.out], starts[job.out], base.device) for job in jobs]
        before = [mean_loss(base, member.data.dev, member.job) for member in members]
        shared = SharedBase(base, {index: member.modules for index, member in enumerate(members)})

        def finish(index: int) -> None:
            member = members[index]
            member.take_best()
            notes = _notes(base, member, packed)
            outcome = Outcome(member.losses, group.dev_loss(index), before[index], "grouped", notes)
            record = record_of(member.job, base, member.data, member.plan, outcome)
            weights = {name: weight.detach() for name, weight in member.weights.items()}
            write_output(member.job, base, member.digest, weights, record)
            self._note(member.job, record)

        name = digest_of(sorted(self._digests.values()))
        group = Group(shared, members, packed, name, self._on_step, finish)
        with shared.installed(), recomputing(base.model, jobs[0].params.gradient_checkpointing):
            run_group(group)
        return [member.error for member in members if member.error is not None]


def _starts(
    base: Base, jobs: Sequence[TrainJob], data: dict[str, JobData]
) -> tuple[dict[str, Start], dict[str, str], bool]:
    """PEFT's start of each job that can be grouped, the reason of each that cannot, and whether passes are packed.

    Raises:
        ConfigError: a job that cannot be grouped asks for it.
    """
    starts, reasons, packed = {}, {}, False
    for job in jobs:
        start = (
            "train.trainer is plain"
            if job.params.trainer == "plain"
            else peft_start(base, job.params, seed=job.seed, rows=data[job.out].train)
        )
        if isinstance(start, Start):
            starts[job.out] = start
        else:
            reasons[job.out] = start
    if starts:
        modules = list(dict.fromkeys(path for start in starts.values() for path in start.modules))
        longest = max(len(row.ids) for out in starts for row in data[out].train) - 1
        packed, reason = layout_of(base, modules, longest)
        if reason is not None:
            reasons |= dict.fromkeys(starts, f"this base cannot be shared: {reason}")
    for job in jobs:
        if job.out in reasons and job.params.trainer == "grouped":
            raise ConfigError(
                f"{job.name} cannot be trained in a group",
                where="train.trainer",
                found=reasons[job.out],
                expected="plain LoRA on Linear or Conv1D layers",
                do="set train.trainer to auto or plain",
            )
    return starts, reasons, packed


def _notes(base: Base, member: Member, packed: bool) -> tuple[str, ...]:
    notes = [] if packed else ["rows were padded: the attention of this base cannot be packed"]
    dropouts = (getattr(base.model.config.get_text_config(), name, 0.0) for name in _BASE_DROPOUTS)
    if any(isinstance(rate, float) and rate > 0 for rate in dropouts):
        notes.append("the base's own dropout was off; only lora_dropout was drawn")
    if member.stopped:
        notes.append(f"stopped early after {len(member.losses)} of {member.n_steps} steps")
    if member.job.params.patience is not None and not member.dev_losses:
        notes.append("without dev examples it could not stop early")
    return tuple(notes)


_BASE_DROPOUTS = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout", "resid_dropout")

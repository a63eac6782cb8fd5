"""Distilling a routed library into one adapter of low rank, from prompts alone.

In: adapters, a base, one pool of unlabelled prompts per adapter. Out: the factors of one adapter that predicts, behind
the prompts of each pool, what that pool's adapter predicts. Each adapter answers its own prompts; the loss is the
divergence KL(adapter || merge) of the next-token distributions over those answers. It starts at a merge: the regression
mean of the same prompts and answers (`regmean`) or the joint CP model (`tc_lora`), stretched to the scale of lowest
loss. `refit=terms` moves one number per term and module: still a merge, in the start's directions. `refit=factors`
moves every entry at the same rank: training without labels that begins at a merge, and should be called so. An eighth
of the prompts moves nothing; the state that is best on it is kept. Refused: one pool for several adapters, for nothing
says then which adapter is right.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from tclora.adapters import Adapter, LoraFactors
from tclora.errors import ConfigError
from tclora.merging.learning.answers import answered
from tclora.merging.learning.imitation import Count, Imitation, imitate
from tclora.merging.learning.learned import Learned, learned_from
from tclora.merging.learning.learned_cat import check_descent
from tclora.merging.learning.problem import LearningProblem, example_pools
from tclora.merging.learning.start import Start, joint_start, regression_start
from tclora.merging.learning.student import Refit, make_student
from tclora.models import Tokens

__all__ = ["DistillParams", "learn_distilled"]

# These defaults are those that held on libraries which chose nothing: docs/results/unlabelled.
_LR: dict[Refit, float] = {"terms": 0.1, "factors": 0.08}


@dataclass(frozen=True)
class DistillParams:
    """`cp_rank`: the rank of the result, as many terms. `refit`: what moves, `factors` or one number per `terms`.

    `start`: the merge it begins at, `tc_lora` or `regmean`. `count`: `pools` alike, or `prompts` alike, by every token
    of an answer; then pools should be as large as their tasks are frequent, and the start weighs adapters by them too.

    Adam takes `steps`, each on `batch_size` prompts for every pool; `lr` is relative to the size of what it moves, and
    None takes 0.08 for factors, 0.1 for terms. Answers have `max_new_tokens` at most. `factors` are learned and cannot
    be written on a command line.
    """

    cp_rank: int = 32
    refit: Refit = "factors"
    start: Start = "regmean"
    count: Count = "prompts"
    lr: float | None = None
    steps: int = 60
    batch_size: int = 3
    max_new_tokens: int = 128
    factors: Mapping[str, LoraFactors] | None = field(default=None, metadata={"recorded": False}, repr=False)

    def __post_init__(self):
        check_descent("distill", self.rate(), self.steps, self.batch_size)
        for name in ("cp_rank", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' of distill is out of range", found=getattr(self, name), expected=">= 1")
        if self.factors is not None and not isinstance(self.factors, Mapping):
            raise ConfigError(
                "'factors' of distill cannot be written by hand",
                expected="what was learned from prompts",
                do="give --base and --examples, or --learned FILE",
            )

    def rate(self) -> float:
        """`lr`, or the usual one for what is refit."""
        return _LR[self.refit] if self.lr is None else self.lr

    def holding(self, rank: int) -> "DistillParams | None":
        """What was learned is of all adapters; no setting gives one of them back."""
        return None


def learn_distilled(
    adapters: Sequence[Adapter],
    params: DistillParams,
    problem: LearningProblem,
    on_progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Let every adapter answer its prompts, then refit the merge to all of them; adapters in the order of digests.

    Raises:
        ConfigError: one pool for several adapters, or no examples.
        AdapterMismatchError: an adapter does not fit the base.
        NumericalError: a loss or a gradient is not finite.

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531 (the loss); starts: `tc_lora`, arXiv 2508.03999; `regmean`,
    arXiv 2212.09849.
    """
    if not isinstance(problem.examples, Mapping) and len(adapters) > 1:
        raise ConfigError(
            "distill must know which adapter answers which prompt",
            found=f"one pool of examples for {len(adapters)} adapters",
            expected="prompts of each adapter's own task",
            do="give examples per adapter, --examples NAME=FILE for each",
        )
    n, told = len(adapters), on_progress or _silent
    total, rows = n + params.steps, []
    for k, (adapter, pool) in enumerate(zip(adapters, example_pools(problem, adapters), strict=True)):
        seed = (problem.seed, k)
        rows.append(
            answered(problem.base, adapter, pool, max_new_tokens=params.max_new_tokens, batch_size=32, seed=seed)
        )
        told(k + 1, total)
    student = make_student(_start(adapters, params, problem, rows), params.refit, problem.base.device)
    sizes = (params.rate(), params.steps, params.batch_size)
    setting = Imitation(problem.base, adapters, rows, *sizes, problem.seed, params.count)
    before, after = imitate(setting, student, lambda done: told(n + done, total))
    settings = asdict(replace(params, factors=None))
    del settings["factors"]
    return learned_from(
        "distill", settings, problem, adapters, loss_before=before, loss_after=after, factors=student.factors()
    )


def _start(
    adapters: Sequence[Adapter], params: DistillParams, problem: LearningProblem, rows: Sequence[Sequence[Tokens]]
) -> Adapter:
    if params.start == "tc_lora":
        return joint_start(adapters, params.cp_rank)
    counts = [len(pool) if params.count == "prompts" else 1 for pool in rows]
    weights = [count / sum(counts) for count in counts]
    return regression_start(problem.base, adapters, rows, rank=params.cp_rank, weights=weights, seed=problem.seed)


def _silent(done: int, total: int) -> None:
    return

"""The stage: one base load, many contestants, one record.

In: a base, contestants, development examples, multiple-choice sets. Out: `EvalRecord`, with sample size and 95 %
interval at every figure. Every contestant gets the same prompts, and routing is by the clusters given with the items.
"""

from collections.abc import Sequence
from pathlib import Path

from tclora.config import EvaluateConfig
from tclora.evaluation.choices import chance_accuracy
from tclora.evaluation.contestants import ChoiceSet, Contestant, DevSet, check_request
from tclora.evaluation.figures import Request, contestant_record, paired_record
from tclora.evaluation.rows import LOSS, build_row_sets
from tclora.evaluation.scoring import Progress, score_contestants
from tclora.models import Base
from tclora.records import EvalRecord

__all__ = ["evaluate"]


def evaluate(  # noqa: PLR0913 (the stage's whole request; bundling it would only hide it)
    base: Base,
    contestants: Sequence[Contestant],
    dev: DevSet,
    choices: Sequence[ChoiceSet],
    config: EvaluateConfig,
    *,
    cluster_names: Sequence[str],
    cache: Path,
    seed: int = 0,
    pairs: Sequence[tuple[str, str]] = (),
    on_progress: Progress | None = None,
) -> EvalRecord:
    """Score contestants on development loss, exact match and multiple choice.

    Losses are nats per response token, weighted by tokens; exact match and choice accuracy are shares. What is
    already in `cache` is not computed again. A cluster without development examples has no entry.

    Args:
        cluster_names: names by cluster index, for the figures by cluster.
        cache: a folder for per-row results; may be shared by evaluations.
        seed: draws the bootstrap resamples, and the examples whose answers are generated.
        pairs: contestants, by name, whose losses are compared on the same development examples.
        on_progress: called with the unit of work, the units done and the units in all.

    Raises:
        ConfigError: the request cannot be scored as it stands; see `check_request`.
        AdapterError: a folder is no adapter, or does not belong to the base.
        NumericalError: a loss is not finite.
    """
    check_request(contestants, dev, choices, cluster_names, pairs)
    row_sets, asked = build_row_sets(base, dev, choices, config, seed=seed)
    scored = score_contestants(
        base, contestants, row_sets, batch_size=config.batch_size, cache=cache, on_progress=on_progress
    )
    request = Request(dev, choices, asked, cluster_names, config.n_bootstrap, seed)
    return EvalRecord(
        base=base.name,
        template=base.template.name,
        n_dev=len(dev.examples),
        n_choice={choice_set.name: len(choice_set.items) for choice_set in choices},
        contestants=tuple(
            contestant_record(c, scored.rows[c.name], request, rank=scored.ranks[c.name]) for c in contestants
        ),
        chance={choice_set.name: chance_accuracy(choice_set.items) for choice_set in choices},
        paired=tuple(
            paired_record(pair, scored.rows[pair[0]][LOSS], scored.rows[pair[1]][LOSS], request)
            for pair in (pairs if dev.examples else ())
        ),
    )

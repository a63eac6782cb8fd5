"""The page of an experiment of kind `skills`: the answer by rule, each skill alone, the joint test, its parts.

In: a `SkillsRecord` and its settings. Out: an `ExperimentPage`. No rule knows a method or a skill by name.
"""

from collections.abc import Sequence

from tclora.config.experiment_skills import CONTROLS, SkillsSettings
from tclora.records import to_json
from tclora.records.experiment import Contrast
from tclora.records.testbeds import SkillFigures, SkillsRecord
from tclora.reporting.experiment_answer import LEVEL, signed
from tclora.reporting.experiment_page import ExperimentPage, PageTable
from tclora.reporting.skills_plot import skills_picture
from tclora.reporting.wording import NONE, count, listing, percent, share

__all__ = ["skills_page"]

LEARNED = 0.6
"""The share of right answers from which a skill counts as learned by its own adapter."""
MULTI_TASK, ORACLE = "multi_task", "oracle"


def skills_page(record: SkillsRecord, settings: SkillsSettings, *, command: str) -> ExperimentPage:
    """The whole page."""
    several = len(settings.sizes) > 1
    joint = [_joint(record, settings, size, heading=several, first=not k) for k, size in enumerate(settings.sizes)]
    pairs = [_pairs(record, settings, size) for size in settings.sizes] if len(settings.pairs) > 1 else []
    return ExperimentPage(
        title=settings.title,
        question=settings.question,
        answer=_answer(record, settings),
        tables=[*joint, _alone(record, settings), *pairs],
        limits=[*settings.beside, *_limits(record, settings)],
        how=_how(record, settings),
        results=to_json(record),
        command=command,
        pictures={"joint.svg": skills_picture(record, settings.title)},
        alt={"joint.svg": "Exact match of every contestant on joint questions, with 95 % intervals"},
    )


def _answer(record: SkillsRecord, settings: SkillsSettings) -> str:
    size = next(reversed(settings.sizes))
    mine = _over_pairs(record, size)
    merges = [one for one in mine if one.contestant not in CONTROLS]
    best = max(merges, key=lambda one: (one.exact.value, one.contestant))
    n, seeds = count(best.exact.n), len(record.seeds)
    marks = {one.contestant: one.exact.value for one in mine}
    single = max(marks["content only"], marks["format only"])
    first = (
        f"On {n} questions that need two skills, over {seeds} seed{'s' if seeds > 1 else ''}"
        f"{f' at size {size}' if len(settings.sizes) > 1 else ''}, the best merge is {best.contestant} with "
        f"{share(best.exact)} right, beside {percent(marks['base'])} of the base, {percent(single)} of the better "
        f"single adapter, {percent(marks[MULTI_TASK])} of multi-task training and {percent(marks[ORACLE])} of "
        "training on the joint task."
    )
    told = [
        f"{one.contestant} less {rival} is {signed(contrast)} ({_verdict(contrast)})"
        for one in merges
        if one.contestant in settings.about
        for rival, contrast in one.less.items()
    ]
    alone = [one for one in record.alone if one.size == size]
    learned = [one for one in alone if one.exact.value >= LEARNED]
    second = (
        f"{len(learned)} of {len(alone)} skills are learned by their own adapters ({percent(LEARNED)} or more right)"
    )
    return f"{first} {f'{listing(told)}; ' if told else ''}{second}."


def _joint(record: SkillsRecord, settings: SkillsSettings, size: str, *, heading: bool, first: bool) -> PageTable:
    mine = sorted(_over_pairs(record, size), key=lambda one: (-one.exact.value, one.contestant))
    gap = [f"gap closed, {settings.gap.start} to {settings.gap.end}"] if settings.gap else []
    lesses = [f"less {rival}" for rival in settings.rivals]
    header = ["contestant", "rank", "scale", "exact match", *lesses, *gap, "content right", "format right"]
    rows = [
        [
            one.contestant,
            NONE if one.rank is None else str(one.rank),
            listing([f"{scale:g}" for scale in sorted(set(one.scales))]),
            share(one.exact),
            *(_less(one, rival) for rival in settings.rivals),
            *([share(one.gap_closed)] if settings.gap else []),
            share(one.content),
            share(one.format),
        ]
        for one in mine
    ]
    title = f"Joint questions, {size}" if heading else ""
    return PageTable(header, rows, heading=title, legend=_legend(settings) if first else ())


def _legend(settings: SkillsSettings) -> list[str]:
    gap = settings.gap
    scales = ", ".join(f"{scale:g}" for scale in settings.scales)
    return [
        "Exact match: the answer to the letter. Content right: the right answer in whatever writing; format right: the "
        "writing that was asked for, whatever the answer. In brackets 95 % bootstrap intervals that resample seeds, "
        f"then questions ({count(settings.n_bootstrap)} draws); differences are on the same questions.",
        f"Better and worse: p below {LEVEL:g}, of merges after Holm's correction over those compared with the rival.",
        f"Scale: of {scales}, for each pair and seed the one with the lowest loss on {settings.n_choose} joint dev "
        "questions; controls are as they were trained.",
        "Content only and format only: the pair's single adapters. multi_task: one adapter on the rows of both skills, "
        "as many steps as both; oracle: one adapter on joint questions, which no other has seen.",
        *([f"Gap closed: of the way in exact match from {gap.start} to {gap.end}."] if gap else []),
    ]


def _alone(record: SkillsRecord, settings: SkillsSettings) -> PageTable:
    rows = [[one.size, one.skill, share(one.exact), share(one.base)] for one in record.alone]
    return PageTable(
        ["size", "skill", "its adapter", "base"],
        rows,
        heading="Each skill alone",
        before=f"Exact match on {settings.n_own} questions of the skill's own test for each seed.",
    )


def _pairs(record: SkillsRecord, settings: SkillsSettings, size: str) -> PageTable:
    names = [pair.name for pair in settings.pairs]
    figures = {(one.contestant, one.pair): one for one in record.figures if one.size == size}
    order = sorted(_over_pairs(record, size), key=lambda one: (-one.exact.value, one.contestant))
    rows = [[one.contestant, *(_parts(figures[one.contestant, name]) for name in names)] for one in order]
    return PageTable(
        ["contestant", *names],
        rows,
        heading=f"Each pair, {size}",
        before="Exact match; in brackets content right and format right.",
    )


def _parts(one: SkillFigures) -> str:
    return f"{percent(one.exact.value)} ({percent(one.content.value)}, {percent(one.format.value)})"


def _limits(record: SkillsRecord, settings: SkillsSettings) -> list[str]:
    found = [
        f"The base is {record.base}, a very small one, and the skills are drawn from templates; what holds here need "
        "not hold for a large base and skills of the world.",
        "The scale of a merge was chosen on joint questions, a little supervision that one who has adapters alone does "
        "not have; controls had none.",
        "Operands and words of test questions occur in training, in other combinations; no test question does.",
    ]
    weak = [one.skill for one in record.alone if one.exact.value < LEARNED]
    if weak:
        found.append(
            f"Not learned by their own adapters, so merging cannot be blamed for them: {listing(sorted(set(weak)))}."
        )
    if len(record.seeds) < 5:
        found.append("So few seeds show little of what other seeds would do.")
    return found


def _how(record: SkillsRecord, settings: SkillsSettings) -> list[str]:
    sizes = [
        f"{name}: level {one.level}, {one.n_content} rows of a content skill and {one.n_format} of a format skill, "
        f"{one.steps} steps"
        for name, one in settings.sizes.items()
    ]
    train = settings.train
    return [
        f"Pairs: {listing([pair.name for pair in settings.pairs])}; seeds {listing([str(s) for s in record.seeds])}.",
        f"Sizes: {'; '.join(sizes)}. LoRA of rank {train.r} on {train.target_modules}, learning rate {train.lr:g}, "
        f"batches of {train.batch_size}.",
        _company(settings),
        f"Of each pair and seed {settings.n_test} joint test questions. A question belongs to training, dev or test by "
        "a hash of its text.",
    ]


def _company(settings: SkillsSettings) -> str:
    """In what company each skill was learned, beside that of nobody's pair."""
    formats = f", also in {listing(settings.content_formats)}" if settings.content_formats else ""
    contents = [f"{name} on {listing(given)}" for name, given in settings.format_contents.items()]
    return (
        f"A content skill is learned with plain answers{formats}; a format on repeated words"
        f"{' and on other questions, ' + listing(contents) if contents else ''}. No adapter but the oracle has seen a "
        "content in the format it is paired with."
    )


def _over_pairs(record: SkillsRecord, size: str) -> Sequence[SkillFigures]:
    return [one for one in record.figures if one.size == size and not one.pair]


def _less(one: SkillFigures, rival: str) -> str:
    return f"{signed(one.less[rival])} {_verdict(one.less[rival])}" if rival in one.less else NONE


def _verdict(contrast: Contrast) -> str:
    """As for losses, with more being better."""
    if contrast.low == contrast.high == 0:
        return "equal"
    p = contrast.p if contrast.p_holm is None else contrast.p_holm
    if p < LEVEL and contrast.low > 0:
        return "better"
    return "worse" if p < LEVEL and contrast.high < 0 else "not told apart"

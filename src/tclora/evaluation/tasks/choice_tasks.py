"""Multiple-choice benchmarks by log-likelihood, prompted as in lm-eval 0.4.13 where it has the task.

In: a `Request`. Out: a `BuiltTask` whose items ask for the log-likelihood of every choice. WinoGrande is scored
partially: the choice fills the blank and the text after it is scored, so contexts differ and lengths do not; as that
text stands inside a sentence it stays plain whatever the prompt format. Shots come from `eval/<file>_fewshot` of the
same schema, for BBH those of the item's subtask; there is none by default. Refused: shots without such a file.

Source: EleutherAI lm-evaluation-harness 0.4.13, `tasks/{arc,piqa,hellaswag,winogrande,super_glue/boolq,openbookqa}`;
partial scoring: Trinh and Le 2018, arXiv 1806.02847.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tclora.data import ChoiceItem, read_choice_items
from tclora.errors import ConfigError
from tclora.evaluation.tasks.built import BuiltTask, Request, chosen, draw_shots
from tclora.evaluation.tasks.hub_rows import without_marks
from tclora.evaluation.tasks.registry import EVAL_TASKS
from tclora.evaluation.tasks.scorers import CHOICE_METRICS, ChoiceGold, score_choice
from tclora.evaluation.tasks.source import file_facts, find_file, find_local
from tclora.evaluation.tasks.task import Answer, Continuation, Item, Prompt

__all__ = ["ChoiceFormat", "choice_task"]

# ActivityNet's contexts end in an open sentence, which lm-eval begins with a capital; the local copy keeps it small.
_OPEN_SENTENCE = re.compile(r"(?:(?<=[.!?] )|(?<=[.!?][\"')] ))[a-z][^.!?]*$")
_BY_LENGTH = ("acc_norm", "acc", "acc_token")
_ACC = ("acc",)


@dataclass(frozen=True)
class ChoiceFormat:
    """How an item is put to the model, and which metric is the main one."""

    question: Callable[[ChoiceItem], str]
    metrics: tuple[str, ...] = CHOICE_METRICS
    partial: bool = False
    """Whether the choice fills a blank, and the text after it is scored."""

    def asked(self, item: ChoiceItem, plain: bool) -> tuple[Continuation, ...]:
        """One continuation a choice, without shots."""
        if self.partial:
            before, after = item.question.split("_", 1)
            return tuple(Continuation(Prompt(before + choice), f" {after.strip()}") for choice in item.choices)
        if plain:
            return tuple(Continuation(Prompt(self.question(item)), f" {choice}") for choice in item.choices)
        prompt = Prompt(f"{item.context}\n{item.question}" if item.context else item.question, plain=False)
        return tuple(Continuation(prompt, choice) for choice in item.choices)

    def solved(self, item: ChoiceItem, plain: bool) -> str:
        """The item with its right answer, as a shot."""
        right = self.asked(item, plain)[item.answer]
        return right.prompt.text + ("" if right.prompt.plain else "\n") + right.text


def choice_task(name: str, file: str, form: ChoiceFormat, request: Request, *, grouped: bool = False) -> BuiltTask:
    """Build a choice task from a file of the shared schema."""
    path = find_file(f"eval/{file}", request.data)
    everything = read_choice_items(path)
    items = chosen(everything, request, lambda item: item.id)
    shots, shot_facts = _shots(file, form, request, everything)
    built = tuple(_item(item, form, request.plain, shots(item), grouped) for item in items)
    chance = sum(1 / len(item.choices) for item in items) / len(items)
    facts = dict(file_facts(path)) | request.facts(request.shots or 0) | shot_facts
    return BuiltTask(
        name,
        form.metrics,
        built,
        _only(form.metrics),
        facts | ({"prompt_format": "plain"} if form.partial else {}),
        chance={metric: chance for metric in form.metrics},
    )


def _question_answer(item: ChoiceItem) -> str:
    return f"Question: {item.question}\nAnswer:"


def _passage(item: ChoiceItem) -> str:
    return f"{item.context}\nQuestion: {item.question}\nAnswer:"


def _story(item: ChoiceItem) -> str:
    return without_marks(_OPEN_SENTENCE.sub(lambda match: match.group().capitalize(), item.question))


@EVAL_TASKS.register(
    "boolq", source="Clark 2019, arXiv 1905.10044", file="boolq", n=3270, metrics=CHOICE_METRICS, chance=0.5
)
def _boolq(request: Request) -> BuiltTask:
    """Yes or no to a question about a passage."""
    return choice_task("boolq", "boolq", ChoiceFormat(_passage), request)


@EVAL_TASKS.register("piqa", source="Bisk 2020, arXiv 1911.11641", file="piqa", n=1838, metrics=_BY_LENGTH, chance=0.5)
def _piqa(request: Request) -> BuiltTask:
    """Which of two ways reaches an everyday goal."""
    return choice_task("piqa", "piqa", ChoiceFormat(_question_answer, _BY_LENGTH), request)


@EVAL_TASKS.register(
    "hellaswag", source="Zellers 2019, arXiv 1905.07830", file="hellaswag", n=10042, metrics=_BY_LENGTH, chance=0.25
)
def _hellaswag(request: Request) -> BuiltTask:
    """Which of four endings goes on from a story."""
    return choice_task("hellaswag", "hellaswag", ChoiceFormat(_story, _BY_LENGTH), request)


@EVAL_TASKS.register(
    "winogrande", source="Sakaguchi 2019, arXiv 1907.10641", file="winogrande", n=1267, metrics=_ACC, chance=0.5
)
def _winogrande(request: Request) -> BuiltTask:
    """Which of two names fills the blank; the text after it is scored."""
    form = ChoiceFormat(lambda item: item.question, _ACC, partial=True)
    return choice_task("winogrande", "winogrande", form, request)


@EVAL_TASKS.register(
    "arc_easy", source="Clark 2018, arXiv 1803.05457", file="arc_easy", n=2376, metrics=_BY_LENGTH, chance=0.25
)
def _arc_easy(request: Request) -> BuiltTask:
    """School science questions, the easy part."""
    return choice_task("arc_easy", "arc_easy", ChoiceFormat(_question_answer, _BY_LENGTH), request)


@EVAL_TASKS.register(
    "arc_challenge",
    source="Clark 2018, arXiv 1803.05457",
    file="arc_challenge",
    n=1172,
    metrics=_BY_LENGTH,
    chance=0.25,
)
def _arc_challenge(request: Request) -> BuiltTask:
    """School science questions that retrieval and word pairs fail."""
    return choice_task("arc_challenge", "arc_challenge", ChoiceFormat(_question_answer, _BY_LENGTH), request)


@EVAL_TASKS.register(
    "openbookqa", source="Mihaylov 2018, arXiv 1809.02789", file="openbookqa", n=500, metrics=_BY_LENGTH, chance=0.25
)
def _openbookqa(request: Request) -> BuiltTask:
    """Elementary science without the book of facts."""
    form = ChoiceFormat(lambda item: item.question, _BY_LENGTH)
    return choice_task("openbookqa", "openbookqa", form, request)


@EVAL_TASKS.register(
    "bbh", source="Suzgun 2022, arXiv 2210.09261", file="bbh_choice", n=5507, metrics=CHOICE_METRICS, chance=0.31
)
def _bbh(request: Request) -> BuiltTask:
    """BIG-Bench Hard, the 23 subtasks with a closed set of answers; one group each."""
    form = ChoiceFormat(lambda item: f"Q: {item.question}\nA:")
    return choice_task("bbh", "bbh_choice", form, request, grouped=True)


def _item(item: ChoiceItem, form: ChoiceFormat, plain: bool, shots: str, grouped: bool) -> Item:
    asked = tuple(
        Continuation(Prompt(shots + continuation.prompt.text, continuation.prompt.plain), continuation.text)
        for continuation in form.asked(item, plain)
    )
    return Item(item.id, asked, ChoiceGold(item.choices, item.answer), item.task if grouped else "")


def _only(metrics: tuple[str, ...]) -> Callable[[Item, Answer], dict[str, float]]:
    def score(item: Item, answer: Answer) -> dict[str, float]:
        figures = score_choice(item, answer)
        return {metric: figures[metric] for metric in metrics}

    return score


def _shots(
    file: str, form: ChoiceFormat, request: Request, tested: Sequence[ChoiceItem]
) -> tuple[Callable[[ChoiceItem], str], dict[str, object]]:
    """What stands before each item: nothing, or the same solved examples (of its subtask, where there are any)."""
    if not request.shots:
        return lambda item: "", {}
    path = find_local(f"eval/{file}_fewshot", request.data)
    if path is None:
        raise ConfigError(
            "the task has no examples to be shown, and test items are never shown",
            where=file,
            found=f"{request.shots} shots",
            expected=f"eval/{file}_fewshot.jsonl in the data folder, in the schema of the task",
            do="ask for 0 shots, or write that file from the official train split",
        )
    by_task: dict[str, str] = {}
    examples = read_choice_items(path)
    for task in {item.task for item in tested} if file.startswith("bbh") else {""}:
        own = [example for example in examples if task in ("", example.task)]
        by_task[task] = _shown(own, form, request, tested, path)
    return lambda item: by_task.get(item.task, by_task.get("", "")), dict(file_facts(path, "fewshot_file"))


def _shown(
    examples: Sequence[ChoiceItem], form: ChoiceFormat, request: Request, tested: Sequence[ChoiceItem], path: Path
) -> str:
    drawn = draw_shots(
        examples,
        request.shots or 0,
        seed=request.seed,
        text=lambda item: f"{item.context}\n{item.question}",
        tested=[f"{item.context}\n{item.question}" for item in tested],
        where=path,
    )
    return "".join(form.solved(example, request.plain) + "\n\n" for example in drawn)

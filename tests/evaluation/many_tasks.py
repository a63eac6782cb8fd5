"""Small tasks for the engine's tests: choices with and without few-shot examples, and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tclora.evaluation.tasks import Answer, Continuation, Generation, Item, Likelihoods, Prompt

SHOTS = "Q: Is it so? A: yes. Q: Is it not so? A: no. "


@dataclass(frozen=True)
class SmallTask:
    """Right is the likeliest choice, or a text that begins with the gold one."""

    name: str
    built: tuple[Item, ...]
    metrics: tuple[str, ...] = ("acc", "nats")
    lower_is_better: tuple[str, ...] = ("nats",)
    chance: Mapping[str, float] = field(default_factory=lambda: {"acc": 0.5})
    runs_code: bool = False
    facts: Mapping[str, object] = field(default_factory=lambda: {"shots": 0})

    def items(self) -> Sequence[Item]:
        return self.built

    def score(self, item: Item, answer: Answer) -> Mapping[str, float]:
        if isinstance(answer, Likelihoods):
            best = answer.sums.index(max(answer.sums))
            return {"acc": float(best == item.gold), "nats": -answer.sums[0] / answer.n_tokens[0]}
        return {"acc": float(len(answer) % 2), "nats": float(len(answer))}


def choice_task(name: str = "choices", *, n: int = 10, shots: str = "", plain: bool = True) -> SmallTask:
    items = []
    for i in range(n):
        prompt = Prompt(f"{shots}Q: what is {i} and {'more ' * (i % 4)}? A:", plain)
        texts = (" yes", " no", " it may be")[: 2 + i % 2]
        items.append(Item(f"{i}", tuple(Continuation(prompt, text) for text in texts), i % 2, group=f"part-{i % 2}"))
    return SmallTask(name, tuple(items))


def text_task(name: str = "texts", *, n: int = 5, **options) -> SmallTask:
    asks = [Generation(Prompt(f"Say {i} {'so ' * (i % 3)}:"), max_new_tokens=4, **options) for i in range(n)]
    return SmallTask(name, tuple(Item(f"{i}", ask, None) for i, ask in enumerate(asks)), chance={})

"""What a task family is, and how rows are drawn from it.

In: a family (wordings and a writer of one instance) and a seed. Out: examples with distinct inputs, in a fixed order.
Refused: more rows than the family has inputs for.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tclora.data.example import Example
from tclora.errors import ConfigError

__all__ = ["Family", "draw_examples"]

# Seeing a share f of N equally likely inputs takes about N ln(1 / (1 - f)) draws, so 20 draws for each row wanted
# reach practically all inputs of a family before it counts as exhausted.
DRAWS_PER_ROW = 20


@dataclass(frozen=True)
class Family:
    """One kind of question with its wordings; `write` makes the input and the answer of one instance.

    Families that share `inputs` and draw the same way get the very same inputs, which makes their answers compete.
    """

    name: str
    inputs: str
    wordings: tuple[str, ...]
    write: Callable[[random.Random], tuple[str, str]]

    @property
    def task(self) -> str:
        """The task name its examples carry."""
        return f"quickstart/{self.name}"


def draw_examples(family: Family, n_examples: int, *, seed: int) -> tuple[Example, ...]:
    """Draw `n_examples` examples with distinct inputs; the first rows do not depend on how many are asked for.

    Raises:
        ConfigError: the family has too few distinct inputs.
    """
    # A text seed is hashed with SHA-512, so it is the same in every process, unlike `hash()`.
    rng = random.Random(f"tclora quickstart/{family.inputs}/{seed}")
    rows: dict[str, str] = {}
    for _ in range(DRAWS_PER_ROW * n_examples):
        if len(rows) == n_examples:
            break
        text, answer = family.write(rng)
        rows.setdefault(text, answer)
    if len(rows) < n_examples:
        raise ConfigError(
            f"the quickstart family '{family.name}' has too few distinct inputs",
            found=f"{n_examples} rows asked for",
            expected=f"at most about {len(rows)}",
            do="ask for fewer rows in a family",
        )
    return tuple(_example(family, index, text, answer) for index, (text, answer) in enumerate(rows.items()))


def _example(family: Family, index: int, text: str, answer: str) -> Example:
    # Wordings take turns instead of being drawn, so that families with shared inputs stay in step.
    wording = family.wordings[index % len(family.wordings)]
    return Example(instruction=wording, input=text, output=answer, task=family.task)

"""How an answer to a skill's question is scored: as a whole, and its two parts apart.

In: a row and the text that a model gave. Out: `SkillScores`. `exact` asks for the very text. `content` asks for the
right answer in any writing that some format skill knows, capitals or not. `format` asks for the writing that was asked
for, around any answer; where none was asked for, for an answer that stands alone. Refused: nothing.
"""

from dataclasses import dataclass

from tclora.testbeds.answer_formats import FORMATS
from tclora.testbeds.skill_rows import SkillRow

__all__ = ["SkillScores", "score_answer"]


@dataclass(frozen=True)
class SkillScores:
    """Whether the whole answer, its content, and its format are right."""

    exact: bool
    content: bool
    format: bool


def score_answer(row: SkillRow, text: str) -> SkillScores:
    """Score one answer.

    A right content in a wrong format, and the other way round, say which of two skills a merge has lost.
    """
    read = {name: FORMATS[name].read(text) for name in FORMATS}
    readings = {text, *(found for found in read.values() if found is not None)}
    # Capitals and number words are words as well; only a wrapper shows that no plain answer was given.
    wrapped = any(read[name] is not None for name in FORMATS if FORMATS[name].wraps)
    return SkillScores(
        exact=text.strip() == row.output,
        content=_plain(row.answer) in {_plain(found) for found in readings},
        format=read[row.format] is not None if row.format else bool(text.strip()) and not wrapped,
    )


def _plain(text: str) -> str:
    return " ".join(text.strip().strip(".\"'").casefold().split())

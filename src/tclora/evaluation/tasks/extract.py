"""Code in generated texts: which part of an answer is the program.

In: a generated text. Out: Python code, or None where there is none. A block between triple back-ticks goes first (its
language mark is left out; a block that is never closed runs to the end); without one, a `def solution():`, the
indented lines that follow it and the imports before it. Nothing is run or compiled here.
"""

import re

__all__ = ["between_ticks", "solution_code"]

_TICKS = re.compile(r"```[^\S\n]*(?:(?:[Pp]ython3?|py)\b)?[^\S\n]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_SOLUTION = re.compile(r"^def solution\([^)\n]*\)[^:\n]*:[^\n]*(?:\n(?:[ \t][^\n]*|(?=\n|\Z)))*", re.MULTILINE)
_IMPORT = re.compile(r"^(?:import|from) [^\n]*$", re.MULTILINE)


def between_ticks(text: str) -> str | None:
    """The first block between triple back-ticks that holds anything; None where there is none.

    A block that is never closed counts only where nothing stands before it: else its mark is more likely the close of a
    block that was never opened.
    """
    for block in _TICKS.finditer(text):
        if block[1].strip() and (block[0].endswith("```") or not text[: block.start()].strip()):
            return block[1]
    return None


def solution_code(text: str) -> str | None:
    """The program that defines `solution`: the first block that does, else the bare definition; None without either."""
    for code in _TICKS.findall(text):
        if _SOLUTION.search(code):
            return code
    bare = _SOLUTION.search(text)
    if bare is None:
        return None
    return "\n".join([*_IMPORT.findall(text[: bare.start()]), bare.group()])

"""ROUGE-L: how much of a reference an answer says in the same order.

In: two texts. Out: the F-measure of their longest common subsequence of words, between 0 and 1. Words are runs of
letters and digits in lower case, without stemming. On ASCII texts this equals the rouge_score package without its
stemmer; that package drops every other letter, which would score Greek or Chinese by its digits alone, so here they
count as letters (a script without spaces is then scored by its runs between punctuation).

Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries", section 3; Hyyrö 2004 for the bit-parallel
length of the subsequence.
"""

import re

__all__ = ["rouge_l"]

_WORD = re.compile(r"[^\W_]+")


def rouge_l(answer: str, reference: str) -> float:
    """The F-measure (beta 1) of the longest common subsequence of words; 0 where a text has no word."""
    said, wanted = _words(answer), _words(reference)
    if not said or not wanted:
        return 0.0
    # 2PR / (P + R) with P = common / said and R = common / wanted.
    return 2 * _common_length(said, wanted) / (len(said) + len(wanted))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _common_length(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence; a row of the usual table is the bits of one whole number."""
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        shared = row & places.get(word, 0)
        row = ((row + shared) | (row - shared)) & full
    return len(first) - row.bit_count()

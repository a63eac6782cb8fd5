"""Options that take several words: `--adapters A B C`, as well as `--adapters A --adapters B`.

In: the words of a command. Out: the same with the option before each of its values. An option's values end at the next
word that begins with `-`; so a positional argument goes before such an option.
"""

from collections.abc import Sequence
from itertools import pairwise

from typer.core import TyperCommand

__all__ = ["ManyValues", "spread"]


class ManyValues(TyperCommand):
    """A command whose repeatable options take several words each, where they have a long name."""

    def parse_args(self, ctx, args):
        """Spread the values, then parse as usual."""
        names = [
            name
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for name in parameter.opts
            if name.startswith("--")
        ]
        known = {name for parameter in self.params for name in parameter.opts}
        for option, word in pairwise(args):
            if option in names and word in known:
                ctx.fail(f"Option '{option}' is given without a value, before '{word}'.")
        return super().parse_args(ctx, spread(args, names))


def spread(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Repeat an option of `names` before each further value that follows it."""
    found: list[str] = []
    current: str | None = None
    fresh = False
    for word in words:
        if word.startswith("-") and not fresh:
            current, fresh = (word, True) if word in names else (None, False)
            found.append(word)
        elif current is not None and not fresh:
            found += [current, word]
        else:
            found.append(word)
            fresh = False
    return found

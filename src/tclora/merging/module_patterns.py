"""Which modules a pattern means: names, wildcards, ranges of layers, regular expressions.

In: a pattern written by a user and the module paths of a merge. Out: the paths it matches, in their order. A pattern
is a run of whole dotted parts that may stand anywhere in a path: `q_proj`, `self_attn`, `mlp.up_proj`, `layers.3`. In
it `*` stands for any characters, dots too, `?` for one, and a part `0-7` for each of these numbers; a dot at either end
is left out. `re:` begins a regular expression that must match the whole path. Refused: a pattern that matches nothing
(near names are suggested), and an expression that is not valid or does not match in bounded time.
"""

import difflib
import re
from collections.abc import Sequence

from tclora.adapters.pattern_syntax import parse
from tclora.adapters.patterns import Budget, UnsupportedPatternError, fullmatch
from tclora.errors import ConfigError

__all__ = ["match_modules"]

_REGEX = "re:"
_RANGE = re.compile(r"(\d{1,4})-(\d{1,4})")
_SPECIAL = re.compile(r"[*?]")


def match_modules(pattern: str, modules: Sequence[str]) -> tuple[str, ...]:
    """The modules that `pattern` means, in the order of `modules`.

    Raises:
        ConfigError: the pattern matches none of them, or cannot be used; names it.
    """
    if pattern.startswith(_REGEX):
        found = _by_expression(pattern[len(_REGEX) :], modules, pattern)
    elif _SPECIAL.search(pattern):
        found = _by_expression(_expression(pattern.strip(".")), modules, pattern)
    else:
        found = _by_parts(pattern.strip("."), modules)
    if not found:
        raise _matches_nothing(pattern, modules)
    return found


def _by_parts(pattern: str, modules: Sequence[str]) -> tuple[str, ...]:
    wanted = [_part(part) for part in pattern.split(".")]
    return tuple(path for path in modules if _holds_run(path.split("."), wanted))


def _part(part: str) -> str | range:
    found = _RANGE.fullmatch(part)
    return range(int(found[1]), int(found[2]) + 1) if found else part


def _holds_run(parts: list[str], wanted: list[str | range]) -> bool:
    starts = range(len(parts) - len(wanted) + 1)
    return any(all(map(_is_part, parts[start : start + len(wanted)], wanted)) for start in starts)


def _is_part(part: str, wanted: str | range) -> bool:
    return part == wanted if isinstance(wanted, str) else part.isdecimal() and int(part) in wanted


def _expression(pattern: str) -> str:
    """The regular expression of a pattern with wildcards: the run, with whole parts before and after it."""
    parts = [_part_expression(part) for part in pattern.split(".")]
    return r"(?:.*\.)?" + r"\.".join(parts) + r"(?:\..*)?"


def _part_expression(part: str) -> str:
    wanted = _part(part)
    if isinstance(wanted, range):
        return "(?:" + "|".join(map(str, wanted)) + ")"
    # A run of stars is one star.
    return "".join({"*": ".*", "?": "."}.get(c) or re.escape(c) for c in re.sub(r"\*+", "*", part))


def _by_expression(expression: str, modules: Sequence[str], pattern: str) -> tuple[str, ...]:
    try:
        node, budget = parse(expression), Budget()
        return tuple(path for path in modules if fullmatch(node, path, budget))
    except UnsupportedPatternError as error:
        raise ConfigError(
            "a pattern of modules cannot be used",
            where=pattern[:200],
            found=str(error),
            expected="a name such as q_proj or layers.0-7, wildcards, or re: and a simple regular expression",
            do="write it more simply, or name the modules",
        ) from None


def _matches_nothing(pattern: str, modules: Sequence[str]) -> ConfigError:
    names = {part for path in modules for part in path.split(".") if not part.isdecimal()} | set(modules)
    names |= {".".join(path.split(".")[-2:]) for path in modules}
    near = difflib.get_close_matches(pattern.removeprefix(_REGEX), sorted(names), n=3, cutoff=0.5)
    return ConfigError(
        f"the pattern '{pattern[:200]}' matches no module",
        found=f"{len(modules)} modules, among them {', '.join(modules[:3])}",
        expected="parts of a path such as q_proj, mlp.up_proj or layers.0-7, wildcards, or re: and an expression",
        do="did you mean " + " or ".join(map(repr, near)) + "?" if near else "see `tclora check` for the modules",
    )

"""Which names a test takes from outside itself, read from its text.

In: the text of a test that compiles. Out: names, sorted. So which functions are the program's is decided by the
benchmark and never by the program: one that defines a `set` or an `abs` of its own gets no say in a comparison.
"""

import ast
import builtins
import symtable

from tclora.errors import DataError

__all__ = ["functions_under_test", "names_from_outside"]

_KNOWN = frozenset(dir(builtins))


def names_from_outside(text: str) -> tuple[str, ...]:
    """Names that the text uses and neither it nor Python defines."""
    return tuple(sorted(_used(text) - _KNOWN))


def functions_under_test(text: str) -> tuple[str, ...]:
    """The functions that asserts test.

    Those that Python does not know; if it knows all, the one built-in function that is called.

    Raises:
        DataError: that leaves none, or several.
    """
    unknown = names_from_outside(text)
    if unknown:
        return unknown
    calls = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    if len(called) != 1:
        raise DataError(
            "the asserts do not show which function they test",
            found=", ".join(sorted(called)) or "no call",
            expected="one function that Python does not have, or calls of one built-in function only",
            do="name the function: run_mbpp(..., function=...)",
        )
    return tuple(called)


def _used(text: str) -> set[str]:
    top = symtable.symtable(text, "<test>", "exec")
    own = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    found: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            outer = table is top or symbol.is_global()
            if outer and symbol.is_referenced():
                found.add(symbol.get_name())
    return found - own

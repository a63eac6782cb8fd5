"""Everything tclora raises on purpose.

One family, four facts: what failed, where, what was expected against what was found, and what to do. `exit_status`
is the process status the command line ends with: 2 when the request was wrong, 1 when the work failed.
"""

__all__ = [
    "AdapterError",
    "AdapterMismatchError",
    "ArtifactError",
    "ConfigError",
    "DataError",
    "FolderInUseError",
    "JobFailedError",
    "MissingExtraError",
    "NumericalError",
    "OutputExistsError",
    "ShapeError",
    "TcLoraError",
    "UnknownNameError",
    "printable",
]


class TcLoraError(ValueError):
    """The root of the family. Build it with the four facts; the message is laid out from them."""

    exit_status: int = 2

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        do: str | None = None,
    ):
        self.what, self.where, self.expected, self.found, self.do = what, where, expected, found, do
        super().__init__(self._text())

    def _text(self) -> str:
        facts = (("where", self.where), ("found", self.found), ("expected", self.expected), ("do", self.do))
        lines = [printable(self.what)]
        lines += [f"  {label:<9} {printable(str(value))}" for label, value in facts if value is not None]
        return "\n".join(lines)

    def facts(self) -> dict[str, str | None]:
        """The error as plain data, for `--json`."""
        pairs = {"what": self.what, "where": self.where, "expected": self.expected, "found": self.found, "do": self.do}
        named = {key: None if value is None else printable(str(value)) for key, value in pairs.items()}
        return {"error": type(self).__name__, **named}

    def __reduce__(self):
        # Keyword-only arguments do not survive the default pickling of exceptions, and executors pickle errors.
        return _rebuild, (type(self), self.what, self.where, self.expected, self.found, self.do)


class AdapterError(TcLoraError):
    """One adapter cannot be read, or holds what a sum of low-rank updates cannot represent."""


class AdapterMismatchError(AdapterError):
    """Adapters that are each fine do not belong together."""


class ConfigError(TcLoraError):
    """A setting is unknown, of the wrong type, or outside its range."""


class UnknownNameError(ConfigError):
    """A name is not in a registry; the message suggests near ones."""


class DataError(TcLoraError):
    """A data file cannot be read as examples; names file and line."""


class ShapeError(TcLoraError):
    """A tensor has the wrong shape for the call."""


class OutputExistsError(TcLoraError):
    """The output exists and `--overwrite` was not given."""


class MissingExtraError(TcLoraError):
    """An optional dependency is not installed; names the extra."""


class ArtifactError(TcLoraError):
    """A stage folder is locked, damaged or unfinished."""

    exit_status = 1


class FolderInUseError(ArtifactError):
    """Another process is working in a folder; names that process."""


class NumericalError(TcLoraError):
    """The numbers gave out: NaN, infinity or a failed factorisation."""

    exit_status = 1


class JobFailedError(TcLoraError):
    """A job given to an executor failed; carries its traceback as text."""

    exit_status = 1


def printable(text: str) -> str:
    """Replace control characters, so that a hostile file or tensor name cannot drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def _rebuild(kind: type[TcLoraError], what: str, where: object, expected: object, found: object, do: str | None):
    return kind(what, where=where, expected=expected, found=found, do=do)

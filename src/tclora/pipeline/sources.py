"""What every command that takes several adapters asks of their names."""

from collections.abc import Sequence
from pathlib import Path

from tclora.errors import ConfigError

__all__ = ["refuse_twice"]


def refuse_twice(sources: Sequence[str], *, do: str) -> None:
    """Refuse one folder named twice: nobody would see that it counts double, or agrees with itself.

    Raises:
        ConfigError: names both spellings; `do` says what the command would rather have.
    """
    seen: dict[str, str] = {}
    for source in sources:
        key = str(Path(source).resolve()) if Path(source).exists() else source
        if key in seen:
            raise ConfigError("an adapter is named twice", where=source, found=f"also as {seen[key]}", do=do)
        seen[key] = source

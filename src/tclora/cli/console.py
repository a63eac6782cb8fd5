"""What commands share: progress on stderr, results on stdout, JSON as one last line."""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

__all__ = ["PlainProgress", "emit_json", "progress_for", "show_table", "stop_bars"]

_drawn: list["BarProgress"] = []


class PlainProgress:
    """One line per stage, and one every few seconds inside it, with the time that is left."""

    def __init__(self, every_s: float = 10.0):
        self.every_s = every_s
        # By label: when it was first heard of, how far it was then (a resumed job does not begin at 0), when last told.
        self._seen: dict[str, tuple[float, int, float]] = {}

    def begin(self, stage: str) -> None:
        """Say that a stage starts."""
        self._say(f"{stage} ...")

    def step(self, label: str, done: int, total: int) -> None:
        """Say how far the work is, not too often."""
        now = time.monotonic()
        began, first, told = self._seen.setdefault(label, (now, done, now))
        if now - told >= self.every_s and done > first:
            rate = (done - first) / (now - began)
            self._seen[label] = (began, first, now)
            self._say(f"  {label}: {done}/{total}, {rate:.3g}/s, about {(total - done) / rate:.0f} s left")

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        """Say that a stage is done."""
        self._say(f"{stage}: {'unchanged' if skipped else f'done in {wall_s:.1f} s'}")

    def note(self, text: str) -> None:
        """Say something once."""
        from tclora.errors import printable

        self._say(f"note: {printable(text)}")

    def _say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class NotesOnly(PlainProgress):
    """No progress, but warnings still: what a user must know does not depend on how much they like to watch."""

    def begin(self, stage: str) -> None:
        """Nothing."""

    def step(self, label: str, done: int, total: int) -> None:
        """Nothing."""

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        """Nothing."""


class BarProgress:
    """Bars with the time that is left, on a terminal."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        what = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(*what, _rate_column(), TimeRemainingColumn(), console=self._console, transient=True)
        self._tasks: dict[str, Any] = {}
        _drawn.append(self)

    def begin(self, stage: str) -> None:
        """Start drawing."""
        self._bars.start()
        self._console.print(f"[bold]{stage}[/bold]")

    def step(self, label: str, done: int, total: int) -> None:
        """Move a bar; a finished one goes away."""
        if label not in self._tasks:
            # What a resumed job had done before says nothing about its speed.
            self._tasks[label] = self._bars.add_task(label, total=total, completed=done)
        self._bars.update(self._tasks[label], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(label))

    def stop(self) -> None:
        """Stop drawing, and show the cursor again."""
        self._bars.stop()

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        """Stop drawing and leave one line."""
        self.stop()
        self._console.print(f"  {stage}: {'unchanged' if skipped else f'done in {wall_s:.1f} s'}")

    def note(self, text: str) -> None:
        """Say something once."""
        from rich.text import Text

        from tclora.errors import printable

        self._console.print(Text(f"note: {printable(text)}", style="yellow"))


def _rate_column() -> Any:
    """Parts finished per second."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed else "", style="progress.data.speed")

    return Rate()


def stop_bars() -> None:
    """Give the terminal back as it was, however the command ends."""
    while _drawn:
        # Nobody may be reading any more.
        with suppress(OSError, ValueError):
            _drawn.pop().stop()


def progress_for(quiet: bool):
    """Only warnings, bars on a terminal, plain lines elsewhere."""
    if quiet:
        return NotesOnly()
    return BarProgress() if sys.stderr.isatty() else PlainProgress()


def emit_json(value: Any) -> None:
    """The result as one line of strict JSON on stdout; records are written as their fields."""
    sys.stdout.write(json.dumps(value, allow_nan=False, default=vars) + "\n")


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, as wide as it needs to be where stdout is not a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=300)
    console.print(table)

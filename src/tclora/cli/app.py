"""The application: commands, and the one place where errors become messages and exit statuses.

Exit status: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted, 143 terminated.
"""

import json
import signal
import sys
import traceback
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import typer

from tclora.cli.analyse import analyse
from tclora.cli.check import check
from tclora.cli.console import stop_bars
from tclora.cli.evaluate import evaluate
from tclora.cli.experiment import experiment
from tclora.cli.export_jobs import export_jobs
from tclora.cli.extend import extend
from tclora.cli.library import library_app
from tclora.cli.many_values import ManyValues
from tclora.cli.merge import merge
from tclora.cli.methods import methods
from tclora.cli.process import begin, leave
from tclora.cli.quickstart import quickstart
from tclora.cli.run import register_stages, run
from tclora.cli.study import study
from tclora.cli.tasks import tasks
from tclora.errors import ConfigError, TcLoraError, printable

__all__ = ["app", "entry", "main"]

# How soon to look again whether an import is over.
_AGAIN_S = 0.02

app = typer.Typer(
    help="Many LoRA adapters to one: clustered training and tensorized merging (TC-LoRA).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(quickstart)
app.command()(run)
register_stages(app)
app.command(cls=ManyValues)(evaluate)
app.command()(merge)
app.command()(check)
app.command()(analyse)
app.command()(methods)
app.command()(tasks)
app.command(name="export-jobs")(export_jobs)
app.add_typer(library_app, name="library")
app.command()(extend)
app.add_typer(study, name="study")
app.command()(experiment)


@app.callback(invoke_without_command=True)
def _top(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        import tclora

        typer.echo(f"tclora {tclora.__version__}")
        raise typer.Exit


def entry() -> NoReturn:
    """What the installed command calls: `main`, and then the shortest way out of the process."""
    begin()
    try:
        main()
    except SystemExit as stop:
        leave(stop.code if isinstance(stop.code, int) else int(stop.code is not None))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    words = sys.argv[1:] if arguments is None else arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopped)
    sys.exit(_status(words))


def _status(words: list[str]) -> int:
    try:
        try:
            # Usage errors and plain exits end in SystemExit here, with status 2 or the one asked for.
            app(args=words, prog_name="tclora")
        finally:
            stop_bars()
    except TcLoraError as error:
        return _told(error, words)
    except SystemExit as stop:
        # A usage error has been shown on stderr by now; what a command says itself comes with no such message.
        if message := getattr(stop.__context__, "format_message", None):
            _tell_facts(ConfigError(message(), where="the command line", do="see --help"), words)
        raise
    except Exception as error:
        return _unforeseen(error, words)
    return 0


def _told(error: TcLoraError, words: list[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    _put(sys.stderr, f"{type(error).__name__}: {error}\n")
    _tell_facts(error, words)
    return error.exit_status


def _unforeseen(error: Exception, words: list[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    do = "run it again with --debug"
    _put(sys.stderr, f"{type(error).__name__}: {printable(str(error))}\n  do        {do}\n")
    _tell_facts(TcLoraError(str(error), do=do), words, kind=type(error).__name__)
    return 1


def _tell_facts(error: TcLoraError, words: list[str], kind: str | None = None) -> None:
    if "--json" in words:
        facts = error.facts() | ({} if kind is None else {"error": kind})
        _put(sys.stdout, json.dumps(facts) + "\n")


def _put(stream: Any, text: str) -> None:
    # What nobody reads any more must not hide the status.
    with suppress(OSError):
        stream.write(text)
        stream.flush()


def _stopped(number: int, frame: FrameType | None) -> None:
    # A second signal ends the process at once.
    signal.signal(number, signal.SIG_DFL)
    _put(sys.stderr, f"stopped by {signal.Signals(number).name}; run the same command again to go on\n")
    _stop(number, frame)


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave from here, or a little later where a module is being imported.

    The making of an extension module loses the exception, or is left half done for ever.
    """
    if not _imports(frame):
        raise SystemExit(128 + number)
    signal.signal(signal.SIGALRM, lambda _, later: _stop(number, later))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

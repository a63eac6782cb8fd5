"""The jailed side of the conversation: shut in, take the program, answer calls.

In: frames on descriptor 0, a length in 4 bytes and `marshal` data, from the harness, which is trusted. Out: frames on
descriptor 1, a length and JSON text, which the harness does not trust. Once the program has run it owns this process:
nothing here is relied on after that, and an answer is only ever a value.
"""

import marshal
import os
import sys

from tclora.sandbox.inside.confine import confine
from tclora.sandbox.inside.plain import to_text

__all__ = ["main"]


def main(settings: dict) -> None:
    """Confine the process, say so, and serve until the harness closes its end."""
    asked, answers, null = 3, 4, 5
    os.dup2(0, asked)
    os.dup2(1, answers)
    os.dup2(os.open(os.devnull, os.O_RDWR), null)
    # Nothing that the harness, or the back end, happened to have open comes along.
    os.closerange(null + 1, 65536)
    in_force = confine(settings)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    _serve(asked, answers, in_force, settings["answer_bytes"])


def _serve(asked: int, answers: int, in_force: dict, answer_bytes: int) -> None:
    _send(answers, to_text(in_force))
    program: dict = {}
    while (request := _receive(asked)) is not None:
        try:
            text = _load(request, program) if "program" in request else _call(request, program)
            if len(text) > answer_bytes:
                text = _fault("ValueError", "the answer is too large")
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: the program may raise what it likes.
            text = _fault(type(error).__name__, _message(error))
        _send(answers, text)


def _load(request: dict, program: dict) -> str:
    """Compile and run the program's text, and say which of the functions asked for it does not define."""
    try:
        code = compile(request["program"], "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
        return f'{{"invalid":{to_text(f"{type(error).__name__}: {_message(error)}")}}}'
    # A real module, since dataclasses and pickling look their classes up in one.
    module = type(sys)("program")
    sys.modules["program"] = module
    exec(code, module.__dict__)
    program.update(module.__dict__)
    return f'{{"missing":{to_text([name for name in request["names"] if name not in program])}}}'


def _call(request: dict, program: dict) -> str:
    arguments = list(request["args"])
    before = [to_text(argument) if isinstance(argument, list | dict | set) else None for argument in arguments]
    value = program[request["call"]](*arguments, **request["kwargs"])
    # A test may look at a list that the program sorted in place.
    changed = []
    for place, (argument, old) in enumerate(zip(arguments, before, strict=True)):
        if old is not None and (new := to_text(argument)) != old:
            changed.append(f"[{place},{new}]")
    return f'{{"value":{to_text(value)},"changed":[{",".join(changed)}]}}'


def _fault(name: str, message: str) -> str:
    return f'{{"raised":[{to_text(name[:100])},{to_text(message)}]}}'


def _message(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:
        return ""


def _receive(descriptor: int) -> dict | None:
    head = _exactly(descriptor, 4)
    return None if head is None else marshal.loads(_exactly(descriptor, int.from_bytes(head, "little")) or b"")


def _exactly(descriptor: int, n_bytes: int) -> bytes | None:
    parts = []
    while n_bytes:
        part = os.read(descriptor, min(n_bytes, 65536))
        if not part:
            return None
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _send(descriptor: int, text: str) -> None:
    data = text.encode("ascii")
    data = len(data).to_bytes(4, "little") + data
    while data:
        data = data[os.write(descriptor, data) :]

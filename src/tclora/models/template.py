"""How an example becomes the text of a prompt and of a response.

In: anything with `instruction`, `input`, `output` and `history` (an example of the data package), and a tokenizer.
Out: text; no token ids. `chat` is the tokenizer's own chat template and decides every special token itself; `plain` is

    ### Instruction:
    {instruction}
    {input}                     (only where there is an input)

    ### Response:
    {output}<eos>

with the turns of a history in the same two headings before it. A text that asks nothing has no prompt. Refused: the
chat template of a tokenizer without one.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from tclora.errors import ConfigError

__all__ = ["ExampleLike", "Template", "choose_template"]

_HEADINGS = {"user": "### Instruction:\n", "assistant": "### Response:\n", "system": ""}


@runtime_checkable
class ExampleLike(Protocol):
    """What of an example this package reads; the data package's `Example` is one."""

    @property
    def instruction(self) -> str: ...
    @property
    def input(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def history(self) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class Template:
    """One of the two prompt formats."""

    name: Literal["chat", "plain"]

    @property
    def add_bos(self) -> bool:
        """Whether the tokenizer's bos goes before the prompt; a chat template writes its own."""
        return self.name == "plain"

    def prompt(self, example: ExampleLike, tokenizer: Any) -> str:
        """The text up to where the response begins, without bos except what a chat template writes.

        An example of plain text, which asks nothing, has an empty prompt.
        """
        if _is_text(example):
            return ""
        if self.name == "chat":
            return _render(tokenizer, _messages(example), add_generation_prompt=True)
        turns = [_HEADINGS.get(turn.role, "") + f"{turn.content}\n\n" for turn in example.history]
        return "".join(turns) + f"### Instruction:\n{_request(example)}\n\n### Response:\n"

    def response(self, example: ExampleLike, tokenizer: Any) -> str:
        """The text that is learned: the output and whatever ends a turn, which is eos for `plain`."""
        ending = tokenizer.eos_token or ""
        if self.name == "plain" or _is_text(example):
            return example.output + ending
        messages = _messages(example)
        prompt = _render(tokenizer, messages, add_generation_prompt=True)
        answer = {"role": "assistant", "content": example.output}
        whole = _render(tokenizer, [*messages, answer], add_generation_prompt=False)
        response = whole.removeprefix(prompt).rstrip()
        # Some templates rewrite earlier turns, or end the last one with nothing: then eos is the only safe ending.
        closed = whole.startswith(prompt) and response != example.output.strip()
        return response if closed else example.output + ending


def choose_template(name: str, tokenizer: Any, *, where: str) -> Template:
    """The template of a setting; `auto` takes the tokenizer's chat template where it has one.

    Raises:
        ConfigError: `chat` is asked of a tokenizer that has no chat template.
    """
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if name == "chat" and not has_chat:
        raise ConfigError(
            "the base model's tokenizer has no chat template",
            where=where,
            found="base.template: chat",
            expected="a chat_template in the tokenizer's files",
            do="set base.template to plain or auto",
        )
    return Template("chat" if has_chat and name != "plain" else "plain")


def _request(example: ExampleLike) -> str:
    return f"{example.instruction}\n{example.input}" if example.input else example.instruction


def _is_text(example: ExampleLike) -> bool:
    return not (example.instruction or example.input or example.history)


def _messages(example: ExampleLike) -> list[dict[str, str]]:
    turns = [{"role": turn.role, "content": turn.content} for turn in example.history]
    return [*turns, {"role": "user", "content": _request(example)}]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # a template is a program of the checkpoint and may raise anything
        raise ConfigError(
            "the tokenizer's chat template does not accept an example",
            where="roles " + ", ".join(message["role"] for message in messages),
            found=f"{type(error).__name__}: {error}",
            expected="a template that takes these roles in this order",
            do="set base.template to plain, or leave out the examples with such a history",
        ) from error

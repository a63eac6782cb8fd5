"""Text to token ids, with the place where the response begins.

In: a `Base` and an example, a text, or a pair of texts. Out: `Tokens`. Prompt and response are encoded apart, so no
token spans the boundary and generation sees the very prompt that training saw. Nothing here is longer than
`base.max_length`: a prompt loses tokens on the left, behind its bos; a response that alone would fill the window is cut
on the right and leaves a quarter of the window to the prompt, so that it never goes without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from tclora.models.base import Base
from tclora.models.template import ExampleLike

__all__ = [
    "Tokens",
    "prompt_text",
    "tokenize_example",
    "tokenize_pair",
    "tokenize_plain",
    "tokenize_prompt",
    "tokenize_start",
    "tokenize_text",
]


@dataclass(frozen=True)
class Tokens:
    """Token ids: `n_prompt` of prompt, the rest response."""

    ids: tuple[int, ...]
    n_prompt: int
    truncated: bool = False
    """True where tokens were cut to fit `max_length`."""

    @property
    def n_scored(self) -> int:
        """Response tokens that have a token before them to be predicted from."""
        return max(0, len(self.ids) - max(1, self.n_prompt))


def prompt_text(base: Base, example: ExampleLike) -> str:
    """The prompt of the example as text, in the base's template."""
    return base.template.prompt(example, base.tokenizer)


def tokenize_example(base: Base, example: ExampleLike) -> Tokens:
    """Prompt and response of a training or dev example; the response ends with eos (or the chat template's ending)."""
    return _fit(base, _prompt_ids(base, example), _encode(base, base.template.response(example, base.tokenizer)))


def tokenize_prompt(base: Base, example: ExampleLike) -> Tokens:
    """The prompt alone, for generation; its ids are the first `n_prompt` of `tokenize_example` unless it was cut."""
    return _fit(base, _prompt_ids(base, example), ())


def tokenize_start(base: Base, text: str | ExampleLike, *, room: int) -> Tokens:
    """A prompt to generate behind, cut on the left so that `room` tokens (at most all but one) still fit the window.

    A text goes in as it is, as in `tokenize_plain`; an example goes into the base's template.
    """
    plain = isinstance(text, str)
    ids = (_encode_as_lm_eval(base, text) or _start_ids(base)) if plain else _prompt_ids(base, text)
    kept = _cut_left(base, ids, max(1, base.max_length - room))
    return Tokens(kept, len(kept), truncated=len(kept) < len(ids))


def tokenize_text(base: Base, text: str) -> Tokens:
    """A plain text behind bos, cut on the right; all of it counts as prompt."""
    ids = _with_bos(base, _encode(base, text), add=True) or _start_ids(base)
    kept = ids[: base.max_length]
    return Tokens(kept, len(kept), truncated=len(kept) < len(ids))


def tokenize_pair(base: Base, prompt_text: str, continuation_text: str, add_eos: bool = False) -> Tokens:
    """A prompt text and one continuation to score, as one text would be encoded.

    Spaces at the end of the prompt count to the continuation, where byte-level tokenizers put them. The boundary is the
    last token at which the encodings of the prompt and of the whole agree. So a choice is scored on the tokens that it
    has in running text. The prompt is given as the text to be scored behind, template included.
    """
    prompt = prompt_text.rstrip(" ")
    continuation = prompt_text[len(prompt) :] + continuation_text
    whole = _encode(base, prompt + continuation)
    alone = _encode(base, prompt)
    n_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, whole, strict=False)))
    ending = (base.tokenizer.eos_token_id,) if add_eos and base.tokenizer.eos_token_id is not None else ()
    start = _with_bos(base, whole[:n_shared], add=True) or _start_ids(base)
    return _fit(base, start, whole[n_shared:] + ending)


def tokenize_plain(base: Base, prompt_text: str, continuation_text: str) -> Tokens:
    """A plain prompt and a continuation to score, with the conventions of lm-eval, so that figures agree.

    The tokens at the start are those that the tokenizer adds by itself: bos for Llama and Mistral, none for GPT-2 and
    Qwen. Behind an empty prompt it is bos, or else eos. White space of any kind at the end of the prompt counts to the
    continuation. The continuation is what the whole text has beyond as many tokens as the prompt has alone; where a
    token spans the boundary, as in the few tokenizers that end words in their blank, that is not quite the text. Ours
    alone: where nothing is beyond, which lm-eval fails on, the tokens that differ from the prompt's are scored; and a
    text too long for the window keeps its first token, where that is bos.

    Source: lm-eval 0.4.13, `TemplateLM._encode_pair` and `HFLM.tok_encode`.
    """
    bos = _with_bos(base, (), add=True) or _start_ids(base)
    if not prompt_text:
        ids = _encode(base, continuation_text)
        return _fit(base, bos, ids[1:] if ids[:1] == bos else ids)
    whole = _encode_as_lm_eval(base, prompt_text + continuation_text)
    alone = _encode_as_lm_eval(base, prompt_text.rstrip())
    if len(whole) > len(alone):
        return _fit(base, alone or bos, whole[len(alone) :])
    n_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, whole, strict=False)))
    return _fit(base, whole[:n_shared] or bos, whole[n_shared:])


def _encode_as_lm_eval(base: Base, text: str) -> tuple[int, ...]:
    bos = base.tokenizer.bos_token
    own = bos is None or not text.startswith(bos)
    return tuple(base.tokenizer(text, add_special_tokens=own, verbose=False)["input_ids"])


def _prompt_ids(base: Base, example: ExampleLike) -> tuple[int, ...]:
    text = prompt_text(base, example)
    return _with_bos(base, _encode(base, text), add=base.template.add_bos or not text) or _start_ids(base)


def _encode(base: Base, text: str) -> tuple[int, ...]:
    return tuple(base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _with_bos(base: Base, ids: tuple[int, ...], *, add: bool) -> tuple[int, ...]:
    bos = base.tokenizer.bos_token_id
    return ids if not add or bos is None or ids[:1] == (bos,) else (bos, *ids)


def _start_ids(base: Base) -> tuple[int, ...]:
    # Without any token before it the first one cannot be scored; eos starts a text for models that have no bos.
    eos = base.tokenizer.eos_token_id
    return (0,) if eos is None else (eos,)


def _fit(base: Base, prompt: tuple[int, ...], response: tuple[int, ...]) -> Tokens:
    window = base.max_length
    kept_response = response[: window - min(len(prompt), max(1, window // 4))]
    kept_prompt = _cut_left(base, prompt, window - len(kept_response))
    truncated = len(kept_prompt) + len(kept_response) < len(prompt) + len(response)
    return Tokens(kept_prompt + kept_response, len(kept_prompt), truncated)


def _cut_left(base: Base, ids: tuple[int, ...], room: int) -> tuple[int, ...]:
    if len(ids) <= room:
        return ids
    head: Sequence[int] = ids[:1] if base.tokenizer.bos_token_id in ids[:1] else ()
    n_tail = max(0, room - len(head))
    return tuple(head)[:room] + ids[len(ids) - n_tail :]

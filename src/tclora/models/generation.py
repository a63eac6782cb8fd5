"""Greedy answers, in batches, as training and the pipeline's evaluation read them.

In: prompts as `Tokens`. Out: stripped text. The token of highest logit is always taken; a checkpoint's own sampling
settings and penalties play no part. `tclora.models.completion` does the work.
"""

from collections.abc import Sequence

from tclora.errors import ConfigError
from tclora.models.base import Base
from tclora.models.completion import Completion, complete_prompts
from tclora.models.tokens import Tokens

__all__ = ["greedy_answers"]


def greedy_answers(base: Base, tokens: Sequence[Tokens], *, max_new_tokens: int, batch_size: int) -> list[str]:
    """Complete each prompt greedily until eos, or `max_new_tokens`.

    Only the first `n_prompt` ids of each `Tokens` are read. A row does not depend on its batch beyond float rounding.

    Returns:
        one stripped text for each prompt, special tokens left out.

    Raises:
        ConfigError: `max_new_tokens` or `batch_size` is below 1, or a prompt is empty.
    """
    _check(tokens, max_new_tokens)
    answers = [""] * len(tokens)
    wanted = [Completion(row.ids[: row.n_prompt], max_new_tokens) for row in tokens]
    for rows, texts in complete_prompts(base, wanted, batch_size=batch_size, share=False):
        for row, text in zip(rows, texts, strict=True):
            answers[row] = _tidied(base, text).strip()
    return answers


def _tidied(base: Base, text: str) -> str:
    # Where a tokenizer asks for it, the blanks it put before punctuation are taken out again.
    return base.tokenizer.clean_up_tokenization(text) if base.tokenizer.clean_up_tokenization_spaces else text


def _check(tokens: Sequence[Tokens], max_new_tokens: int) -> None:
    empty = next((index for index, row in enumerate(tokens) if row.n_prompt < 1), None)
    if empty is not None or max_new_tokens < 1:
        raise ConfigError(
            "there is nothing to generate",
            where="max_new_tokens" if empty is None else f"prompt {empty}",
            found=max_new_tokens if empty is None else "no tokens",
            expected="1 or more",
            do="raise it" if empty is None else "leave the prompt out",
        )

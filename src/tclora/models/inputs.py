"""What reaches chosen modules of a base model while it reads tokens.

In: a `Base` (with or without an adapter hooked on), module paths and tokens. Out: the inputs of every module, handed
over pass by pass so that no more than one pass is held. Modules that read one and the same tensor, as q, k and v do,
share a site: it is handed over once, under the name of the first of them. Refused: a module that sees other than one
vector per token.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from tclora.errors import AdapterMismatchError
from tclora.models.base import Base
from tclora.models.scoring import batches_by_length
from tclora.models.tokens import Tokens

__all__ = ["module_inputs"]


@torch.no_grad()
def module_inputs(
    base: Base,
    names: Sequence[str],
    tokens: Sequence[Tokens],
    receive: Callable[[str, Tensor], None],
    *,
    batch_size: int,
) -> dict[str, str]:
    """Read the tokens and hand the inputs of the named modules to `receive(site, rows)`.

    `rows` are (n_tokens, d_in) in the dtype of the base, padding left out; for an embedding, token ids (n_tokens,).

    Returns:
        the site of each module.

    Raises:
        AdapterMismatchError: the base lacks a module, or a module does not see one vector per token.
        ConfigError: `batch_size` is below 1.
    """
    modules = dict(base.model.named_modules())
    absent = [name for name in names if name not in modules]
    if absent:
        raise AdapterMismatchError("the base model lacks a module", where=f"{absent[0]} of {base.name}")
    listener = _Listener(receive)
    head = base.model.get_output_embeddings()
    whole = not base.split_head or any(modules[name] is head for name in names)
    model = base.model if whole else base.model.base_model
    with ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_pre_hook(listener.hook(name)).remove)
        for rows in batches_by_length([len(row.ids) for row in tokens], batch_size, base.device):
            ids, listener.real = _padded([tokens[row].ids for row in rows], base.device)
            model(input_ids=ids, use_cache=False)
            listener.last = None
    return listener.sites


class _Listener:
    """Who reads what in the pass that is running."""

    def __init__(self, receive: Callable[[str, Tensor], None]):
        self.receive = receive
        self.sites: dict[str, str] = {}
        self.real = torch.zeros(0, 0, dtype=torch.bool)
        self.last: tuple[Tensor, str] | None = None

    def hook(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def listen(_, inputs: tuple[Any, ...]) -> None:
            x = inputs[0]
            if x.shape[:2] != self.real.shape:
                raise AdapterMismatchError(
                    "a module does not see one vector per token",
                    where=name,
                    found=f"an input of shape {tuple(x.shape)}",
                    expected=f"{tuple(self.real.shape)} tokens first",
                    do="use a method that needs no statistics of inputs",
                )
            if self.last is None or x is not self.last[0]:
                self.last = (x, name)
                self.receive(name, x[self.real])
            self.sites[name] = self.last[1]

        return listen


def _padded(rows: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids padded on the right, where no real token sees them, and which of them are real."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids.to(device), real.to(device)

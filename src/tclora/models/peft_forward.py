"""The logits of a base model with an adapter, twice: as PEFT loads its folder, and with deltas added by hand.

In: the folder of a base model, the folder of an adapter, and deltas by module path. Out: how far the logits are apart.
The base is loaded once, in float32, and nothing of it is kept. Refused: bases that transformers cannot load, and
modules that the base does not have.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tclora.errors import AdapterMismatchError, ConfigError, MissingExtraError, TcLoraError
from tclora.models.base import quiet_loading
from tclora.shapes import Float

__all__ = ["ForwardCheck", "compare_forward", "forward_class"]

N_TOKENS = 32
_TOKENS = "input_ids"

Deltas = Mapping[str, Callable[[], Float[Tensor, "d_out d_in"]]]


@dataclass(frozen=True)
class ForwardCheck:
    """Largest differences of logits over sampled tokens. `effect` is that between the base and the merge."""

    against_hand: float
    against_sources: float | None
    effect: float
    largest_logit: float


@torch.no_grad()
def compare_forward(base: Path, adapter: Path, merged: Deltas, sources: Deltas | None = None) -> ForwardCheck:
    """Compare PEFT's forward with the base plus `merged`, and with the base plus `sources` where given.

    Args:
        merged: the deltas that the adapter should stand for, made one at a time.
        sources: what they should be by definition, where that is known without the merge.

    Raises:
        MissingExtraError: transformers or peft is not installed.
        ConfigError: the base cannot be loaded.
        AdapterMismatchError: the base lacks a module.
    """
    model = _load(base)
    ids = _tokens(model)
    plain = _logits(model, ids)
    with torch.random.fork_rng(devices=[]):
        # PEFT draws starting values before it loads the adapter's.
        in_peft = _in_peft(model, adapter, ids)
    with_merged = _with_deltas(model, merged, ids)
    with_sources = None if sources is None else _with_deltas(model, sources, ids)
    return ForwardCheck(
        against_hand=_apart(in_peft, with_merged),
        against_sources=None if with_sources is None else _apart(in_peft, with_sources),
        effect=_apart(with_merged, plain),
        largest_logit=float(plain.abs().max()),
    )


def forward_class(base: Path) -> Any:
    """The class of transformers that the base's config names; nothing is loaded.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is damaged, of no known model, or of one that does not read tokens.
    """
    try:
        import transformers
    except ImportError:
        raise _missing("transformers") from None
    with _said_of(base), quiet_loading():
        config = transformers.AutoConfig.from_pretrained(base, local_files_only=True)
    named = (getattr(config, "architectures", None) or ["AutoModelForCausalLM"])[0]
    found = getattr(transformers, named, transformers.AutoModelForCausalLM)
    reads = getattr(found, "main_input_name", _TOKENS)
    if reads != _TOKENS:
        raise ConfigError(
            "the forward check gives a model tokens",
            where=base,
            found=f"{named}, which reads {reads}",
            expected="a model of text",
            do="leave out --base: the other checks of --verify need none",
        )
    return found


def _load(base: Path) -> Any:
    with _said_of(base), quiet_loading():
        model = forward_class(base).from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    return model.eval()


@contextmanager
def _said_of(base: Path) -> Iterator[None]:
    try:
        yield
    except TcLoraError:
        raise
    except Exception as error:  # transformers raises errors of several kinds, by the file at fault
        raise ConfigError(
            "the base model cannot be loaded for the forward check",
            where=base,
            found=_first_line(error),
            expected="config.json and safetensors weights of a model of transformers",
            do="give a folder that holds its weights, or leave out the base",
        ) from None


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"


def _logits(model: Any, ids: Tensor) -> Tensor:
    """What a model says of tokens: its logits, or the last hidden states of one without a head."""
    given = {_TOKENS: ids}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids
    said = model(**given)
    return said.logits if hasattr(said, "logits") else said[0]


def _in_peft(model: Any, adapter: Path, ids: Tensor) -> Tensor:
    """The logits in PEFT; the model is left as it was."""
    try:
        from peft import PeftModel
    except ImportError:
        raise _missing("peft") from None
    with warnings.catch_warnings():
        # It warns of modules that the adapter's target names reach and its tensors do not; the logits will tell.
        warnings.simplefilter("ignore")
        try:
            wrapped = PeftModel.from_pretrained(model, adapter).eval()
        except Exception as error:  # PEFT raises errors of several kinds
            raise AdapterMismatchError(
                "PEFT does not load the merged adapter on this base",
                found=_first_line(error),
                do="give the base that the adapters were trained on, or leave out --base",
            ) from None
    logits = _logits(wrapped, ids)
    wrapped.unload()
    return logits


def _with_deltas(model: Any, deltas: Deltas, ids: Tensor) -> Tensor:
    """The logits with the deltas added to the weights, which are put back afterwards."""
    kept: dict[str, torch.nn.Parameter] = {}
    for path, delta in deltas.items():
        module = _module(model, path)
        kept[path] = module.weight
        # A new parameter and not an addition in place: an embedding may share its weight with the output layer.
        module.weight = torch.nn.Parameter(module.weight + _as_stored(module, delta()).to(module.weight), False)
    logits = _logits(model, ids)
    for path, weight in kept.items():
        _module(model, path).weight = weight
    return logits


def _module(model: Any, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise AdapterMismatchError(
            "the base has no such module", where=path, do="give the base that the adapters were trained on"
        ) from None


def _as_stored(module: Any, delta: Tensor) -> Tensor:
    """The delta laid out as the module's weight: embeddings and Conv1D store theirs transposed."""
    turned = isinstance(module, torch.nn.Embedding) or type(module).__name__ == "Conv1D"
    return delta.mT if turned else delta


def _tokens(model: Any) -> Tensor:
    size = model.get_input_embeddings().weight.shape[0]
    return torch.randint(size, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))


def _apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(
        f"the forward check needs {package}",
        found=f"{package} is not installed",
        expected="the 'library' extra",
        do="pip install 'tclora[library]', or verify without a base",
    )

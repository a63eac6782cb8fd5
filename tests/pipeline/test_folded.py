"""An adapter in the weights scores as the attached one, and leaves nothing behind."""

import pytest
import torch
from small_base import small_base

from tclora.adapters import LoraFactors, make_adapter
from tclora.config import BaseModelConfig
from tclora.errors import AdapterMismatchError
from tclora.models import attached, load_base
from tclora.pipeline.experiments.folded import folded


@pytest.fixture(scope="module")
def base():
    return load_base(BaseModelConfig(path=small_base(), threads=1, device="cpu"))


def adapter_of(base, names, rank=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    modules = dict(base.model.named_modules())
    factors = {}
    for name in names:
        d_out, d_in = modules[name].weight.shape
        if isinstance(modules[name], torch.nn.Embedding):
            d_out, d_in = d_in, d_out
        a, b = torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)
        factors[name] = LoraFactors(0.05 * a, b)
    return make_adapter("made", factors)


def linears(base):
    return [n for n, m in base.model.named_modules() if type(m) is torch.nn.Linear and "lm_head" not in n]


def logits(base):
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        return base.model(input_ids=ids).logits


def weights(base):
    return {name: parameter.detach().clone() for name, parameter in base.model.named_parameters()}


def test_it_scores_as_the_attached_adapter_and_the_base_is_itself_again(base):
    before, plain = weights(base), logits(base)
    adapter = adapter_of(base, linears(base))
    with attached(base, adapter):
        expected = logits(base)
    with folded(base, adapter):
        found = logits(base)
    assert not torch.allclose(expected, plain, atol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], now) for name, now in weights(base).items())


def test_after_an_error_the_base_is_itself_again(base):
    before = weights(base)
    with pytest.raises(RuntimeError, match="inside"), folded(base, adapter_of(base, linears(base))):
        raise RuntimeError("inside")
    assert all(torch.equal(before[name], now) for name, now in weights(base).items())


def test_what_cannot_be_added_exactly_is_attached(base):
    name = next(n for n, m in base.model.named_modules() if isinstance(m, torch.nn.Embedding))
    adapter = adapter_of(base, [name])
    before = weights(base)
    with attached(base, adapter):
        expected = logits(base)
    with folded(base, adapter):
        assert all(torch.equal(before[key], now) for key, now in weights(base).items())
        assert torch.equal(logits(base), expected)


def test_another_bases_adapter_is_refused(base):
    adapter = make_adapter("other", {"model.nowhere": LoraFactors(torch.ones(1, 4), torch.ones(4, 1))})
    with pytest.raises(AdapterMismatchError, match="lacks"), folded(base, adapter):
        pytest.fail("was not refused")

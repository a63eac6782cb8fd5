"""The grouped layer against its definition, passes that hold every row once, and attention row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tclora.errors import ShapeError
from tclora.models import Tokens
from tclora.training.grouped_lora import GroupedLora, ModuleLora, Span, kept_inputs
from tclora.training.packed_attention import PackedAttention
from tclora.training.packing import Chunk, cut_batch, join_chunks, pass_tensors


class Conv1D(torch.nn.Module):
    """GPT-2's linear layer: the weight is (d_in, d_out)."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(linear.weight.t().clone()), linear.bias

    def forward(self, x):
        return x @ self.weight + self.bias


def layer_and_adapters(kind, dropout=0.0):
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(5, 4).double().requires_grad_(False)
    model = torch.nn.Sequential(Conv1D(linear) if kind == "conv1d" else linear)

    def drawn(*shape):
        return torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

    adapters = {i: {"0": ModuleLora(drawn(r, 5), drawn(4, r), 0.5 + i, dropout)} for i, r in enumerate((2, 3, 1))}
    x = torch.randn(1, 9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    return model, adapters, x


SPANS = (Span(0, 0, 4, (7, 0)), Span(1, 4, 6, (8, 0)), Span(0, 6, 9, (7, 1)))


def defined(model, adapters, x, masks):
    pieces = []
    for span, mask in zip(SPANS, masks, strict=True):
        rows, one = x[0, span.start : span.end], adapters[span.member]["0"]
        pieces.append(model(rows) + one.scaling * (rows * mask) @ one.lora_a.t() @ one.lora_b.t())
    return torch.cat(pieces)[None]


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_outputs_and_gradients_are_those_of_the_definition(kind, dropout):
    model, adapters, x = layer_and_adapters(kind, dropout)
    site = next(index for index, (name, _) in enumerate(model.named_modules()) if name == "0")
    masks = [
        kept_inputs((span.end - span.start, 5), dropout, (*span.key, site), x.device) / (1 - dropout)
        if dropout
        else torch.ones(())
        for span in SPANS
    ]
    expected = defined(model, adapters, x, masks)
    wanted = [x, *(side for i in (0, 1) for side in (adapters[i]["0"].lora_a, adapters[i]["0"].lora_b))]
    probe = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(expected, wanted, probe)
    lora = GroupedLora(model, adapters)
    with lora.installed(), lora.passing(SPANS):
        found = model(x)
        # float64, sums of a handful of terms
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for one, other in zip(torch.autograd.grad(found, wanted, probe), gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert adapters[2]["0"].lora_a.grad is None


def test_outside_a_pass_the_model_is_the_base():
    model, adapters, x = layer_and_adapters("linear")
    lora, expected = GroupedLora(model, adapters), model(x)
    with lora.installed():
        assert torch.equal(model(x), expected)
        with lora.alone(1):
            assert not torch.allclose(model(x), expected)
    assert torch.equal(model(x), expected) and "forward" not in vars(model[0])


def test_a_module_that_sees_other_rows_is_refused():
    model, adapters, x = layer_and_adapters("linear")
    lora = GroupedLora(model, adapters)
    with lora.installed(), lora.passing(SPANS), pytest.raises(ShapeError, match=r"one vector per token[\s\S]*3 rows"):
        model(x[:, :3])


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_dropout_keeps_its_share_and_follows_its_key(rate):
    device = torch.device("cpu")
    kept = kept_inputs((500, 401), rate, (1, 2, 3), device)
    # 200,500 draws: four standard deviations of their mean
    assert kept.double().mean().item() == pytest.approx(1 - rate, abs=4 * (rate * (1 - rate) / 200_500) ** 0.5)
    assert torch.equal(kept, kept_inputs((500, 401), rate, (1, 2, 3), device))
    assert not torch.equal(kept, kept_inputs((500, 401), rate, (1, 2, 4), device))


sizes = st.lists(st.integers(2, 60), min_size=1, max_size=9).map(lambda lengths: sorted(lengths, reverse=True))


@given(
    batches=st.lists(sizes, min_size=1, max_size=4),
    packed=st.booleans(),
    max_tokens=st.integers(1, 150),
    max_rows=st.one_of(st.none(), st.integers(1, 4)),
)
def test_passes_hold_every_row_once_within_the_budget(batches, packed, max_tokens, max_rows):
    rows = [[Tokens(tuple(range(length)), 1) for length in lengths] for lengths in batches]
    parts = [cut_batch(batch, packed=packed, max_rows=max_rows, max_tokens=max_tokens, device="cpu") for batch in rows]
    assert [[row for part in some for row in part] for some in parts] == rows
    assert all(max_rows is None or len(part) <= max_rows for some in parts for part in some)
    chunks = [Chunk(i, part, 9, (i, j)) for i, some in enumerate(parts) for j, part in enumerate(some)]
    passes = join_chunks(chunks, packed=packed, max_tokens=max_tokens)
    assert sorted(chunk.key for some in passes for chunk in some) == [chunk.key for chunk in chunks]
    for some in passes:
        tensors = pass_tensors(some, packed=packed, device=torch.device("cpu"))
        assert tensors.ids.numel() <= max_tokens or len(some) == 1
        assert len(some) > 1 or tensors.ids.numel() <= max_tokens or len(some[0].rows) == 1
        assert (tensors.spans[-1].end, tensors.scored_spans[-1].end) == (tensors.ids.numel(), len(tensors.targets))


def test_a_pass_asks_for_the_next_token_of_each_response():
    rows = (Tokens((1, 20, 21, 22), 2), Tokens((1, 30, 31), 2))
    for packed in (True, False):
        tensors = pass_tensors([Chunk(4, rows, 3)], packed=packed, device=torch.device("cpu"))
        assert tensors.ids.tolist() == ([[1, 20, 21, 1, 30]] if packed else [[1, 20, 21], [1, 30, 0]])
        assert tensors.ids[tensors.scored].tolist() == [20, 21, 30]
        assert tensors.targets.tolist() == [21, 22, 31]
        assert tensors.loss_weights.tolist() == pytest.approx([1 / 3] * 3)
        assert tensors.positions is None or tensors.positions.tolist() == [[0, 1, 2, 0, 1]]


@pytest.mark.parametrize("window", [None, 3])
def test_packed_attention_is_attention_of_each_row_alone(window):
    generator = torch.Generator().manual_seed(0)
    lengths, model = (6, 1, 4), torch.nn.Linear(1, 1)
    query, key, value = (torch.randn(1, h, 11, 8, generator=generator, dtype=torch.float64) for h in (4, 2, 2))
    attention = PackedAttention(model)
    with attention.over(lengths):
        found, _ = attention._attend(model, query, key, value, None, scaling=0.3, sliding_window=window, dropout=0.0)
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    place = torch.cat([torch.arange(length) for length in lengths])
    visible = (owner[:, None] == owner) & (place[:, None] >= place) & (place[:, None] - place < (window or 11))
    scores = 0.3 * query @ key.repeat_interleave(2, 1).transpose(-1, -2)
    expected = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_attention_that_is_not_handled_is_refused():
    model = torch.nn.Linear(1, 1)
    attention, x = PackedAttention(model), torch.zeros(1, 1, 2, 4)
    with attention.over((2,)), pytest.raises(ShapeError, match=r"cannot be packed[\s\S]*softcap"):
        attention._attend(model, x, x, x, None, softcap=30.0)

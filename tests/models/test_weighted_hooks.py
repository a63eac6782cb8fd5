"""Several adapters at once, entropies and module inputs, each against the model's own pass, one row at a time."""

import copy
import dataclasses

import pytest
import torch
from tiny_base import MODULES, random_on, tiny_llama

from tclora.adapters import LoraFactors, make_adapter
from tclora.errors import AdapterMismatchError, ConfigError
from tclora.models import (
    Tokens,
    attached,
    attached_together,
    collate,
    module_inputs,
    scored_everywhere,
    token_entropies,
    token_losses,
)

IDS = torch.tensor([[1, 17, 9, 30, 5]])
ROWS = [Tokens((1, 5, 9, 11, 3, 2), 2), Tokens((1, 7), 1), Tokens((4, 8, 15, 16), 1)]
WEIGHTS = (0.7, -0.4, 0.25)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base():
    return tiny_llama()


@pytest.fixture(scope="module")
def double():
    return tiny_llama(dtype=torch.float64)


def is_transposed(module) -> bool:
    return not isinstance(module, torch.nn.Linear)


def library(base, names, *, ranks=(2, 3, 2), embeddings=()):
    adapters = []
    for seed, r in enumerate(ranks):
        generator = torch.Generator().manual_seed(seed)
        modules = {}
        # The last adapter lacks the last module.
        for name in names if seed < 2 or len(names) == 1 else names[:-1]:
            module = base.model.get_submodule(name)
            d_out, d_in = module.weight.shape[::-1] if is_transposed(module) else module.weight.shape
            sizes = ((r, d_in), (d_out, r))
            modules[name] = LoraFactors(*(torch.randn(*size, generator=generator) * 0.3 for size in sizes))
        adapters.append(make_adapter(f"a{seed}", modules, embeddings=[n for n in embeddings if n in modules]))
    return adapters


def deltas(adapters, weights):
    total = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, factors in adapter.modules.items():
            total[name] = total.get(name, 0) + weight * factors.lora_b.double() @ factors.lora_a.double()
    return total


def products(adapters, weights):
    """(sum of weighted lora_b) @ (sum of weighted lora_a)."""
    ups, downs = {}, {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, factors in adapter.modules.items():
            ups[name] = ups.get(name, 0) + weight * factors.lora_b.double()
            downs[name] = downs.get(name, 0) + weight * factors.lora_a.double()
    return {name: ups[name] @ downs[name] for name in ups}


def folded(base, updates):
    model = copy.deepcopy(base.model)
    for name, delta in updates.items():
        module = model.get_submodule(name)
        added = delta.T if is_transposed(module) else delta
        module.weight = torch.nn.Parameter((module.weight.double() + added).to(module.weight.dtype), False)
    return model(IDS).logits


CASES = {
    "linear": ("base", MODULES, ()),
    "head": ("base", ("model.layers.1.mlp.down_proj", "lm_head"), ()),
    "embedding": ("base", ("model.embed_tokens",), ("model.embed_tokens",)),
    "conv1d": ("gpt2", ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"), ()),
}


@pytest.mark.parametrize("combine", ["deltas", "factors"])
@pytest.mark.parametrize("case", CASES)
def test_weighted_hooks_equal_weights_with_the_sum_added(request, case, combine):
    fixture, names, embeddings = CASES[case]
    chosen = request.getfixturevalue(fixture)
    adapters = library(chosen, names, ranks=(2, 3, 2) if combine == "deltas" else (2, 2, 2), embeddings=embeddings)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    with attached_together(chosen, adapters, lambda _: weights, combine=combine), torch.no_grad():
        found = chosen.model(IDS).logits
    updates = deltas(adapters, WEIGHTS) if combine == "deltas" else products(adapters, WEIGHTS)
    # float32 through two layers
    torch.testing.assert_close(found, folded(chosen, updates), rtol=1e-4, atol=1e-4)


def test_weights_are_asked_for_in_every_pass_and_by_module(base):
    adapters = library(base, MODULES)
    now = dict.fromkeys(MODULES, torch.zeros(3))
    with attached_together(base, adapters, lambda name: now[name]), torch.no_grad():
        assert torch.equal(base.model(IDS).logits, folded(base, {}))
        now[MODULES[1]] = torch.tensor(WEIGHTS)
        found = base.model(IDS).logits
    expected = folded(base, {MODULES[1]: deltas(adapters, WEIGHTS)[MODULES[1]]})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_one_adapter_at_weight_one_is_the_adapter(base):
    adapter = random_on(base, "a", 2, 1)
    with attached(base, adapter):
        alone = base.model(IDS).logits
    with attached_together(base, [adapter], lambda _: torch.ones(1)):
        torch.testing.assert_close(base.model(IDS).logits, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("combine", ["deltas", "factors"])
@pytest.mark.parametrize("losses", [token_losses, token_entropies])
def test_the_gradient_of_the_weights_equals_finite_differences(double, combine, losses):
    adapters = [random_on(double, name, 2, seed) for seed, name in enumerate("abc")]
    start = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, 0.0], [-0.6, 0.2, 0.2]], dtype=torch.float64)
    row = {name: index for index, name in enumerate(MODULES)}
    batch = collate(ROWS, device=CPU)

    def loss(table):
        with attached_together(double, adapters, lambda name: table[row[name]], combine=combine):
            return losses(double, batch).double().mean()

    table = start.clone().requires_grad_(True)
    loss(table).backward()
    gradient = table.grad
    assert gradient is not None

    def difference(step):
        numeric = torch.zeros(9, dtype=torch.float64)
        for index, move in enumerate(torch.eye(9, dtype=torch.float64).reshape(9, 3, 3) * step):
            numeric[index] = (loss(start + move) - loss(start - move)) / (2 * step)
        return numeric.reshape(3, 3)

    # The losses are taken in float32, so a difference has some 1e-7 of noise, 1e-5 once divided by the step. Two wide
    # steps cancel each other's error of second order.
    with torch.no_grad():
        numeric = (4 * difference(1e-2) - difference(2e-2)) / 3
    assert float(gradient.norm()) > 1e-2
    torch.testing.assert_close(gradient, numeric, rtol=1e-3, atol=1e-4)


def test_nothing_else_gets_a_gradient_and_the_base_is_itself_again(base):
    before = base.model(IDS).logits
    weights = torch.ones(3, requires_grad=True)
    with attached_together(base, library(base, MODULES), lambda _: weights):
        token_losses(base, collate(ROWS, device=CPU)).sum().backward()
    assert weights.grad is not None
    assert all(parameter.grad is None for parameter in base.model.parameters())
    assert torch.equal(base.model(IDS).logits, before)


def test_factors_of_unequal_rank_are_refused_before_anything_is_attached(base):
    before = base.model(IDS).logits
    adapters = library(base, MODULES)
    with (
        pytest.raises(AdapterMismatchError, match=r"(?s)unequal rank.*layers\.0.*ranks 2, 3, 2"),
        attached_together(base, adapters, lambda _: torch.ones(3), combine="factors"),
    ):
        pass
    assert torch.equal(base.model(IDS).logits, before)


def test_an_adapter_of_another_base_is_refused(base):
    wrong = make_adapter("wrong", {MODULES[0]: LoraFactors(torch.ones(2, 99), torch.ones(16, 2))})
    adapters = [random_on(base, "right", 2, 1), wrong]
    with pytest.raises(AdapterMismatchError, match="does not fit the base"):
        attached_together(base, adapters, lambda _: torch.ones(2)).__enter__()


@pytest.mark.parametrize("fixture", ["base", "gemma2"])
def test_entropies_are_those_of_every_position_of_every_row(request, fixture):
    chosen = request.getfixturevalue(fixture)
    rows = [(1, 5, 9, 11, 3, 2), (1, 7), (4,)]
    expected = []
    for ids in rows:
        p = torch.softmax(chosen.model(torch.tensor([ids])).logits[0].double(), dim=-1)
        expected.append(-(p * p.log()).sum(dim=-1))
    tokens = [scored_everywhere(ids) for ids in rows]
    assert [row.n_scored for row in tokens] == [6, 2, 1]
    found = token_entropies(chosen, collate(tokens, device=CPU))
    # float32 logits; soft-capped ones lie close together, so their entropies are near that of a uniform guess
    torch.testing.assert_close(found.double(), torch.cat(expected), rtol=1e-5, atol=1e-5)


def own_inputs(model, name, ids):
    """What a module reads when one row goes through alone."""
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        model(torch.tensor([ids]))
    handle.remove()
    return seen[0]


SITES = {
    "model.layers.0.self_attn.q_proj": "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj": "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.o_proj": "model.layers.0.self_attn.o_proj",
    "model.layers.1.mlp.up_proj": "model.layers.1.mlp.gate_proj",
    "model.layers.1.mlp.gate_proj": "model.layers.1.mlp.gate_proj",
    "model.embed_tokens": "model.embed_tokens",
    "lm_head": "lm_head",
}


def test_inputs_are_those_of_each_module_and_shared_where_modules_read_one_tensor(base):
    seen = {}
    names = list(SITES)
    sites = module_inputs(base, names, ROWS, lambda site, rows: seen.setdefault(site, []).append(rows), batch_size=2)
    assert sites == SITES
    assert set(seen) == set(SITES.values())
    for name, site in SITES.items():
        expected = torch.cat([own_inputs(base.model, name, row.ids) for row in ROWS])
        found = torch.cat(seen[site])
        assert found.shape == expected.shape
        # Rows come in order of length; sums over tokens do not depend on the order.
        torch.testing.assert_close(found.double().sum(0), expected.double().sum(0), rtol=1e-4, atol=1e-4)


def test_inputs_are_taken_with_the_adapter_that_is_attached(base):
    later = "model.layers.1.self_attn.v_proj"
    seen = []
    with attached(base, random_on(base, "a", 2, 3, modules=MODULES[:1])):
        module_inputs(base, [later], ROWS[:1], lambda _, rows: seen.append(rows), batch_size=1)
        expected = own_inputs(base.model, later, ROWS[0].ids)
    torch.testing.assert_close(seen[0], expected)
    assert not torch.allclose(seen[0], own_inputs(base.model, later, ROWS[0].ids), atol=1e-3)


def test_a_module_that_is_not_there_is_refused(base):
    with pytest.raises(AdapterMismatchError, match=r"(?s)lacks a module.*layers\.9"):
        module_inputs(base, ["model.layers.9.mlp.up_proj"], ROWS, lambda *_: None, batch_size=1)


def test_a_module_that_reads_one_vector_per_row_is_refused(base):
    odd = dataclasses.replace(base, model=copy.deepcopy(base.model))
    attention = odd.model.model.layers[0].self_attn
    attention.pooled = torch.nn.Linear(16, 16)

    def pool(_, inputs):
        attention.pooled(inputs[0].mean(dim=1))

    attention.q_proj.register_forward_pre_hook(pool)
    with pytest.raises(AdapterMismatchError, match="one vector per token"):
        module_inputs(odd, ["model.layers.0.self_attn.pooled"], ROWS, lambda *_: None, batch_size=2)


def test_a_batch_of_no_rows_is_refused(base):
    with pytest.raises(ConfigError, match="a batch needs rows"):
        module_inputs(base, [MODULES[0]], ROWS, lambda *_: None, batch_size=0)

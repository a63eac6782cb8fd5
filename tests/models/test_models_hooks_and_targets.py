"""Adapters hooked on: against weights with the delta added; and which modules an architecture's names mean."""

import copy

import pytest
import torch

from tclora.adapters import LoraFactors, make_adapter
from tclora.errors import AdapterMismatchError, ConfigError
from tclora.models import attached, attention_targets, greedy_answers, resolve_targets, tokenize_prompt

IDS = torch.tensor([[1, 17, 99, 300, 5]])


def random_adapter(model, names, *, r=3, embeddings=()):
    generator = torch.Generator().manual_seed(1)
    modules = {}
    for name in names:
        weight = model.get_submodule(name).weight
        d_out, d_in = weight.shape if isinstance(model.get_submodule(name), torch.nn.Linear) else weight.shape[::-1]
        down, up = (torch.randn(size, generator=generator) * 0.2 for size in ((r, d_in), (d_out, r)))
        modules[name] = LoraFactors(down, up)
    return make_adapter("random", modules, embeddings=embeddings)


def folded_logits(base, adapter):
    model = copy.deepcopy(base.model)
    for name, factors in adapter.modules.items():
        module, delta = model.get_submodule(name), factors.lora_b @ factors.lora_a
        module.weight = torch.nn.Parameter(
            module.weight + (delta if isinstance(module, torch.nn.Linear) else delta.T), requires_grad=False
        )
    return model(IDS).logits


CASES = {
    "linear": ("seed_lm", ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"], ()),
    "embedding": ("seed_lm", ["model.embed_tokens"], ("model.embed_tokens",)),
    "head": ("seed_lm", ["lm_head"], ()),
    "conv1d": ("gpt2", ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"], ()),
}


@pytest.mark.parametrize("case", CASES)
def test_hooks_equal_weights_with_the_delta_added(request, case):
    fixture, names, embeddings = CASES[case]
    base = request.getfixturevalue(fixture)
    adapter = random_adapter(base.model, names, embeddings=embeddings)
    with attached(base, adapter), torch.no_grad():
        logits = base.model(IDS).logits
    expected = folded_logits(base, adapter)
    # float32 through six layers, adapters as large as the weights
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_base_is_itself_again_after_the_block_even_after_an_error(seed_lm):
    before = seed_lm.model(IDS).logits
    adapter = random_adapter(seed_lm.model, ["model.layers.0.self_attn.q_proj"])
    with pytest.raises(RuntimeError, match="stop"), attached(seed_lm, adapter):
        raise RuntimeError("stop")
    assert torch.equal(seed_lm.model(IDS).logits, before)


def test_an_adapter_and_its_opposite_cancel(seed_lm):
    names = ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.up_proj"]
    adapter = random_adapter(seed_lm.model, names)
    opposite = make_adapter("minus", {n: LoraFactors(f.lora_a, -f.lora_b) for n, f in adapter.modules.items()})
    with attached(seed_lm, adapter), attached(seed_lm, opposite):
        both = seed_lm.model(IDS).logits
    torch.testing.assert_close(both, seed_lm.model(IDS).logits, rtol=1e-4, atol=1e-3)


def test_answers_are_those_of_the_adapter(seed_lm, examples):
    prompt = tokenize_prompt(seed_lm, examples[1])
    adapter = random_adapter(seed_lm.model, ["lm_head"])
    base_answer = greedy_answers(seed_lm, [prompt], max_new_tokens=4, batch_size=1)
    with attached(seed_lm, adapter) as adapted:
        assert greedy_answers(adapted, [prompt], max_new_tokens=4, batch_size=1) != base_answer
    assert greedy_answers(seed_lm, [prompt], max_new_tokens=4, batch_size=1) == base_answer


@pytest.mark.parametrize(
    ("name", "sizes", "text"),
    [
        ("model.layers.9.self_attn.q_proj", (256, 256), "the base model lacks"),
        ("model.layers.0.self_attn.k_proj", (256, 256), r"found .*\(256, 256\)\n  expected  \(128, 256\), a Linear"),
        ("model.norm", (256, 256), "a linear map, not LlamaRMSNorm"),
    ],
)
def test_an_adapter_of_another_base_is_refused(seed_lm, name, sizes, text):
    wrong = make_adapter("wrong", {name: LoraFactors(torch.ones(2, sizes[1]), torch.ones(sizes[0], 2))})
    with pytest.raises(AdapterMismatchError, match=text), attached(seed_lm, wrong):
        pass


def test_attention_of_llama(seed_lm):
    assert attention_targets(seed_lm.model) == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_attention_of_gpt2_leaves_the_feed_forward_out(gpt2):
    assert attention_targets(gpt2.model) == ("c_attn", "attn.c_proj")


def test_all_linear_leaves_the_head_out(seed_lm):
    assert set(resolve_targets(seed_lm.model, "all-linear")) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_names_and_patterns_pass_through(seed_lm):
    assert resolve_targets(seed_lm.model, ("v_proj", "q_proj", "v_proj")) == ("q_proj", "v_proj")
    assert resolve_targets(seed_lm.model, r".*\.0\..*q_proj") == r".*\.0\..*q_proj"


@pytest.mark.parametrize("wrong", [("q_proj", "query_proj"), r".*query", "("])
def test_what_matches_nothing_is_refused(seed_lm, wrong):
    with pytest.raises(ConfigError, match="target_modules"):
        resolve_targets(seed_lm.model, wrong)


def test_a_near_name_is_suggested(seed_lm):
    with pytest.raises(ConfigError, match="did you mean q_proj"):
        resolve_targets(seed_lm.model, ("qproj",))

"""Variants of LoRA: what PEFT trained is what the merger reads, and the base is untouched to the bit."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from tclora.adapters import read_adapter
from tclora.config import BaseModelConfig
from tclora.config.schema import TrainConfig
from tclora.data import Example, write_examples
from tclora.errors import ConfigError, DataError, MissingExtraError, ShapeError
from tclora.models import attached, bundled_base_path, load_base, response_losses, tokenize_example
from tclora.training import train_adapter, train_together
from tclora.training.lora import lora_on, write_peft_folder, written_weights

IDS = torch.tensor([[1, 17, 99, 300, 5, 42]])
BASE_INITS = ["pissa", "pissa_niter_4", "olora"]
PATTERNS = {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 6}, "alpha_pattern": {"v_proj": 3}}
VARIANTS = [
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": "orthogonal"},
    {"init_lora_weights": "mica"},
    {"init_lora_weights": "eva"},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_4", "lora_dropout": 0.3},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "pissa", "use_rslora": True, **PATTERNS},
    {"init_lora_weights": "pissa", "target_modules": ("lm_head", "q_proj")},
    {"layers": "last-half"},
    {"layers": (0,), "use_rslora": True},
    {"layers": "first-half", "init_lora_weights": "olora", "target_modules": "all-linear"},
    PATTERNS,
    {**PATTERNS, "use_rslora": True},
]
IDS_OF = ["-".join(str(value) for value in variant.values())[:50] for variant in VARIANTS]


def settings(**changes) -> TrainConfig:
    plain = {"r": 4, "lora_alpha": 8, "epochs": 1, "max_steps": 3, "batch_size": 6, "lr": 2e-2}
    return TrainConfig(**{**plain, **changes})


def with_settings(job, **changes):
    return dataclasses.replace(job, params=settings(**changes))


def base_bytes(base) -> dict[str, bytes]:
    return {name: weight.detach().numpy().tobytes() for name, weight in base.model.named_parameters()}


def rows_of(base, n=12):
    return [tokenize_example(base, Example(f"Name color {i} please", output="red green blue")) for i in range(n)]


def nudge(weights):
    """Other values for every trainable factor, as a training leaves them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)


@torch.no_grad()
def logits(base):
    return base.model(IDS).logits


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS_OF)
def test_the_merger_reads_what_peft_trained(tiny, tmp_path, variant):
    params, before = settings(**variant), base_bytes(tiny)
    with lora_on(tiny, params, seed=0, rows=rows_of(tiny)) as weights:
        nudge(weights)
        tiny.model.eval()
        trained = logits(tiny)
        written = written_weights(tiny, weights)
    assert base_bytes(tiny) == before
    assert not any("lora" in name for name, _ in tiny.model.named_modules())
    write_peft_folder(tmp_path, written, tiny, params)
    with attached(tiny, read_adapter(tmp_path)):
        ours = logits(tiny)
    # float32 through two layers: a few hundred eps of logits of order one
    assert torch.allclose(ours, trained, atol=1e-5, rtol=1e-5)
    assert (ours - logits(tiny)).abs().max() > 1e-2


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS_OF)
def test_peft_reads_the_folder_as_the_merger_does(job, tiny, variant):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = with_settings(job, **variant)
    train_adapter(job, base=tiny)
    model = AutoModelForCausalLM.from_pretrained(job.base.path, dtype=torch.float32)
    with attached(tiny, read_adapter(Path(job.out))):
        ours = logits(tiny)
    loaded = PeftModel.from_pretrained(model, job.out)
    assert {name for name, _ in loaded.named_parameters() if "lora_" in name} == {
        name.replace(".weight", ".default.weight") for name in tensor_names(job.out)
    }
    with torch.no_grad():
        assert torch.allclose(loaded(IDS).logits, ours, atol=1e-5, rtol=1e-5)


def tensor_names(folder) -> set[str]:
    from safetensors import safe_open

    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("start", BASE_INITS)
def test_a_start_from_the_base_changes_nothing_at_first(tiny, start):
    """W - s B0 A0 + s B0 A0 = W: before the first step the model is the base, and the written delta is zero."""
    plain = logits(tiny)
    with lora_on(tiny, settings(init_lora_weights=start), seed=0) as weights:
        tiny.model.eval()
        assert torch.allclose(logits(tiny), plain, atol=1e-5)
        written = written_weights(tiny, weights)
    path = "model.layers.1.self_attn.q_proj"
    delta = written[f"{path}.lora_B.default.weight"] @ written[f"{path}.lora_A.default.weight"]
    size = weights[f"{path}.lora_B.default.weight"].norm() * weights[f"{path}.lora_A.default.weight"].norm()
    assert size > 0.1 and delta.abs().max() < 1e-6 * size


def test_pissa_starts_from_the_leading_singular_triples(tiny):
    """Independent oracle: float64 SVD. s * B0 @ A0 is the best rank-r approximation of the weight."""
    path = "model.layers.0.self_attn.o_proj"
    weight = tiny.model.get_submodule(path).weight.detach().double()
    u, s, vh = torch.linalg.svd(weight)
    with lora_on(tiny, settings(init_lora_weights="pissa"), seed=0) as weights:
        b, a = (weights[f"{path}.lora_{factor}.default.weight"].detach().double() for factor in "BA")
    assert torch.allclose(8 / 4 * b @ a, u[:, :4] * s[:4] @ vh[:4], atol=1e-5)


def test_the_first_gradient_is_that_of_pefts_own_pissa(tiny, tiny_folder):
    """PEFT subtracts the start from the base; we hold it back in a second adapter. The gradients are the same."""
    import peft

    params = settings(init_lora_weights="pissa", lora_dropout=0, r=4)
    with lora_on(tiny, params, seed=0) as weights:
        tiny.model(IDS).logits.square().mean().backward()
        ours = {name: weight.grad.clone() for name, weight in weights.items()}
    model = load_base(tiny_config(tiny_folder)).model
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    wrapped = peft.PeftModel(model, peft.LoraConfig(**fields, init_lora_weights="pissa"))
    wrapped(IDS).logits.square().mean().backward()
    theirs = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-5 * float(theirs[name].abs().max()) + 1e-9)


def tiny_config(folder) -> BaseModelConfig:
    return BaseModelConfig(path=str(folder), threads=1, device="cpu", max_length=48)


@pytest.mark.parametrize("start", BASE_INITS)
def test_a_bfloat16_base_is_untouched_and_the_delta_exact(tiny_folder, tmp_path, start):
    """PEFT's own residual would be rounded to bfloat16 here, and its converted delta off by that much."""
    base = load_base(tiny_config(tiny_folder).model_copy(update={"dtype": "bfloat16"}))
    before = {name: weight.detach().clone() for name, weight in base.model.named_parameters()}
    params = settings(init_lora_weights=start)
    with lora_on(base, params, seed=0) as weights:
        path = "model.layers.0.self_attn.v_proj"
        first = {f: weights[f"{path}.lora_{f}.default.weight"].detach().clone() for f in "AB"}
        nudge(weights)
        last = {f: weights[f"{path}.lora_{f}.default.weight"].detach().clone() for f in "AB"}
        write_peft_folder(tmp_path, written_weights(base, weights), base, params)
    assert all(torch.equal(before[name], weight) for name, weight in base.model.named_parameters())
    factors = read_adapter(tmp_path).modules[path]
    expected = 2 * (last["B"].double() @ last["A"].double() - first["B"].double() @ first["A"].double())
    assert torch.allclose((factors.lora_b @ factors.lora_a).double(), expected, atol=1e-6)


def test_the_saved_rank_is_twice_that_of_the_start_and_the_scale_is_folded(job, tiny):
    train_adapter(with_settings(job, init_lora_weights="pissa", use_rslora=True), base=tiny)
    config = json.loads((Path(job.out) / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["init_lora_weights"]) == (8, 8, False, True)
    assert {shape.r for shape in read_adapter(Path(job.out)).shapes.values()} == {8}


@pytest.mark.parametrize("start", [*BASE_INITS, "eva", "mica"])
def test_a_resumed_variant_ends_with_the_same_bytes(job, tiny, tmp_path, start):
    job = dataclasses.replace(job, params=settings(init_lora_weights=start, max_steps=5, checkpoint_every=2))
    whole = dataclasses.replace(job, out=str(tmp_path / "whole"))
    train_adapter(whole, base=tiny)

    def stop(done, total):
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_adapter(job, base=tiny, on_step=stop)
    train_adapter(job, base=tiny)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (Path(job.out) / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_mica_leaves_lora_b_where_it_started(tiny):
    with lora_on(tiny, settings(init_lora_weights="mica"), seed=0) as weights:
        assert all(".lora_A." in name for name in weights)
        assert {name.replace("lora_B", "lora_A") for name in written_weights(tiny, weights)} == set(weights)


def test_eva_starts_in_the_span_of_the_inputs(tiny):
    """The rows of lora_a are orthonormal, and hold more of the module's inputs than random rows do."""
    rows, path = rows_of(tiny, 30), "model.layers.1.self_attn.o_proj"
    seen = []
    hook = tiny.model.get_submodule(path).register_forward_hook(lambda _, x, y: seen.append(x[0].reshape(-1, 32)))
    with torch.no_grad():
        for row in rows:
            tiny.model(torch.tensor([row.ids]))
    hook.remove()
    inputs = torch.cat(seen).double()
    inputs = inputs - inputs.mean(0)  # incremental PCA is about the mean
    with lora_on(tiny, settings(init_lora_weights="eva"), seed=0, rows=rows) as weights:
        a = weights[f"{path}.lora_A.default.weight"].detach().double()
    assert torch.allclose(a @ a.T, torch.eye(4).double(), atol=1e-3)  # incremental, float32
    best = torch.linalg.svdvals(inputs)[:4].square().sum()
    assert (inputs @ a.T).square().sum() > 0.9 * best  # PEFT stops at a cosine of 0.99 between rounds


def test_layers_are_those_asked_for(job, tiny):
    for layers, expected in (("last-half", {"1"}), ("first-half", {"0"}), ((1, 0, 1), {"0", "1"})):
        with lora_on(tiny, settings(layers=layers), seed=0) as weights:
            assert {name.split(".")[2] for name in weights} == expected


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS_OF)
def test_training_together_takes_every_variant(job, tiny, tmp_path, variant):
    """In a group where it can be, through PEFT's layers where not, and then the record says so."""
    params = settings(**{"lora_dropout": 0, **variant, "lr": 1e-3})
    dropout = params.lora_dropout > 0
    plain = dataclasses.replace(job, params=params.model_copy(update={"trainer": "plain"}), out=str(tmp_path / "plain"))
    train_adapter(plain, base=tiny)
    (record,) = train_together([dataclasses.replace(job, params=params)], base=tiny)
    through_peft = str(params.init_lora_weights) in ("pissa", "pissa_niter_4", "olora", "mica")
    assert bool(record.notes) == through_peft
    found = []
    for folder in (plain.out, job.out):
        with attached(tiny, read_adapter(Path(folder))):
            found.append(logits(tiny))
    # Three AdamW steps of 1e-3: rounding is enlarged where a moment is tiny. Dropout draws other masks in a group.
    assert dropout or torch.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layers": (7,)}, r"names layers that the base does not have[\s\S]*layers among 0 to 1 of 'layers'"),
        ({"layers": "last-half", "layers_pattern": "blocks"}, r"cannot be told which modules are the layers"),
        ({"layers": "last-half", "target_modules": ("lm_head",)}, "no target module lies in the chosen layers"),
        ({"layers": (0,), "target_modules": r".*q_proj"}, "cannot narrow a regular expression"),
        ({"rank_pattern": {"up_proj": 2}}, r"key of rank_pattern matches no adapted module[\s\S]*up_proj"),
        ({"alpha_pattern": {"q_pro": 2}}, r"key of alpha_pattern matches no adapted module"),
        ({"alpha_pattern": {"q_(": 2}}, r"no regular expression"),
        ({"init_lora_weights": "orthogonal", "r": 3}, r"orthogonal cannot start this module[\s\S]*rank 3 is odd"),
        ({"init_lora_weights": "pissa", "r": 40}, r"rank 40 is larger than the weight"),
        ({"init_lora_weights": "eva", "target_modules": ("embed_tokens",)}, r"it is an embedding"),
    ],
)
def test_what_does_not_fit_the_base_is_refused(tiny, changes, text):
    before = base_bytes(tiny)
    with pytest.raises(ConfigError, match=text), lora_on(tiny, settings(**changes), seed=0, rows=rows_of(tiny)):
        pass
    assert base_bytes(tiny) == before
    assert not any("lora" in name for name, _ in tiny.model.named_modules())


def test_eva_without_enough_data_is_refused(tiny):
    params = settings(init_lora_weights="eva", r=200)
    text = r"eva needs more data[\s\S]*at least 200"
    with pytest.raises(DataError, match=text), lora_on(tiny, params, seed=0, rows=rows_of(tiny, 2)):
        pass
    assert not any("lora" in name for name, _ in tiny.model.named_modules())


def test_unconverted_factors_are_not_written(tiny, tmp_path):
    params = settings(init_lora_weights="pissa")
    with lora_on(tiny, params, seed=0) as weights:
        pass
    with pytest.raises(ShapeError, match=r"rank 4[\s\S]*rank 8[\s\S]*written_weights"):
        write_peft_folder(tmp_path, weights, tiny, params)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"use_dora": True}, "use_dora cannot be merged: DoRA rescales"),
        ({"bias": "all"}, "bias cannot be merged"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save cannot be merged"),
        ({"init_lora_weights": "loftq"}, "loftq cannot be trained here: it trains against a quantized copy"),
        ({"init_lora_weights": "corda"}, "corda cannot be trained here"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga cannot be trained here"),
        ({"init_lora_weights": False}, "begin with a random update"),
        ({"init_lora_weights": "pissa_niter_0"}, "no such initialization; there are true, gaussian"),
        ({"init_lora_weights": 3}, "no such initialization"),
        ({"layers": "middle"}, "layers"),
    ],
)
def test_variants_that_no_merge_can_hold_are_refused_with_the_reason(changes, text):
    with pytest.raises(ValueError, match=text):
        settings(**changes)


def test_settings_that_say_nothing_are_taken():
    params = settings(use_dora=False, bias="none", modules_to_save=None, init_lora_weights="PiSSA_niter_16")
    assert params.init_lora_weights == "pissa_niter_16"
    assert TrainConfig.model_validate_json(params.model_dump_json()) == params


def test_a_quantized_base_on_the_cpu_is_refused(tiny_folder):
    with pytest.raises(ConfigError, match=r"4-bit base needs a CUDA device[\s\S]*do +set base.quantization to none"):
        load_base(tiny_config(tiny_folder).model_copy(update={"quantization": "4bit"}))


def test_a_quantized_base_without_bitsandbytes_names_the_package(tiny_folder, monkeypatch):
    from tclora.models import quantized

    config = tiny_config(tiny_folder).model_copy(update={"quantization": "4bit"})
    monkeypatch.setattr(quantized.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"without bitsandbytes[\s\S]*do +pip install"):
        quantized.quantization_options(config, torch.device("cuda"), torch.bfloat16)
    assert quantized.quantization_options(tiny_config(tiny_folder), torch.device("cpu"), torch.float32) == {}


@pytest.mark.cuda
def test_a_quantized_base_trains_and_is_untouched(job, tiny_folder):
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    config = tiny_config(tiny_folder).model_copy(update={"quantization": "4bit", "device": "cuda"})
    base = load_base(config)
    before = {name: weight.detach().clone() for name, weight in base.model.named_parameters()}
    job = dataclasses.replace(job, base=config, params=settings(max_steps=20, lora_dropout=0))
    record = train_adapter(job, base=base)
    assert base.quantized and record.dev_loss < record.dev_loss_base
    assert all(torch.equal(before[name], weight) for name, weight in base.model.named_parameters())
    rows = rows_of(base, 4)
    with attached(base, read_adapter(Path(job.out))):
        assert response_losses(base, rows, batch_size=2)[0].min() > 0
    params = settings(init_lora_weights="pissa")
    with pytest.raises(ConfigError, match="the base is quantized"), lora_on(base, params, seed=0):
        pass


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2") / "base"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_base_path() / name, folder)
    config = GPT2Config(vocab_size=4096, n_embd=32, n_layer=3, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return load_base(tiny_config(folder))


@pytest.mark.parametrize("variant", [{"init_lora_weights": "pissa"}, {"layers": "last-half"}, {"layers": "first-half"}])
def test_transposed_weights_and_odd_layers(gpt2, tmp_path, variant):
    """GPT-2 stores (d_in, d_out) and calls its layers `h`; of three the middle one is in the last half."""
    params = settings(**variant)
    with lora_on(gpt2, params, seed=0) as weights:
        nudge(weights)
        gpt2.model.eval()
        trained = logits(gpt2)
        write_peft_folder(tmp_path, written_weights(gpt2, weights), gpt2, params)
    layers = {name.split(".")[2] for name in weights}
    assert layers == {"last-half": {"1", "2"}, "first-half": {"0"}, "all": {"0", "1", "2"}}[str(params.layers)]
    with attached(gpt2, read_adapter(tmp_path)):
        assert torch.allclose(logits(gpt2), trained, atol=1e-5, rtol=1e-5)


def test_olora_on_transposed_weights_is_refused(gpt2):
    with (
        pytest.raises(ConfigError, match="stored transposed"),
        lora_on(gpt2, settings(init_lora_weights="olora"), seed=0),
    ):
        pass


def test_a_scale_that_is_wrong_would_be_seen(tiny, tmp_path):
    """The comparison above can fail: the same factors under another alpha give other logits."""
    params = settings()
    with lora_on(tiny, params, seed=0) as weights:
        nudge(weights)
        tiny.model.eval()
        trained = logits(tiny)
        write_peft_folder(tmp_path, written_weights(tiny, weights), tiny, settings(lora_alpha=8 * math.sqrt(2)))
    with attached(tiny, read_adapter(tmp_path)):
        assert not torch.allclose(logits(tiny), trained, atol=1e-3)


def test_every_job_with_a_variant_is_another_job(job, tmp_path):
    from tclora.training import job_digest

    write_examples(Path(job.train_file), [Example("a", output="b")])
    digests = {job_digest(with_settings(job, **variant)) for variant in [{}, *VARIANTS]}
    assert len(digests) == len(VARIANTS) + 1
    assert job_digest(with_settings(job, controls=("random_clusters",), min_task_size=7)) in digests

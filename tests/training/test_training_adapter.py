"""One training: what is written, what is left untouched, and what is refused."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

from tclora.adapters import read_adapter
from tclora.config.schema import TrainConfig
from tclora.data import Example, read_examples, write_examples
from tclora.errors import ConfigError, DataError, NumericalError, OutputExistsError
from tclora.execution import LocalExecutor
from tclora.models import attached, response_losses, tokenize_example
from tclora.records import TrainRecord, from_json
from tclora.training import train_adapter, train_library

IDS = torch.tensor([[1, 17, 99, 300, 5]])


def with_params(job, **params):
    return dataclasses.replace(job, params=TrainConfig(**{**job.params.model_dump(), **params}))


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def trained(job, tiny):
    return train_adapter(job, base=tiny)


def test_dev_loss_falls_and_the_record_says_so(job, tiny, trained):
    assert trained.dev_loss < trained.dev_loss_base - 1
    tokens = [tokenize_example(tiny, example) for example in read_examples([job.dev_file])]
    sums, counts = response_losses(tiny, tokens, batch_size=4)
    assert trained.dev_loss_base == pytest.approx(sums.sum() / counts.sum(), rel=1e-5)
    with attached(tiny, read_adapter(Path(job.out))):
        sums, counts = response_losses(tiny, tokens, batch_size=4)
    assert trained.dev_loss == pytest.approx(sums.sum() / counts.sum(), rel=1e-4)


def test_the_record_is_in_the_folder_and_the_work_folder_is_gone(job, trained):
    assert from_json(TrainRecord, json.loads((Path(job.out) / "record.json").read_text())) == trained
    assert set(content(job.out)) == {"adapter_config.json", "adapter_model.safetensors", "job.json", "record.json"}
    assert {path.name for path in Path(job.out).parent.iterdir()} == {"train.jsonl", "dev.jsonl", "cluster-0"}
    assert (trained.n_examples, trained.n_steps, trained.name) == (40, 10, "cluster-0")


@pytest.mark.parametrize(
    "params",
    [{}, {"use_rslora": True}, {"target_modules": "all-linear"}, {"target_modules": ("lm_head", "q_proj")}],
    ids=["attention", "rslora", "all-linear", "head"],
)
def test_peft_reads_what_our_reader_reads(job, tiny, params):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = with_params(job, max_steps=3, **params)
    train_adapter(job, base=tiny)
    model = AutoModelForCausalLM.from_pretrained(job.base.path, dtype=torch.float32)
    with attached(tiny, read_adapter(Path(job.out))), torch.no_grad():
        ours = tiny.model(IDS).logits
    theirs = PeftModel.from_pretrained(model, job.out)(IDS).logits
    # float32 products in another order through two layers
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, tiny.model(IDS).logits, atol=1e-2)


def test_the_base_is_left_as_it_was_to_the_bit(job, tiny):
    def look():
        weights = [(name, weight.clone()) for name, weight in tiny.model.named_parameters()]
        return weights, [name for name, _ in tiny.model.named_modules()], set(vars(tiny.model))

    before = look()
    train_adapter(job, base=tiny)
    after = look()
    assert [name for name, _ in after[0]] == [name for name, _ in before[0]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(before[0], after[0], strict=True))
    assert after[1:] == before[1:]
    assert not tiny.model.training and not any(weight.requires_grad for weight in tiny.model.parameters())


def test_two_runs_give_the_same_bytes_and_leave_the_global_generator_alone(job, tiny, trained, tmp_path):
    state = torch.random.get_rng_state()
    train_adapter(dataclasses.replace(job, out=str(tmp_path / "again")), base=tiny)
    assert content(tmp_path / "again") == content(job.out)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_seed_gives_other_weights(job, tiny, trained, tmp_path):
    train_adapter(dataclasses.replace(job, out=str(tmp_path / "other"), seed=1), base=tiny)
    name = "adapter_model.safetensors"
    assert content(tmp_path / "other")[name] != content(job.out)[name]


def test_micro_batches_change_nothing_but_rounding(job, tiny, tmp_path):
    records, deltas = [], []
    for size in (None, 1, 4):
        one = dataclasses.replace(
            with_params(job, lora_dropout=0, micro_batch_size=size), out=str(tmp_path / f"{size}")
        )
        records.append(train_adapter(one, base=tiny))
        module = read_adapter(Path(one.out)).modules["model.layers.1.self_attn.v_proj"]
        deltas.append(module.lora_b @ module.lora_a)
    assert {record.n_tokens for record in records} == {records[0].n_tokens}
    for record, delta in zip(records, deltas, strict=True):
        assert record.train_loss == pytest.approx(records[0].train_loss, rel=1e-3)
        # AdamW divides by the square root of tiny second moments and so enlarges float32 rounding over ten steps
        assert torch.linalg.norm(delta - deltas[0]) < 0.02 * torch.linalg.norm(deltas[0])


def test_only_the_response_is_learned(job, tiny):
    """The first step's loss is the base's loss on the responses of the first batch: LoRA starts at zero."""
    from tclora.training import plan_batches

    job = with_params(job, max_steps=1, lora_dropout=0)
    record = train_adapter(job, base=tiny)
    tokens = [tokenize_example(tiny, example) for example in read_examples([job.train_file])]
    plan = plan_batches(tokens, job.params, seed=job.seed, max_tokens=None)
    sums, counts = response_losses(tiny, [tokens[index] for index in plan.batches[0]], batch_size=2)
    assert record.train_loss == pytest.approx(sums.sum() / counts.sum(), rel=1e-5)
    assert record.n_response_tokens == counts.sum()


def test_progress_counts_every_step(job, tiny):
    seen = []
    train_adapter(job, base=tiny, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_a_finished_job_returns_at_once(job, trained, monkeypatch):
    monkeypatch.setattr("tclora.training.train.load_base", lambda config: pytest.fail("the base was loaded"))
    assert train_adapter(job) == trained


def test_a_library_trains_in_order_on_one_base(job, tmp_path, monkeypatch):
    from tclora.models import load_base
    from tclora.training import train

    loads = []
    monkeypatch.setattr(train, "load_base", lambda config: loads.append(config) or load_base(config))
    train.cached_base.cache_clear()
    params = with_params(job, max_steps=2).params
    jobs = [dataclasses.replace(job, name=n, out=str(tmp_path / "lib" / n), params=params) for n in ("a", "b", "c")]
    assert [record.name for record in train_library(jobs, LocalExecutor())] == ["a", "b", "c"]
    assert len(loads) == 1
    train.cached_base.cache_clear()


@pytest.mark.parametrize("change", [{"seed": 5}, {"name": "other"}])
def test_an_output_of_another_job_is_refused(job, tiny, trained, change):
    with pytest.raises(OutputExistsError, match=r"not this job's adapter[\s\S]*do +remove the folder"):
        train_adapter(dataclasses.replace(job, **change), base=tiny)


def test_a_damaged_output_is_refused(job, tiny, trained):
    path = Path(job.out) / "adapter_model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OutputExistsError, match="changed since it was written"):
        train_adapter(job, base=tiny)


def test_data_whose_responses_do_not_fit_are_refused(job, tiny):
    with pytest.raises(DataError, match=r"nothing to train cluster-0 on[\s\S]*none with a response within 1 tokens"):
        train_adapter(job, base=dataclasses.replace(tiny, max_length=1))


def test_cut_prompts_are_counted(job, tiny):
    write_examples(Path(job.train_file), [Example("word " * 100, output="yes"), Example("Short.", output="no")])
    assert train_adapter(job, base=tiny).truncated == 1


def test_missing_data_are_refused(job, tiny):
    with pytest.raises(DataError, match=r"data of cluster-0 cannot be read[\s\S]*No such file"):
        train_adapter(dataclasses.replace(job, train_file=job.train_file + ".gone"), base=tiny)


def test_names_that_match_nothing_are_refused_and_nothing_is_written(job, tiny):
    with pytest.raises(ConfigError, match="matches no module"):
        train_adapter(with_params(job, target_modules=("nothing",)), base=tiny)
    assert not Path(job.out).exists()


def test_a_loss_that_is_not_finite_names_step_and_cluster(job, tiny, monkeypatch):
    from tclora.training import loop

    real, calls = loop.token_losses, itertools.count()

    def broken(base, batch):
        return real(base, batch) * (float("nan") if next(calls) == 4 else 1)

    monkeypatch.setattr(loop, "token_losses", broken)
    with pytest.raises(NumericalError, match=r"cluster-0 gave out\n.*step \d+ of 10\n.*loss nan"):
        train_adapter(job, base=tiny)
    assert not any("lora" in name for name, _ in tiny.model.named_modules())


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_half_precision_learns_too(job, tiny, autocast):
    record = train_adapter(with_params(job, autocast=autocast), base=tiny)
    assert record.dev_loss < record.dev_loss_base - 1

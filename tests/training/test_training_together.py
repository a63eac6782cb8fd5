"""Adapters trained together are the adapters trained alone, on every kind of base, and say how they were trained."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from group_cases import content, difference, made, made_jobs, moved, save_base

from tclora.adapters import read_adapter
from tclora.config.schema import TrainConfig
from tclora.data import read_examples
from tclora.errors import ArtifactError, ConfigError, DataError, NumericalError, OutputExistsError
from tclora.models import attached, load_base, response_losses, tokenize_example
from tclora.records import TrainRecord, from_json
from tclora.training import is_finished, train_adapter, train_together

# AdamW divides by the square root of second moments that are nearly zero in the first steps, which enlarges the float32
# rounding of another order of addition; measured: 5e-7 on most bases, 3e-5 at worst. Updates of another adapter's
# batches, or of other dropout masks, are 0.5 and more away.
SAME_UPDATES = 1e-3
PADDED = "rows were padded: the attention of this base cannot be packed"


def with_params(jobs, **params):
    return [
        dataclasses.replace(job, params=TrainConfig(**{**job.params.model_dump(), **params}), out=job.out + "-other")
        for job in jobs
    ]


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    bases = {}

    def get(architecture):
        if architecture not in bases:
            folder = save_base(tmp_path_factory.mktemp(architecture) / "base", made(architecture))
            bases[architecture] = (folder, load_base(made_jobs(folder, folder.parent / "any", n=1)[0].base))
        return bases[architecture]

    return get


@pytest.fixture(scope="module")
def trained(base_of, tmp_path_factory):
    """Three jobs on a Llama, trained together with dropout."""
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path_factory.mktemp("trained"), lora_dropout=0.2)
    return jobs, train_together(jobs, base=base), base


@pytest.mark.parametrize(("architecture", "notes"), [("llama", ()), ("gpt2", ()), ("bloom", (PADDED,))])
def test_each_adapter_gets_the_updates_of_peft_alone(base_of, tmp_path, architecture, notes):
    folder, base = base_of(architecture)
    together = made_jobs(folder, tmp_path, n=2, epochs=6, target_modules="all-linear", max_pass_tokens=90)
    alone = moved(together, tmp_path / "alone")
    records = train_together(together, base=base)
    for one, other, record in zip(together, alone, records, strict=True):
        expected = train_adapter(other, base=base)
        assert record.n_steps >= 20
        assert difference(other, one) < SAME_UPDATES
        # float32 losses of equal rows in passes of other shapes
        assert record.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
        assert record.dev_loss == pytest.approx(expected.dev_loss, rel=1e-5)
        losses = {"train_loss": expected.train_loss, "dev_loss": expected.dev_loss}
        assert dataclasses.replace(record, **losses) == dataclasses.replace(expected, trainer="grouped", notes=notes)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gptneox", "gemma2", "mixtral"])
def test_windows_parallel_layers_soft_caps_and_experts_too(base_of, tmp_path, architecture):
    test_each_adapter_gets_the_updates_of_peft_alone(
        base_of, tmp_path, architecture, (PADDED,) if architecture == "gemma2" else ()
    )


def test_the_comparison_can_fail(trained):
    jobs, _, _ = trained
    assert difference(jobs[0], jobs[1]) > 100 * SAME_UPDATES


def test_dropout_masks_do_not_depend_on_companions(trained, tmp_path):
    jobs, records, base = trained
    for job, record, one in zip(jobs, records, moved(jobs, tmp_path), strict=True):
        (alone,) = train_together([one], base=base)
        assert difference(job, one) < SAME_UPDATES
        assert alone.train_loss == pytest.approx(record.train_loss, rel=1e-4)


def test_dropout_does_something(trained, tmp_path):
    jobs, _, base = trained
    (quiet,) = with_params(moved(jobs[:1], tmp_path), lora_dropout=0)
    train_together([quiet], base=base)
    assert difference(jobs[0], quiet) > 10 * SAME_UPDATES


def test_records_and_folders_are_those_of_single_trainings(trained):
    jobs, records, base = trained
    for job, record in zip(jobs, records, strict=True):
        assert set(content(job.out)) == {"adapter_config.json", "adapter_model.safetensors", "job.json", "record.json"}
        assert from_json(TrainRecord, json.loads((Path(job.out) / "record.json").read_text())) == record
        assert not Path(job.out + ".work").exists() and is_finished(job)
        tokens = [tokenize_example(base, example) for example in read_examples([job.dev_file])]
        with attached(base, read_adapter(Path(job.out))):
            sums, counts = response_losses(base, tokens, batch_size=4)
        assert record.dev_loss == pytest.approx(sums.sum() / counts.sum(), rel=1e-4)
        assert record.dev_loss < record.dev_loss_base - 1


def test_the_base_and_the_global_generator_are_left_as_they_were(trained, tmp_path):
    jobs, _, base = trained

    def look():
        weights = [weight.clone() for weight in base.model.parameters()]
        state = [(name, module.training, "forward" in vars(module)) for name, module in base.model.named_modules()]
        return weights, [*state, base.model.config._attn_implementation, set(vars(base.model))]

    before, state = look(), torch.random.get_rng_state()
    train_together(with_params(moved(jobs, tmp_path), max_steps=2, gradient_checkpointing=True), base=base)
    train_adapter(with_params(moved(jobs, tmp_path / "plain"), max_steps=1, gradient_checkpointing=True)[0], base=base)
    after = look()
    assert all(torch.equal(*pair) for pair in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(weight.requires_grad for weight in base.model.parameters())


def test_finished_jobs_are_not_repeated(trained, monkeypatch):
    jobs, records, base = trained
    monkeypatch.setattr("tclora.training.together.read_data", lambda *_: pytest.fail("data were read"))
    assert train_together(jobs, base=base) == records


def test_progress_names_the_adapter_and_adapters_leave_when_done(base_of, tmp_path):
    folder, base = base_of("llama")
    seen, jobs = [], made_jobs(folder, tmp_path, epochs=1)

    def look(name, done, total):
        seen.append((name, done, total, Path(jobs[0].out).exists()))

    records = train_together(jobs, base=base, on_step=look)
    for record in records:
        steps = [(done, total) for name, done, total, _ in seen if name == record.name]
        assert steps == [(done, record.n_steps) for done in range(1, record.n_steps + 1)]
    assert records[0].n_steps < records[2].n_steps
    # The first is written while the others are still training.
    assert not seen[0][3] and seen[-1][3]


@pytest.mark.parametrize(
    "params",
    [
        {"micro_batch_size": 2},
        pytest.param({"max_pass_tokens": 20}, marks=pytest.mark.slow, id="max_pass_tokens"),
        {"gradient_checkpointing": True},
        pytest.param({"max_together": 2}, marks=pytest.mark.slow, id="max_together"),
    ],
    ids=lambda params: next(iter(params)),
)
def test_how_rows_are_spread_changes_nothing_but_rounding(base_of, tmp_path, params):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, max_steps=6)
    others = with_params(jobs, **params)
    train_together(jobs, base=base)
    train_together(others, base=base)
    assert all(difference(*pair) < SAME_UPDATES for pair in zip(jobs, others, strict=True))


def test_recomputing_gives_the_plain_trainer_the_same_bytes(base_of, tmp_path):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=1, max_steps=3, lora_dropout=0.1)
    others = with_params(jobs, gradient_checkpointing=True)
    assert train_adapter(jobs[0], base=base) == train_adapter(others[0], base=base)
    assert content(jobs[0].out) == content(others[0].out)


@pytest.mark.parametrize(
    "params",
    [
        {"weight_decay": 0.3, "schedule": "cosine", "grad_clip": 0.05},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
    ],
    ids=["optimizer", "rank"],
)
def test_settings_mean_what_they_mean_alone(base_of, tmp_path, params):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=2, **params)
    others = moved(jobs, tmp_path / "alone")
    train_together(jobs, base=base)
    for pair in zip(jobs, others, strict=True):
        train_adapter(pair[1], base=base)
        assert difference(*pair) < SAME_UPDATES


def test_adapters_of_other_ranks_targets_and_rates_share_a_pass(base_of, tmp_path):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, max_steps=12)
    settings = [{"r": 2}, {"target_modules": "all-linear", "lr": 3e-3}, {"target_modules": ("lm_head", "q_proj")}]
    jobs = [with_params([job], **one)[0] for job, one in zip(jobs, settings, strict=True)]
    train_together(jobs, base=base)
    for pair in zip(jobs, moved(jobs, tmp_path / "alone"), strict=True):
        train_adapter(pair[1], base=base)
        assert difference(*pair) < SAME_UPDATES


@pytest.mark.parametrize("params", [{"autocast": "bfloat16"}, {"autocast": "float16"}], ids=["bf16", "fp16"])
def test_half_precision_learns_too(base_of, tmp_path, params):
    folder, base = base_of("llama")
    for record in train_together(made_jobs(folder, tmp_path, n=2, **params), base=base):
        assert record.trainer == "grouped" and record.dev_loss < record.dev_loss_base - 1


@pytest.mark.slow
def test_a_base_in_bfloat16_learns_too(base_of, tmp_path):
    folder, _ = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=2)
    jobs = [dataclasses.replace(job, base=job.base.model_copy(update={"dtype": "bfloat16"})) for job in jobs]
    base = load_base(jobs[0].base)
    alone = moved(jobs, tmp_path / "alone")
    for record, one in zip(train_together(jobs, base=base), alone, strict=True):
        assert record.trainer == "grouped"
        # bfloat16 activations have three digits, and adapters trained on them agree to that in their loss
        assert record.dev_loss == pytest.approx(train_adapter(one, base=base).dev_loss, rel=2e-2)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"trainer": "plain"}, "train.trainer is plain"),
        ({"target_modules": ("embed_tokens", "q_proj")}, "embed_tokens is of type Embedding"),
        ({"init_lora_weights": "pissa"}, "has a LoRA of another kind"),
    ],
)
def test_what_cannot_be_grouped_is_trained_plainly_and_says_why(base_of, tmp_path, params, reason):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=2, max_steps=3)
    jobs[1:] = with_params(jobs[1:], **params)
    alone = moved(jobs[1:], tmp_path / "alone")[0]
    seen = []
    grouped, plain = train_together(jobs, base=base, on_step=lambda name, done, total: seen.append(name))
    assert (grouped.trainer, plain.trainer) == ("grouped", "plain")
    assert len(plain.notes) == 1 and reason in plain.notes[0]
    assert seen.count("cluster-1") == 3
    train_adapter(alone, base=base)
    name = "adapter_model.safetensors"
    assert content(jobs[1].out)[name] == content(alone.out)[name]


def test_a_base_that_mixes_up_rows_is_found_out(base_of, tmp_path, monkeypatch):
    """A layer that sees the tokens in another order gives each the wrong adapter: the trial pass must notice."""
    folder, _ = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=2, max_steps=2, target_modules="all-linear")
    base = load_base(jobs[0].base)
    mlp = base.model.model.layers[1].mlp
    real = mlp.forward

    def shuffled(x):
        order = torch.arange(x.shape[0] * x.shape[1] - 1, -1, -1)
        return real(x.flatten(0, 1)[order][None])[0, order].view(x.shape)

    mlp.forward = shuffled
    records = train_together(jobs, base=base)
    assert {record.trainer for record in records} == {"plain"}
    assert all("do not give what each gives alone" in record.notes[0] for record in records)


@pytest.mark.parametrize("setting", [{"trainer": "grouped"}, {"patience": 2}])
def test_what_only_a_group_can_do_is_refused_elsewhere(base_of, tmp_path, setting):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=1, target_modules=("embed_tokens",), **setting)
    with pytest.raises(ConfigError, match=r"found +model.embed_tokens is of type Embedding"):
        train_together(jobs, base=base)
    assert not Path(jobs[0].out).exists()


def test_one_job_may_ask_for_the_grouped_trainer(base_of, tmp_path):
    folder, base = base_of("llama")
    seen = []
    (job,) = made_jobs(folder, tmp_path, n=1, trainer="grouped", max_steps=3)
    record = train_adapter(job, base=base, on_step=lambda done, total: seen.append((done, total)))
    assert record.trainer == "grouped" and seen == [(1, 3), (2, 3), (3, 3)]


def test_the_base_s_own_dropout_is_off_and_the_record_says_so(base_of, tmp_path):
    folder, base = base_of("gpt2_dropout")
    jobs = made_jobs(folder, tmp_path, n=1, max_steps=3)
    others = moved(jobs, tmp_path / "again")
    (record,) = train_together(jobs, base=base)
    train_together(others, base=base)
    assert record.notes == ("the base's own dropout was off; only lora_dropout was drawn",)
    assert content(jobs[0].out) == content(others[0].out)


def test_an_adapter_stops_early_and_keeps_its_best_weights(base_of, tmp_path):
    folder, base = base_of("llama")
    # A rate this high makes the dev loss rise within the run.
    steady = {"lr": 0.1, "schedule": "constant", "warmup_fraction": 0.0, "epochs": 20}
    jobs = made_jobs(folder, tmp_path, n=2, patience=2, eval_every=3, **steady)
    jobs[1:] = with_params(jobs[1:], patience=None, max_steps=6)
    stopped, other = train_together(jobs, base=base)
    assert stopped.n_steps < 76 and other.n_steps == 6
    assert any(f"stopped early after {stopped.n_steps} of 76 steps" in note for note in stopped.notes)
    # Two evaluations without a lower loss, three steps apart: the best weights are those of six steps before.
    (best,) = with_params(jobs[:1], patience=None, max_steps=stopped.n_steps - 6)
    (record,) = train_together([best], base=base)
    assert difference(best, jobs[0]) < SAME_UPDATES
    assert stopped.dev_loss == pytest.approx(record.dev_loss, rel=1e-4)
    assert stopped.n_tokens > record.n_tokens


def test_patience_without_dev_examples_is_noted(base_of, tmp_path):
    folder, base = base_of("llama")
    (job,) = made_jobs(folder, tmp_path, n=1, max_steps=2, patience=1)
    (record,) = train_together([dataclasses.replace(job, dev_file=None)], base=base)
    assert record.notes == ("without dev examples it could not stop early",)


def test_an_adapter_that_gives_out_does_not_hold_up_the_others(base_of, tmp_path):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, max_steps=8)
    jobs[1:2] = with_params(jobs[1:2], lr=1e30, warmup_fraction=0.0)
    with pytest.raises(NumericalError, match=r"cluster-1 gave out\n.*cluster-1, step \d of 8"):
        train_together(jobs, base=base)
    assert [is_finished(job) for job in jobs] == [True, False, True]
    alone = moved(jobs, tmp_path / "alone")[2]
    train_adapter(alone, base=base)
    assert difference(alone, jobs[2]) < SAME_UPDATES


def test_two_jobs_with_one_output_are_refused(base_of, tmp_path):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=2)
    jobs[1] = dataclasses.replace(jobs[1], out=jobs[0].out)
    with pytest.raises(ConfigError, match=r"two trainings have one output[\s\S]*2 jobs that write"):
        train_together(jobs, base=base)


def test_an_output_of_another_job_is_refused(trained):
    jobs, _, base = trained
    with pytest.raises(OutputExistsError, match="not this job's adapter"):
        train_together([dataclasses.replace(jobs[0], seed=99)], base=base)


def test_bad_data_are_refused_before_anything_is_trained(base_of, tmp_path):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path)
    Path(jobs[2].train_file).write_text('{"instruction": "Say nothing.", "output": ""}\n')
    with pytest.raises(DataError):
        train_together(jobs, base=base, on_step=lambda *_: pytest.fail("a step was taken"))


def test_a_job_that_another_process_trains_is_refused(base_of, tmp_path):
    folder, base = base_of("llama")
    jobs = made_jobs(folder, tmp_path, n=2, max_steps=2)
    caught = []

    def second(name, done, total):
        with pytest.raises(ArtifactError, match="another run is using this folder"):
            train_together(jobs[1:], base=base)
        caught.append(name)

    train_together(jobs, base=base, on_step=second)
    assert caught


def test_no_jobs_give_no_records():
    assert train_together([]) == ()

"""Jobs for other trainers: their keys, their data as they read it, and the same tokens that `tclora train` learns."""

import json
import os
import runpy
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from library_cases import CHAT, Heard, cheap_config

from tclora.cli.app import _status
from tclora.config import TrainConfig, load_config
from tclora.data import Example, Turn, read_examples
from tclora.errors import ConfigError, DataError, OutputExistsError, UnknownNameError
from tclora.models import bundled_base_path, tokenize_example
from tclora.models.skeleton import load_skeleton
from tclora.pipeline.exports.jobs import TRAINERS, ExportRequest, export_jobs
from tclora.pipeline.exports.plan import flat_yaml, micro_batches, step_bound
from tclora.pipeline.exports.rows import Rendered, as_messages, render

# The fields of the projects' own schemas that an export may use, as named in the headers of the files that write them.
AXOLOTL_KEYS = {
    *("base_model", "revision_of_model", "trust_remote_code", "load_in_4bit", "special_tokens", "datasets"),
    *("test_datasets", "val_set_size", "dataset_prepared_path", "train_on_inputs", "sequence_len", "sample_packing"),
    *("pad_to_sequence_len", "adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("peft_use_rslora", "micro_batch_size", "gradient_accumulation_steps", "num_epochs", "max_steps", "optimizer"),
    *("learning_rate", "lr_scheduler", "warmup_ratio", "weight_decay", "max_grad_norm", "gradient_checkpointing"),
    *("logging_steps", "evals_per_epoch", "saves_per_epoch", "save_total_limit", "auto_resume_from_checkpoints"),
    *("seed", "output_dir", "bf16", "fp16"),
}
AXOLOTL_DATASET_KEYS = {
    *("path", "split", "type", "ds_type", "chat_template", "field_messages", "message_field_training"),
    *("roles_to_train", "train_on_eos"),
}
LLAMA_FACTORY_TYPES = {
    **dict.fromkeys(("model_name_or_path", "stage", "finetuning_type", "lora_target", "dataset_dir", "dataset"), str),
    **dict.fromkeys(("eval_dataset", "template", "lr_scheduler_type", "eval_strategy", "save_strategy"), str),
    **dict.fromkeys(("report_to", "output_dir", "model_revision"), str),
    **dict.fromkeys(("do_train", "train_on_prompt", "mask_history", "bf16", "fp16", "use_rslora"), bool),
    **dict.fromkeys(("lora_rank", "lora_alpha", "cutoff_len", "per_device_train_batch_size", "seed"), int),
    **dict.fromkeys(("per_device_eval_batch_size", "gradient_accumulation_steps", "max_steps", "logging_steps"), int),
    **dict.fromkeys(("save_total_limit", "quantization_bit"), int),
    **dict.fromkeys(("lora_dropout", "num_train_epochs", "learning_rate", "warmup_ratio", "weight_decay"), float),
    "max_grad_norm": float,
}


@pytest.fixture(scope="module")
def config_path(tmp_path_factory) -> Path:
    return cheap_config(tmp_path_factory.mktemp("export"))


def exported(config_path: Path, out: Path, trainer: str, **wanted) -> Path:
    export_jobs(load_config(config_path, wanted.pop("set_", [])), ExportRequest(trainer, str(out), **wanted))
    return out


@pytest.fixture(scope="module")
def exports(config_path, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("jobs")
    return {trainer: exported(config_path, folder / trainer, trainer) for trainer in TRAINERS}


@pytest.fixture(scope="module")
def base(config_path):
    return load_skeleton(load_config(config_path).base)


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory) -> Path:
    """The bundled base with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    shutil.copytree(bundled_base_path(), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHAT}))
    return folder


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def encode(base, text: str) -> list[int]:
    return list(base.tokenizer(text, add_special_tokens=False)["input_ids"])


# How each trainer makes tokens of a row, from its source; the loss is on what is not None.
def axolotl_tokens(base, row: dict) -> tuple[list[int], list]:
    """prompt_strategies/input_output.py: segments, encoded one by one without special tokens."""
    ids, labels = [], []
    for segment in row["segments"]:
        part = encode(base, segment["text"])
        ids, labels = ids + part, labels + (part if segment["label"] else [None] * len(part))
    return ids, labels


def llama_factory_tokens(base, row: dict) -> tuple[list[int], list]:
    """data/template.py, the template `empty`: no prefix, the user's text, the answer's text, no eos."""
    prompt, response = encode(base, row["prompt"]), encode(base, row["response"])
    return prompt + response, [None] * len(prompt) + response


def unsloth_tokens(folder: Path):
    script = runpy.run_path(str(folder / "train_unsloth.py"))

    def tokens(base, row: dict) -> tuple[list[int], list]:
        made = script["row_of"](base.tokenizer, row["prompt"], row["response"], base.max_length)
        return made["input_ids"], [None if label == -100 else label for label in made["labels"]]

    return tokens


@pytest.mark.parametrize("trainer", list(TRAINERS))
@pytest.mark.parametrize("part", ["train", "dev"])
def test_every_trainer_sees_the_tokens_and_the_loss_of_tclora(exports, base, config_path, trainer, part):
    readers = {"axolotl": axolotl_tokens, "llama-factory": llama_factory_tokens}
    reader = readers.get(trainer) or unsloth_tokens(exports[trainer])
    run = Path(load_config(config_path).output)
    for name in ("cluster-0", "cluster-1"):
        examples = read_examples([str(run / "cluster" / f"{name}.{part}.jsonl")])
        rows = rows_of(exports[trainer] / "data" / f"{name}.{part}.jsonl")
        assert len(rows) == len(examples)
        for example, row in zip(examples, rows, strict=True):
            ids, labels = reader(base, row)
            ours = tokenize_example(base, example)
            assert tuple(ids) == ours.ids
            assert labels == [None] * ours.n_prompt + list(ours.ids[ours.n_prompt :])


def test_the_token_test_can_fail(base):
    row = {"segments": [{"label": True, "text": "x"}, {"label": True, "text": "y"}]}
    assert axolotl_tokens(base, row)[1] != [None, *axolotl_tokens(base, row)[0][1:]]


@pytest.mark.parametrize("n_words", [10, 300])
@pytest.mark.parametrize("n_answer", [3, 400])
def test_the_unsloth_script_cuts_long_rows_as_tclora_does(exports, base, n_words, n_answer):
    example = Example("word " * n_words, "", "answer " * n_answer)
    row = render(base, example)
    ids, labels = unsloth_tokens(exports["unsloth"])(base, {"prompt": row.prompt, "response": row.response})
    ours = tokenize_example(base, example)
    assert (tuple(ids), sum(label is None for label in labels)) == (ours.ids, ours.n_prompt)


@pytest.mark.parametrize("name", ["cluster-0", "cluster-1"])
def test_axolotl_configs_use_keys_of_its_schema(exports, name):
    settings = yaml.safe_load((exports["axolotl"] / "configs" / f"{name}.yaml").read_text())
    assert set(settings) <= AXOLOTL_KEYS
    for dataset in settings["datasets"] + settings["test_datasets"]:
        assert set(dataset) <= AXOLOTL_DATASET_KEYS
        assert (exports["axolotl"] / dataset["path"]).is_file()
    assert (settings["adapter"], settings["lora_r"], settings["train_on_inputs"]) == ("lora", 2, False)
    assert settings["output_dir"] == f"adapters/{name}"
    # AxolotlInputConfig.check_batch_size_fields asks for two of the three.
    assert settings["micro_batch_size"] * settings["gradient_accumulation_steps"] == 8


@pytest.mark.parametrize("name", ["cluster-0", "cluster-1"])
def test_llama_factory_configs_have_the_types_of_its_arguments(exports, name):
    settings = yaml.safe_load((exports["llama-factory"] / "configs" / f"{name}.yaml").read_text())
    for key, value in settings.items():
        assert type(value) is LLAMA_FACTORY_TYPES[key], key
    assert settings["template"] == "empty"
    info = json.loads((exports["llama-factory"] / "data" / "dataset_info.json").read_text())
    for key in ("dataset", "eval_dataset"):
        entry = info[settings[key]]
        rows = rows_of(exports["llama-factory"] / "data" / entry["file_name"])
        assert set(entry["columns"].values()) <= set(rows[0])


def test_unsloth_settings_are_arguments_that_it_takes(exports):
    settings = json.loads((exports["unsloth"] / "settings.json").read_text())
    assert settings["lora"]["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert set(settings["max_steps"]) == {"cluster-0", "cluster-1"}
    compile((exports["unsloth"] / "train_unsloth.py").read_text(), "train_unsloth.py", "exec")


def test_a_small_learning_rate_stays_a_number_in_yaml():
    assert yaml.safe_load(flat_yaml({"a": 1e-5, "b": 2.5e-6, "c": 1e20, "d": None}, title="t")) == {
        "a": 1e-5,
        "b": 2.5e-6,
        "c": 1e20,
    }


@pytest.mark.parametrize(
    ("batch", "micro", "found"), [(16, None, (16, 1)), (16, 5, (4, 4)), (7, 3, (1, 7)), (8, 99, (8, 1))]
)
def test_micro_batches_multiply_to_the_batch(batch, micro, found):
    assert micro_batches(TrainConfig(batch_size=batch, micro_batch_size=micro)) == found


@pytest.mark.parametrize(("most", "found"), [(None, None), (3, 3), (1000, None)])
def test_a_step_bound_is_written_only_where_it_binds(most, found):
    """In the other trainers `max_steps` overrules the epochs, where tclora takes the smaller."""
    assert step_bound(TrainConfig(batch_size=10, epochs=2, max_steps=most), 50) == found


@pytest.mark.parametrize("trainer", list(TRAINERS))
def test_run_all_trains_what_is_missing_and_skips_what_is_there(exports, tmp_path, trainer):
    folder = tmp_path / "moved"
    shutil.copytree(exports[trainer], folder)
    (folder / "adapters/cluster-0").mkdir(parents=True)
    (folder / "adapters/cluster-0/adapter_model.safetensors").write_bytes(b"")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("axolotl", "llamafactory-cli", "python"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n')
        (tools / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run([str(folder / "run_all.sh")], cwd="/", env=env, capture_output=True, text=True, check=True)
    assert "cluster-0: there already" in done.stdout
    assert (tmp_path / "calls").read_text().splitlines() == [TRAINERS[trainer].command("cluster-1")]


def test_the_readme_names_every_expected_adapter(exports):
    for folder in exports.values():
        text = (folder / "README.md").read_text()
        facts = json.loads((folder / "export.json").read_text())
        for job in facts["adapters"]:
            assert f"`{job['folder']}`" in text
        assert stat.S_IMODE((folder / "run_all.sh").stat().st_mode) & 0o100


def test_the_same_run_gives_the_same_bytes(config_path, exports, tmp_path):
    again = exported(config_path, tmp_path / "again", "axolotl")
    files = [path for path in sorted(exports["axolotl"].rglob("*")) if path.is_file()]
    assert files
    for path in files:
        assert (again / path.relative_to(exports["axolotl"])).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("trainer", ["axolotl", "llama-factory"])
def test_messages_go_with_a_chat_template(config_path, chat_base, tmp_path, trainer):
    out = exported(
        config_path,
        tmp_path / "out",
        trainer,
        prompts="messages",
        set_=[f"base.path={chat_base}", f"output={tmp_path / 'run'}"],
    )
    row = rows_of(out / "data/cluster-0.train.jsonl")[0]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    settings = yaml.safe_load((out / "configs/cluster-0.yaml").read_text())
    if trainer == "axolotl":
        dataset = settings["datasets"][0]
        assert (dataset["type"], dataset["chat_template"]) == ("chat_template", "tokenizer_default")
        assert [m[dataset["message_field_training"]] for m in row["messages"]] == [False, True]
    else:
        assert "template" not in settings
        assert settings["mask_history"] is True


def test_rendered_rows_hold_the_chat_template_of_the_tokenizer(config_path, chat_base, tmp_path):
    set_ = [f"base.path={chat_base}", f"output={tmp_path / 'run'}"]
    out = exported(config_path, tmp_path / "out", "llama-factory", set_=set_)
    row = rows_of(out / "data/cluster-0.train.jsonl")[0]
    assert row["prompt"].startswith("<|user|>")
    assert row["prompt"].endswith("<|assistant|>")


def test_only_the_last_answer_of_a_conversation_is_learned():
    example = Example("B?", "", "b", history=(Turn("system", "S"), Turn("user", "A?"), Turn("assistant", "a")))
    messages = as_messages(example, where="x")
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    trained = TRAINERS["axolotl"].row(example, Rendered("", ""), "messages", "x")["messages"]
    assert [m["train"] for m in trained] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (Example("", "", "only text"), "asks nothing"),
        (Example("q", "", "a", history=(Turn("user", "x"),)), "do not alternate"),
        (Example("q", "", "a", history=(Turn("assistant", "x"),)), "do not alternate"),
    ],
)
def test_what_is_no_conversation_is_refused_as_messages(example, said):
    with pytest.raises(DataError, match=said):
        as_messages(example, where="file")


@pytest.mark.parametrize(
    ("trainer", "changes", "wanted", "said"),
    [
        ("axolotl", ["train.lora_alpha=1.5"], {}, "whole lora_alpha"),
        ("llama-factory", ["train.lora_alpha=1.5"], {}, "whole lora_alpha"),
        ("unsloth", ["train.target_modules=[lm_head]"], {}, "no LoRA for some target modules"),
        ("unsloth", [], {"prompts": "messages"}, "need a chat template"),
        ("axolotl", [], {"prompts": "messages"}, "need a chat template"),
        ("axolotl", ["train.layers=first-half"], {}, "cannot be handed to another trainer"),
        ("axolotl", ["train.target_modules=[no_such]"], {}, "no_such"),
    ],
)
def test_what_a_trainer_cannot_do_is_refused_and_nothing_is_written(
    config_path, tmp_path, trainer, changes, wanted, said
):
    with pytest.raises(ConfigError, match=said):
        exported(config_path, tmp_path / "out", trainer, set_=changes, **wanted)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_trainer_is_refused_before_the_run(tmp_path):
    with pytest.raises(UnknownNameError, match="'torchtune' is not known"):
        exported(cheap_config(tmp_path), tmp_path / "out", "torchtune")
    assert not (tmp_path / "run").exists()


def test_trained_adapters_are_not_overwritten(config_path, tmp_path):
    out = exported(config_path, tmp_path / "out", "axolotl")
    with pytest.raises(OutputExistsError, match="the output exists"):
        exported(config_path, out, "axolotl")
    exported(config_path, out, "axolotl", overwrite=True)
    (out / "adapters/cluster-1").mkdir(parents=True)
    (out / "adapters/cluster-1/adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(OutputExistsError, match="holds trained adapters"):
        exported(config_path, out, "axolotl", overwrite=True)


def test_a_folder_that_is_no_export_is_never_replaced(config_path, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputExistsError, match="is no export"):
        exported(config_path, tmp_path, "axolotl", overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_rows_longer_than_the_window_are_counted_and_told(config_path, tmp_path):
    told = Heard()
    settings = load_config(config_path, ["base.max_length=16", f"output={tmp_path / 'run'}"])
    record = export_jobs(settings, ExportRequest("axolotl", str(tmp_path / "out")), told)
    assert record.counts["n_long"] > 0
    assert any("axolotl drops them" in note for note in told.notes)


def test_the_command_prints_one_line_of_json(config_path, tmp_path, capsys):
    words = ["export-jobs", str(config_path), "--for", "unsloth", "-o", str(tmp_path / "out"), "--json", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        _status(words)
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out)["trainer"] == "unsloth"


def test_a_dry_run_writes_nothing(config_path, tmp_path, capsys):
    words = ["export-jobs", str(config_path), "--for", "axolotl", "-o", str(tmp_path / "out"), "--dry-run", "--json"]
    with pytest.raises(SystemExit) as stop:
        _status(words)
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out)["for"] == "axolotl"
    assert not (tmp_path / "out").exists()

"""Loading a base: what comes out, and every refusal."""

import shutil

import pytest
import torch

from tclora.config import BaseModelConfig
from tclora.errors import ConfigError
from tclora.models import bundled_base_path, load_base


def test_the_bundled_base_is_frozen_float32_and_in_evaluation_mode(seed_lm):
    assert not seed_lm.model.training
    assert {weight.dtype for weight in seed_lm.model.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in seed_lm.model.parameters())
    assert (seed_lm.name, seed_lm.template.name, seed_lm.split_head) == ("tclora/seed-lm", "plain", True)


def test_the_bundled_base_carries_its_licence_note():
    assert "license: apache-2.0" in (bundled_base_path() / "README.md").read_text()


def test_max_length_never_exceeds_the_positions_of_the_model():
    assert load_base(BaseModelConfig(path="bundled", max_length=10**6)).max_length == 1024


def test_a_soft_capped_head_is_not_split(gemma2):
    assert not gemma2.split_head


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be found[\s\S]*no folder .*gone[\s\S]*do "):
        load_base(BaseModelConfig(path=str(tmp_path / "gone")))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be loaded[\s\S]*expected  config.json"):
        load_base(BaseModelConfig(path=str(tmp_path)))


def test_a_pickle_checkpoint_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(bundled_base_path(), folder)
    (folder / "model.safetensors").unlink()
    torch.save(load_base(BaseModelConfig(path="bundled")).model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="convert pickle weights to safetensors"):
        load_base(BaseModelConfig(path=str(folder)))


def test_a_chat_template_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="has no chat template"):
        load_base(BaseModelConfig(path="bundled", template="chat"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="cannot be put on CUDA"):
        load_base(BaseModelConfig(path="bundled", device="cuda"))


@pytest.mark.parametrize("name", ["babyllama361", "tinystories-656k"])
def test_checkpoints_made_elsewhere_load(shared, name):
    assert load_base(BaseModelConfig(path=str(shared / "models" / name))).split_head

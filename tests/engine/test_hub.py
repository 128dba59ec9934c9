from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from fastgan.engine import CheckpointError, load_generator, sample_images
from fastgan.models import DCGANGenerator

from .conftest import TINY, tiny_trainer

ARGUMENTS = {"latent_dim": 6, **TINY}


def saved(folder: Path) -> Path:
    trainer = tiny_trainer(
        steps=1,
        parts={"description": {"generator": {"name": "dcgan_generator", "arguments": ARGUMENTS}}},
    )
    trainer.train_step()
    return trainer.save(folder)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "fastgan.engine.hub", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"huggingface_hub: pip install 'fastgan\[hub\]'"):
        import fastgan.engine.hub  # noqa: F401


class TestHub:
    @pytest.fixture(autouse=True)
    def hub(self):
        pytest.importorskip("huggingface_hub", reason="needs fastgan[hub]")
        from fastgan.engine.hub import HubGenerator

        self.hub = HubGenerator

    def test_a_checkpoint_goes_to_a_folder_and_comes_back(self, tmp_path):
        checkpoint = saved(tmp_path / "checkpoints")
        self.hub.from_checkpoint(checkpoint).save_pretrained(tmp_path / "digits")
        config = json.loads((tmp_path / "digits" / "config.json").read_text())
        assert config == {"name": "dcgan_generator", "arguments": ARGUMENTS}
        again = self.hub.from_pretrained(tmp_path / "digits")
        own = load_generator(checkpoint)
        assert isinstance(again.module, DCGANGenerator)
        assert torch.equal(sample_images(again, 2), sample_images(own, 2))
        assert again.module.state_dict().keys() == own.state_dict().keys()

    def test_weights_of_another_model_and_bad_arguments_are_named(self, tmp_path):
        self.hub("dcgan_generator", ARGUMENTS).save_pretrained(tmp_path)
        wider = {"name": "dcgan_generator", "arguments": ARGUMENTS | {"latent_dim": 7}}
        (tmp_path / "config.json").write_text(json.dumps(wider))
        with pytest.raises(CheckpointError, match="generator is of another model"):
            self.hub.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match="unknown model 'dcgan_generatr'"):
            self.hub("dcgan_generatr", {})
        with pytest.raises(TypeError, match="arguments must be JSON"):
            self.hub("dcgan_generator", {"width": torch.ones(())})

    def test_a_checkpoint_of_an_unknown_generator_is_an_error(self, tmp_path):
        trainer = tiny_trainer(steps=1)
        trainer.train_step()
        with pytest.raises(CheckpointError, match="does not describe a generator"):
            self.hub.from_checkpoint(trainer.save(tmp_path))

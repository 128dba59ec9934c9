"""Networks of other tutorials are recognised before they are trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastgan import TrainConfig, Trainer
from fastgan.engine.log import SilentReporter

CONFIG = TrainConfig(steps=1, batch_size=4, sample_count=4, device="cpu")


def tutorial(end_g: nn.Module, end_d: nn.Module) -> tuple[nn.Module, nn.Module]:
    """PyTorch's DCGAN tutorial, small."""
    generator = nn.Sequential(nn.ConvTranspose2d(6, 4, 4), nn.BatchNorm2d(4), nn.ReLU(True))
    generator.extend([nn.ConvTranspose2d(4, 1, 4, 2, 1), end_g])
    return generator, nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 1, 4), end_d)


def trainer(generator: nn.Module, discriminator: nn.Module) -> Trainer:
    images = torch.rand(16, 1, 8, 8)
    return Trainer(generator, discriminator, images, CONFIG, latent_dim=6)


def test_noise_of_four_dimensions_is_an_error_before_the_folder_stands(tmp_path):
    made = trainer(*tutorial(nn.Tanh(), nn.Identity()))
    with pytest.raises(ValueError, match=r"\[N, 6, 1, 1\], and is given \[N, 6\].*Unflatten\(1, "):
        made.fit(tmp_path / "run", reporter=SilentReporter())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sigmoids", [True, False])
def test_sigmoids_are_warned_of_and_kept_with_the_run(tmp_path, sigmoids):
    ends = (nn.Sigmoid(), nn.Sigmoid()) if sigmoids else (nn.Tanh(), nn.Identity())
    generator, discriminator = tutorial(*ends)
    made = trainer(nn.Sequential(nn.Unflatten(1, (6, 1, 1)), generator), discriminator)
    before = {k: v.clone() for k, v in made.generator.state_dict().items()}
    state = torch.get_rng_state()
    from fastgan.engine.first_look import unlike

    found = unlike(made)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in made.generator.state_dict().items())
    assert made.generator.training
    assert len(found) == 2 * sigmoids
    result = made.fit(tmp_path / "run", reporter=SilentReporter())
    told = " ".join(result.warnings)
    assert ("lie in [0, 1]" in told) == ("take the Sigmoid" in told) == sigmoids


def test_an_error_of_the_generators_own_stays_what_it_is(tmp_path):
    broken = nn.Sequential(nn.Linear(5, 64), nn.Unflatten(1, (1, 8, 8)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer(broken, nn.Flatten()).fit(tmp_path / "run", reporter=SilentReporter())

"""Runs on data that are no uint8 images: they train, resume exactly, and are drawn or kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from fastgan.data import Batches, ImageDataset, Source
from fastgan.engine import Callback, TrainConfig, Trainer, sample_images
from fastgan.engine.grid import shown

from .test_trainer import assert_same

ITEMS = {"waveforms": (2, 16), "volumes": (1, 4, 4, 8), "thirteen": (13, 4, 8)}


class Generator(nn.Module):
    """Any items; a condition, if there is one, is appended to the noise."""

    def __init__(self, item, condition=0):
        super().__init__()
        self.item = item
        self.linear = nn.Linear(4 + condition, int(np.prod(item)))

    def forward(self, noise, *condition):
        return self.linear(torch.cat([noise, *condition], 1)).tanh().unflatten(1, self.item)


class Discriminator(nn.Module):
    def __init__(self, item, condition=0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(int(np.prod(item)) + condition, 8), nn.ReLU())
        self.logit = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, images, *condition):
        return self.logit(self.body(torch.cat([images.flatten(1), *condition], 1)))


class Noisy:
    """A set with [i] and len, whose items have a random part."""

    def __init__(self, item, condition=0):
        self.item, self.condition = item, condition

    def __len__(self):
        return 20

    def __getitem__(self, index):
        image = torch.full(self.item, index / 40) + torch.rand(self.item) / 2
        return (image, torch.full((self.condition,), float(index))) if self.condition else image


def trainer(data, item, condition=0, callbacks=(), **settings) -> Trainer:
    torch.manual_seed(0)
    models = Generator(item, condition), Discriminator(item, condition)
    defaults = {"steps": 6, "batch_size": 4, "log_every": 2, "sample_every": 0, "sample_count": 9}
    config = TrainConfig(**{**defaults, "conditional": bool(condition), **settings})
    return Trainer(*models, data, config, latent_dim=4, callbacks=callbacks)


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
@pytest.mark.parametrize("condition", [0, 3])
def test_a_loader_trains_and_resumes_exactly(tmp_path, recorder, item, condition):
    def made(**settings):
        data = DataLoader(Noisy(item, condition), batch_size=4, shuffle=True)
        return trainer(data, item, condition, regularizer="r1", **settings)

    whole = made()
    samples = whole.fit(tmp_path / "whole", reporter=recorder).samples
    made(steps=3).fit(tmp_path / "parts", reporter=recorder)
    again = made()
    again.fit(tmp_path / "parts", resume=True, reporter=recorder)
    assert_same(whole, again)
    if len(item) == 2:
        assert np.load(samples).shape == (9, *item)
    else:
        with Image.open(samples) as grid:
            assert grid.size == (8 * (3 * 10 + 2), 8 * (3 * 6 + 2))


def test_other_items_are_other_data(tmp_path, recorder):
    item = ITEMS["waveforms"]
    trainer(Noisy(item), item, steps=2).fit(tmp_path / "run", reporter=recorder)
    other = Noisy(item)
    other.__class__ = type("Noisy", (Noisy,), {"__len__": lambda _: 19})
    with pytest.raises(ValueError, match="data: "):
        trainer(other, item).fit(tmp_path / "run", resume=True, reporter=recorder)


def test_workers_end_with_the_run(tmp_path, recorder):
    item = ITEMS["waveforms"]
    data = DataLoader(Noisy(item), batch_size=4, shuffle=True, num_workers=1)
    trainer(data, item, steps=2).fit(tmp_path / "run", reporter=recorder)
    # They would hold the folder.
    result = trainer(data, item, steps=3).fit(tmp_path / "run", resume=True, reporter=recorder)
    assert result.step == 3
    single = trainer(Noisy(item), item, steps=3)
    single.fit(tmp_path / "single", reporter=recorder)


def test_an_iterable_trains_and_says_what_is_lost(tmp_path, recorder):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(lambda: torch.rand(2, 16), None)

    with pytest.warns(UserWarning, match="a resumed run starts it anew"):
        run = trainer(Endless(), (2, 16))
    assert run.fit(tmp_path / "run", reporter=recorder).finished


class Simulator:
    """A source of one's own: it makes its batches where they are needed."""

    name, shape, dtype = "simulator", (0, 1, 4, 4, 8), torch.float32
    value_range, labels = (-1.0, 1.0), None

    def some(self, count):
        return torch.zeros(count, *self.shape[1:])

    def fingerprint(self):
        return "simulator 1"

    def batches(self, batch_size, seed, device, flip=False, rank=0, world_size=1) -> Batches:
        self.made = batch_size, seed
        return self

    def rows(self, step):
        return (torch.tensor([step, self.made[1]]),)

    def gather(self, place):
        return torch.full((self.made[0], *self.shape[1:]), 0.5), None


def test_an_object_of_ones_own_is_a_source(tmp_path, recorder):
    source = Simulator()
    assert isinstance(source, Source)
    run = trainer(source, source.shape[1:])
    assert run.fit(tmp_path / "run", reporter=recorder).finished
    assert source.made == (4, 0)


def test_pairs_of_images_are_conditions(tmp_path, recorder):
    images = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    seen = []

    class Copy(Generator):
        def forward(self, noise, given):
            seen.append(given)
            return super().forward(noise) + given

    config = TrainConfig(steps=1, batch_size=4, conditional=True, sample_count=9)
    discriminator = Discriminator((1, 4, 4), 16)
    discriminator.forward = lambda x, given: Discriminator.forward(
        discriminator, x, given.flatten(1)
    )
    run = Trainer(
        Copy((1, 4, 4)), discriminator, ImageDataset(images, images), config, latent_dim=4
    )
    run.fit(tmp_path / "run", reporter=recorder)
    assert {tuple(given.shape) for given in seen} == {(4, 1, 4, 4), (9, 1, 4, 4)}
    assert seen[0].abs().max() <= 1


def test_a_callback_draws_in_place_of_the_grid(tmp_path, recorder):
    class Spectrum(Callback):
        def draw(self, trainer, images, stem):
            path = stem.with_suffix(".txt")
            path.write_text(str(list(images.shape)))
            return path

    run = trainer(Noisy((2, 16)), (2, 16), callbacks=[Callback(), Spectrum()], steps=1)
    samples = run.fit(tmp_path / "run", reporter=recorder).samples
    assert samples.read_text() == "[9, 2, 16]"
    assert [path.name for path in samples.parent.iterdir()] == [samples.name]


def test_what_a_picture_shows():
    volume = torch.arange(2 * 5 * 3 * 2 * 2.0).view(2, 5, 3, 2, 2)
    assert shown(volume).equal(volume[:, :3, 1])
    assert shown(volume[:, :2]).equal(volume[:, :1, 1])
    assert shown(volume[:, 0]).equal(volume[:, 0])
    assert shown(volume[0, 0]) is None


@pytest.mark.parametrize(
    ("item", "settings", "message"),
    [
        ((2, 16), {"augment": "ada"}, r"augment ada is for images \[C, H, W\]; .* \[2, 16\]"),
        ((2, 16), {"flip": True}, "flip mirrors images left-right"),
        ((2, 16), {"conditional": True}, "conditional needs labels"),
    ],
)
def test_settings_that_do_not_fit_the_items(item, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(Noisy(item), item, **settings)


def test_a_generator_of_another_size_is_told_so():
    from .conftest import tiny_trainer

    with pytest.raises(ValueError, match=r"makes images of \[1, 8, 8\], .* are \[1, 8, 6\]"):
        tiny_trainer(ImageDataset(torch.zeros(8, 1, 8, 6, dtype=torch.uint8)))


def test_the_loaders_batch_size_is_the_default():
    data = DataLoader(Noisy((2, 16)), batch_size=5)
    run = Trainer(Generator((2, 16)), Discriminator((2, 16)), data, latent_dim=4)
    assert run.config.batch_size == 5


def test_samples_of_conditions_that_are_no_classes():
    generator = Generator((2, 16), 3)
    generator.latent_dim = 4
    assert sample_images(generator, 5, labels=torch.zeros(5, 3)).shape == (5, 2, 16)
    with pytest.raises(ValueError, match=r"labels must be \[5, ...\], got \[4, 3\]"):
        sample_images(generator, 5, labels=torch.zeros(4, 3))

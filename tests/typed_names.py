"""What type checkers see of names that are imported late. mypy reads this file; nothing runs it."""

from pathlib import Path

from torch import nn
from typing_extensions import assert_type

import fastgan
from fastgan.data import ImageDataset
from fastgan.engine import TrainResult


def types_of_lazy_names(model: nn.Sequential, generator: nn.Module, path: Path) -> None:
    assert_type(fastgan.train("digits", steps=5), TrainResult)
    assert_type(fastgan.data.load(path), ImageDataset)
    assert_type(fastgan.nn.BatchNormAct2d(8), fastgan.nn.BatchNormAct2d)
    trainer = fastgan.Trainer(generator, model, fastgan.data.load(path))
    assert_type(trainer, fastgan.engine.Trainer)
    assert_type(fastgan.fuse(model), nn.Sequential)
    assert_type(fastgan.fold(model), nn.Module)
    assert_type(fastgan.load_generator("digits"), nn.Module)

"""A new run of a recipe from the weights of another."""

from __future__ import annotations

import json

import pytest
import torch

from fastgan.engine import load_generator
from fastgan.engine.log import SilentReporter
from fastgan.recipes import build_trainer, override, train

from .tiny_recipe import tiny


def same_weights(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(module.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_a_new_run_from_an_old_one_with_other_settings(tmp_path):
    silent = SilentReporter()
    recipe = override(tiny("digits"), steps=1, batch_size=4, limit=16, sample_count=4, device="cpu")
    old = train(recipe, out=tmp_path / "old", reporter=silent)
    start = override(recipe, init_from=str(old.out), lr_g=1e-5, batch_size=8, seed=3)
    fresh = build_trainer(start)
    assert same_weights(fresh.generator, load_generator(old.out, weights="raw"))
    new = train(start, out=tmp_path / "new", reporter=silent)
    facts = json.loads((new.out / "run.json").read_text())
    assert facts["start"]["init_from"] == str(old.out)
    assert facts["config"]["batch_size"] == 8
    # A resume does not look at the old run again, and takes no other start.
    old.out.rename(tmp_path / "moved")
    assert train(recipe, out=new.out, resume=True, steps=2, reporter=silent).step == 2
    with pytest.raises(ValueError, match="init_from is for a new run"):
        train(recipe, out=new.out, resume=True, steps=3, init_from="x", reporter=silent)

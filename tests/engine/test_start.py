"""Runs that start from weights trained before, and runs that go on elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastgan.engine import CheckpointError, Trainer, freeze_first, init_from, load_generator
from fastgan.engine.checkpoint import open_checkpoint
from fastgan.engine.state import _restored, moved
from fastgan.models import create_model

from .conftest import TINY, all_tensors, forge, tiny_data, tiny_trainer


def networks(seed: int = 5, **settings) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(seed)
    return (
        create_model("dcgan_generator", latent_dim=6, **{**TINY, **settings}),
        create_model("dcgan_discriminator", **{**TINY, **settings}),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from fastgan.engine.log import SilentReporter

    out = tmp_path_factory.mktemp("start") / "run"
    trainer = tiny_trainer(steps=2)
    return trainer.fit(out, reporter=SilentReporter()), trainer


def same(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = module.state_dict(), other.state_dict()
    return all(torch.equal(mine[n], theirs[n.replace("_orig_mod.", "")]) for n in mine)


def test_a_checkpoint_starts_both_networks_or_one(run):
    result, trainer = run
    generator, discriminator = networks()
    assert init_from(result.checkpoint, discriminator=discriminator) == []
    assert same(discriminator, trainer.discriminator)
    assert not same(generator, trainer.generator)
    init_from(result.out, generator)  # a run's folder is its newest checkpoint
    assert same(generator, trainer.generator)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_is_of_the_network_whose_names_it_has(which, prefix, tmp_path):
    file, source, target = tmp_path / "w.safetensors", networks(1), networks(2)
    state = source[which].state_dict()
    save_file({prefix + name: value.contiguous() for name, value in state.items()}, file)
    init_from(file, *target)
    assert same(target[which], source[which])
    assert not same(target[1 - which], source[1 - which])


def test_a_file_of_both_networks_and_of_half_precision(tmp_path):
    file, source, target = tmp_path / "w.safetensors", networks(1), networks(2)
    both = zip(("generator", "discriminator"), source, strict=True)
    state = {f"{n}.{k}": v.contiguous() for n, m in both for k, v in m.state_dict().items()}
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, file)
    init_from(file, *target)
    weight = next(target[0].parameters())
    assert weight.dtype == torch.float32
    assert torch.equal(weight, next(source[0].parameters()).half().float())


def test_another_architecture_is_told_by_names_and_shapes_and_nothing_is_loaded(run, tmp_path):
    generator, discriminator = networks(width=16)
    before = [p.clone() for p in generator.parameters()]
    with pytest.raises(CheckpointError, match=r"the generator is of another architecture: other"):
        init_from(run[0].checkpoint, generator, discriminator)
    assert all(map(torch.equal, before, generator.parameters()))
    other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"missing 0.bias, 0.weight; unexpected .* more"):
        init_from(run[0].checkpoint, other)
    save_file({"discriminator.x": torch.zeros(1)}, tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no generator"):
        init_from(tmp_path / "d.safetensors", generator)


def test_what_fits_is_taken_where_that_is_asked_for(run, tmp_path):
    generator, _ = networks()
    state = load_file(run[0].checkpoint / "generator.safetensors")
    name = sorted(n for n in state if n.endswith("weight"))[0]
    kept, state["head.weight"] = state.pop(name), torch.ones(2)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=rf"missing {name}; unexpected head.weight \(init_p"):
        init_from(tmp_path / "w.safetensors", generator)
    (note,) = init_from(tmp_path / "w.safetensors", generator, partial=True)
    assert f"taken in part: missing {name}; unexpected head.weight" in note
    assert not torch.equal(generator.state_dict()[name], kept)
    assert all(torch.equal(generator.state_dict()[n], state[n]) for n in state if n[0] != "h")


def test_a_file_that_is_none_is_told(tmp_path):
    bad = tmp_path / "w.safetensors"
    bad.write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        init_from(bad, *networks())
    with pytest.raises(FileNotFoundError, match="no checkpoint or run at"):
        init_from(tmp_path / "nothing", *networks())
    save_file({"x": torch.zeros(1)}, bad)
    with pytest.raises(CheckpointError, match=r"fits the generator as well .*init_networks"):
        init_from(bad, *networks())


def test_frozen_layers_stay_and_the_rest_is_trained(tmp_path, recorder):
    trainer = tiny_trainer(steps=3, freeze_d=1)
    before = {n: p.clone() for n, p in trainer.discriminator.named_parameters()}
    trainer.fit(tmp_path / "run", reporter=recorder)
    after = dict(trainer.discriminator.named_parameters())
    frozen = [name for name, p in after.items() if not p.requires_grad]
    assert frozen
    assert frozen == list(after)[: len(frozen)]
    for name in after:
        assert torch.equal(before[name], after[name]) == (name in frozen), name
    again = tiny_trainer(steps=5, freeze_d=1)
    again.fit(tmp_path / "run", resume=True, reporter=recorder)
    with pytest.raises(CheckpointError, match="freeze_d: 1 in the checkpoint, 0 now"):
        tiny_trainer(steps=7).fit(tmp_path / "run", resume=True, reporter=recorder)


def test_freezing_takes_a_norm_with_its_layer_and_leaves_one_to_train():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 1)
    )
    freeze_first(model, 1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["2.weight", "2.bias"]
    with pytest.raises(ValueError, match="has 2 layers with weights, got 2"):
        freeze_first(model, 2)


def test_checkpoints_of_compiled_networks_have_plain_names(tmp_path):
    def compiled() -> Trainer:
        trainer = tiny_trainer(steps=2, dropout=0.0)
        pair = (trainer.generator, trainer.discriminator)
        g, d = (torch.compile(m, backend="eager") for m in pair)
        return Trainer(g, d, tiny_data(), trainer.config)

    trainer = compiled()
    path = trainer.save(tmp_path)
    assert not any("_orig_mod" in name for name in open_checkpoint(path).tensors("generator"))
    plain = tiny_trainer(steps=2, dropout=0.0)
    plain.load(open_checkpoint(path))
    assert same(trainer.generator, plain.generator)
    # One that was written with the prefix, and a compiled network that takes a plain one.
    state = load_file(path / "generator.safetensors")
    save_file({f"_orig_mod.{k}": v for k, v in state.items()}, path / "generator.safetensors")
    forge(path)
    for other in (tiny_trainer(steps=2, dropout=0.0), compiled()):
        other.load(open_checkpoint(path))
        assert same(other.generator, plain.generator)
    generator = load_generator(path, weights="raw", generator=networks()[0])
    assert same(generator, plain.generator)


def as_if_on_cuda(checkpoint) -> None:
    """What differs in a checkpoint of a GPU: its random states and how its updates are computed."""
    rng = load_file(checkpoint / "rng.safetensors")
    philox = torch.arange(16, dtype=torch.uint8)
    save_file(rng | {"noise": philox, "cuda": philox.clone()}, checkpoint / "rng.safetensors")
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    for name in ("optimizer_g", "optimizer_d"):
        manifest[name]["param_groups"][0]["capturable"] = True
    manifest["config"]["device"] = "cuda"
    forge(checkpoint, manifest)


def test_a_run_of_a_gpu_goes_on_on_a_cpu_and_says_what_is_not_exact(tmp_path, recorder):
    first = tiny_trainer(steps=2)
    first.fit(tmp_path / "run", reporter=recorder)
    kept = all_tensors(first)
    as_if_on_cuda(tmp_path / "run" / "checkpoints" / "step-00000002")
    trainer = tiny_trainer(steps=4)
    with pytest.warns(UserWarning, match="written on cuda and goes on on cpu"):
        trainer.load(open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000002"))
    exact = all_tensors(trainer)
    assert all(torch.equal(kept[name], exact[name]) for name in kept if name != "noise")
    assert trainer.optimizer_g.param_groups[0]["capturable"] is False
    recorder.notes.clear()
    assert tiny_trainer(steps=4).fit(tmp_path / "run", resume=True, reporter=recorder).step == 4
    assert len([note for note in recorder.notes if note.startswith("warning")]) == 1
    assert not [n for n in recorder.notes if "goes on on" in n and "cuda" not in n]


def test_a_run_of_a_cpu_goes_on_on_a_gpu_with_its_own_noise(tmp_path, recorder, monkeypatch):
    """Without one: what would be restored there, and the optimizer's counts on another device."""
    path = tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder).checkpoint
    trainer, checkpoint = tiny_trainer(steps=4), open_checkpoint(path)
    assert moved(trainer, checkpoint) is None
    monkeypatch.setattr(trainer, "device", torch.device("cuda", 0))
    assert _restored(trainer, checkpoint.tensors("rng")).keys() == {"torch"}
    assert "written on cpu and goes on on cuda" in (moved(trainer, checkpoint) or "")

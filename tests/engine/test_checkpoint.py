from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as encode_tensors

from fastgan.engine import CheckpointError, find_checkpoint, load_generator, sample_images
from fastgan.engine import checkpoint as module
from fastgan.engine.checkpoint import list_checkpoints, open_checkpoint, save_checkpoint
from fastgan.models import create_model

from .conftest import TINY, all_tensors, forge, tiny_trainer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tensors = {"weights": {"a": torch.arange(6.0).reshape(2, 3).t()}, "rng": {"s": torch.ones(4)}}
    return save_checkpoint(tmp_path, 5, tensors, {"config": {"x": 1}})


def test_tensors_and_facts_come_back(saved):
    checkpoint = open_checkpoint(saved)
    assert checkpoint.step == 5
    assert checkpoint.manifest["config"] == {"x": 1}
    assert torch.equal(checkpoint.tensors("weights")["a"], torch.arange(6.0).reshape(2, 3).t())


def test_tensors_that_share_memory_are_saved(tmp_path):
    shared = torch.ones(3)
    path = save_checkpoint(tmp_path, 1, {"w": {"a": shared, "b": shared}}, {})
    assert torch.equal(open_checkpoint(path).tensors("w")["b"], shared)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: truncate(p / "weights.safetensors"), "weights.safetensors has"),
        (lambda p: flip_a_bit(p / "weights.safetensors"), "was altered"),
        (lambda p: (p / "rng.safetensors").unlink(), "rng.safetensors is missing"),
        (lambda p: truncate(p / "checkpoint.json"), "cannot be read"),
        (lambda p: (p / "checkpoint.json").write_text("[]"), "cannot be read"),
    ],
)
def test_a_torn_checkpoint_is_never_loaded(saved, damage, message):
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(saved)


def test_a_manifest_cannot_name_files_outside_its_folder(saved):
    manifest = json.loads((saved / "checkpoint.json").read_text())
    manifest["files"] = {"../evil.safetensors": {"bytes": 1, "sha256": "0"}}
    forge(saved, manifest)
    with pytest.raises(CheckpointError, match="outside itself"):
        open_checkpoint(saved)


def test_a_checkpoint_of_a_newer_format_says_so(saved):
    manifest = json.loads((saved / "checkpoint.json").read_text())
    (saved / "checkpoint.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99; this version reads up to 2"):
        open_checkpoint(saved)


def test_a_pickle_in_place_of_weights_is_not_executed(saved, tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    payload = pickle.dumps(Evil())
    (saved / "weights.safetensors").write_bytes(payload)
    forge(saved)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_checkpoint(saved).tensors("weights")
    assert not marker.exists()


def test_a_full_disk_leaves_the_last_good_checkpoint_and_no_part(tmp_path, monkeypatch):
    tensors = {"a": {"x": torch.ones(2)}, "b": {"x": torch.ones(2)}}
    good = save_checkpoint(tmp_path, 1, tensors, {})
    written = module._write_synced

    def full_after_one(path: Path, content: bytes) -> None:
        if path.name == "b.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, content)

    monkeypatch.setattr(module, "_write_synced", full_after_one)
    with pytest.raises(OSError, match=r"No space left on device.*last good one is") as raised:
        save_checkpoint(tmp_path, 2, tensors, {})
    assert raised.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == [good.name]
    assert open_checkpoint(good).step == 1


def test_a_real_write_limit_while_saving_is_a_clear_error(tmp_path):
    """The kernel itself refuses the write, as it does on a full disk."""
    code = f"""
    import sys, torch
    from pathlib import Path
    from fastgan.engine.checkpoint import save_checkpoint
    folder = Path({str(tmp_path)!r})
    save_checkpoint(folder, 1, {{"w": {{"x": torch.ones(10)}}}}, {{}})
    try:
        save_checkpoint(folder, 2, {{"w": {{"x": torch.ones(100_000)}}}}, {{}})
    except OSError as error:
        print(error)
        sys.exit(3)
    """

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "could not save the checkpoint of step 2" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_finding_checkpoints(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint or run at"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither a checkpoint nor a run"):
        find_checkpoint(tmp_path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    saved.rename(run / "checkpoints" / saved.name)
    assert find_checkpoint(run).step == 5
    (run / "checkpoints" / saved.name / "rng.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"every checkpoint of .* is torn"):
        find_checkpoint(run)


def test_a_registered_generator_is_built_again_from_its_checkpoint(tmp_path, recorder):
    trainer = tiny_trainer(steps=2)
    arguments = {"latent_dim": 6, **TINY}
    trainer.description = {"generator": {"name": "dcgan_generator", "arguments": arguments}}
    result = trainer.fit(tmp_path / "run", reporter=recorder)
    loaded = load_generator(result.out)
    z = torch.randn(3, 6)
    with torch.no_grad():  # as samples are drawn
        assert torch.equal(loaded(z), trainer.sample(z))
    raw = load_generator(result.checkpoint, weights="raw")
    assert torch.equal(raw.output.weight, trainer.generator.output.weight)
    with pytest.raises(ValueError, match="weights must be ema or raw"):
        load_generator(result.out, weights="best")


def test_a_foreign_generator_is_loaded_into_the_module_that_is_given(tmp_path, recorder):
    trainer = tiny_trainer(steps=2)
    result = trainer.fit(tmp_path / "run", reporter=recorder)
    with pytest.raises(CheckpointError, match="not registered"):
        load_generator(result.out)
    module = create_model("dcgan_generator", latent_dim=6, **TINY)
    loaded = load_generator(result.out, generator=module)
    z = torch.randn(2, 6)
    assert torch.equal(loaded(z), trainer.sample(z))
    other = create_model("dcgan_generator", latent_dim=7, **TINY)
    with pytest.raises(CheckpointError, match=r"of another model: project.conv.weight"):
        load_generator(result.out, generator=other)


def test_samples_depend_on_the_seed_alone():
    torch.manual_seed(0)
    generator = create_model("dcgan_generator", latent_dim=6, **TINY).eval()
    many = sample_images(generator, 10, seed=3, batch_size=4)
    few = sample_images(generator, 4, seed=3)
    torch.testing.assert_close(many[:4], few)
    assert not torch.allclose(sample_images(generator, 4, seed=4), few)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        sample_images(generator, 0)


def test_listing_ignores_what_is_not_a_checkpoint(saved, tmp_path):
    (tmp_path / ".partial-step-00000009").mkdir()
    (tmp_path / "notes").mkdir()
    assert list_checkpoints(tmp_path) == [saved]
    assert list_checkpoints(tmp_path / "nowhere") == []


def replace_tensor(checkpoint: Path, file: str, name: str, value: torch.Tensor | None) -> None:
    """Another tensor in a file, and hashes that agree."""
    tensors = open_checkpoint(checkpoint).tensors(file)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    (checkpoint / f"{file}.safetensors").write_bytes(encode_tensors(tensors))
    forge(checkpoint)


@pytest.mark.parametrize(
    ("file", "name", "value", "message"),
    [
        ("optimizer_g", "0.exp_avg", torch.zeros(3), r"0.exp_avg: float32 \(3,\) in the"),
        ("optimizer_d", "0.exp_avg_sq", torch.zeros(3), r"0.exp_avg_sq: float32 \(3,\) in the"),
        ("optimizer_g", "1.exp_avg", None, "parameter 1 has no exp_avg"),
        ("optimizer_g", "0.step", torch.zeros(2), r"0.step: float32 \(2,\) in the checkpoint"),
        ("optimizer_g", "99.exp_avg", torch.zeros(3), "has 99.exp_avg, which is of no parameter"),
        ("optimizer_g", "exp_avg", torch.zeros(3), "has exp_avg, which is of no parameter"),
        ("generator", "output.weight", torch.zeros(3), r"output.weight: float32 \(3,\)"),
        ("discriminator", "output.weight", None, "missing output.weight"),
        ("generator_ema", "new", torch.zeros(3), "unexpected new"),
        ("updates", "g.skipped", torch.zeros(2), r"g.skipped: float32 \(2,\)"),
        ("updates", "g.skipped", torch.zeros((), dtype=torch.int64), "g.skipped: int64"),
        ("rng", "noise", torch.zeros(9, dtype=torch.uint8), "noise is uint8"),
        ("rng", "noise", torch.zeros(5056, dtype=torch.uint8), "noise is uint8"),
        ("rng", "torch", torch.zeros(5056), "torch is float32"),
        ("rng", "noise", None, "rng does not fit: it has no noise"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_before_anything_is_loaded(
    tmp_path, recorder, file, name, value, message
):
    result = tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder)
    replace_tensor(result.checkpoint, file, name, value)
    trainer = tiny_trainer(steps=4)
    before = {k: v.clone() for k, v in all_tensors(trainer).items()} | {
        "torch": torch.get_rng_state()
    }
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(tmp_path / "run", resume=True, reporter=recorder)
    after = all_tensors(trainer) | {"torch": torch.get_rng_state()}
    assert after.keys() == before.keys()
    assert not [k for k, v in before.items() if not torch.equal(v, after[k])]
    assert trainer.step == 0


def test_a_run_goes_on_on_another_kind_of_device_with_noise_of_its_own(tmp_path, recorder):
    result = tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder)
    state = torch.zeros(16, dtype=torch.uint8)  # of the size that a GPU's has
    replace_tensor(result.checkpoint, "rng", "noise", state)
    replace_tensor(result.checkpoint, "rng", "cuda", state)
    noise = []
    for _ in range(2):
        trainer = tiny_trainer(steps=4)
        trainer.load(open_checkpoint(result.checkpoint))
        noise.append(trainer._draw_noise())
    assert torch.equal(*noise)
    assert not torch.equal(noise[0], tiny_trainer()._draw_noise())

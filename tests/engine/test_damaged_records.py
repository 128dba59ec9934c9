"""Any field of checkpoint.json, run.json, metrics.jsonl damaged in any way: clear errors only."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgan.cli import main
from fastgan.data import load
from fastgan.engine import CheckpointError, Trainer
from fastgan.engine.checkpoint import open_checkpoint, own_hash
from fastgan.engine.log import MetricsLog, SilentReporter
from fastgan.engine.run_folder import newest_unfinished, read_run
from fastgan.recipes import as_trained, get_recipe

from .conftest import TINY, all_tensors, tiny_trainer

DAMAGES: dict[str, Any] = {
    "null": None,
    "negative": -1,
    "infinite": float("inf"),
    "not a number": float("nan"),
    "huge": 10**400,
    "text": "?",
    "a list": [],
    "an object": {},
    "nested": "NESTED",
}
DELETED = object()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every field of a JSON value."""
    # The first entry of a list, and the first of the files, stand for the others.
    entries = list(value.items() if isinstance(value, dict) else enumerate(value[:1]))
    for key, inner in entries[:1] if path == ("files",) else entries:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))


def damaged(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    outer = value
    for key in path[:-1]:
        outer = outer[key]
    if new is DELETED:
        del outer[path[-1]]
    else:
        outer[path[-1]] = new
    return value


def every_damage(value: Any, *only: str) -> Iterator[tuple[str, Any]]:
    damages = {"deleted": DELETED, **DAMAGES}
    for path in places(value):
        for name, new in damages.items() if not only else ((n, damages[n]) for n in only):
            yield f"{'.'.join(map(str, path))} {name}", damaged(value, path, new)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, described as a recipe's runs are."""
    trainer = tiny_trainer(steps=2, checkpoint_every=1)
    trainer.description = {
        "recipe": "dcgan-64",
        "load": {"data": "mnist5k", "limit": 8, "resize": "center-crop"},
        "generator": {"name": "dcgan_generator", "arguments": {"latent_dim": 6, **TINY}},
    }
    out = tmp_path_factory.mktemp("damaged") / "run"
    return trainer.fit(out, reporter=SilentReporter()).out


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "checkpoints/step-00000002", tmp_path / "step-00000002"))


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value).replace('"NESTED"', "[" * 10_000 + "]" * 10_000))


def forge_manifest(checkpoint: Path, manifest: dict[str, Any]) -> None:
    """As ``write``, with the manifest's own hash made anew."""
    own = {k: v for k, v in manifest.items() if k != "sha256"}
    write(checkpoint / "checkpoint.json", {**own, "sha256": own_hash(own)})


def refusal(attempt: Callable[[], object]) -> str:
    """What a documented error says; nothing where there is none."""
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return ""


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "checkpoint.json").read_text())


def test_every_change_of_a_manifest_is_found(checkpoint):
    manifest = manifest_of(checkpoint)
    for what, changed in every_damage(manifest, "deleted", "negative", "nested"):
        write(checkpoint / "checkpoint.json", changed)
        told = refusal(lambda: open_checkpoint(checkpoint))
        assert str(checkpoint) in told, what


@pytest.mark.parametrize("name", ["step", "rollbacks"])
def test_a_number_that_is_edited_is_found(checkpoint, name):
    manifest = manifest_of(checkpoint)
    write(checkpoint / "checkpoint.json", {**manifest, name: 1})
    with pytest.raises(CheckpointError, match=r"checkpoint\.json was altered after"):
        open_checkpoint(checkpoint)
    if name == "step":
        forge_manifest(checkpoint, {**manifest, name: 1})
        with pytest.raises(CheckpointError, match="field step is 1, by its name it is of step 2"):
            open_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("name", "value"),
    [("betas", [0.9, 0.999]), ("eps", 1.0), ("weight_decay", 0.1), ("maximize", True)],
)
def test_an_optimizer_of_another_algorithm_is_refused(checkpoint, name, value):
    manifest = manifest_of(checkpoint)
    manifest["optimizer_d"]["param_groups"][0][name] = value
    forge_manifest(checkpoint, manifest)
    with pytest.raises(
        CheckpointError, match=rf"optimizer_d\.{name}: .* in the checkpoint, .* now"
    ):
        tiny_trainer().load(open_checkpoint(checkpoint))


def test_a_checkpoint_of_the_first_format_is_still_read(checkpoint):
    manifest = {**manifest_of(checkpoint), "format": 1}
    del manifest["sha256"]
    write(checkpoint / "checkpoint.json", manifest)
    assert open_checkpoint(checkpoint).step == 2
    write(checkpoint / "checkpoint.json", {**manifest, "format": 2})
    with pytest.raises(CheckpointError, match="field sha256 is missing"):
        open_checkpoint(checkpoint)


def state_of(trainer: Trainer) -> tuple[int, dict[str, torch.Tensor], list[str]]:
    groups = [trainer.optimizer_g.param_groups, trainer.optimizer_d.param_groups]
    settings = [str({**g, "params": len(g["params"]), "lr": 0}) for gs in groups for g in gs]
    return trainer.step, {k: v.clone() for k, v in all_tensors(trainer).items()}, settings


def assert_same(trainer: Trainer, expected: Any, what: str) -> None:
    step, tensors, settings = state_of(trainer)
    assert (step, settings) == (expected[0], expected[2]), what
    assert not [k for k in expected[1] if not torch.equal(tensors[k], expected[1][k])], what


def test_a_forged_manifest_is_refused_by_name_or_loads_what_was_saved(checkpoint):
    """No half of a checkpoint is ever loaded, whatever of its manifest is changed."""
    manifest = manifest_of(checkpoint)
    intact = tiny_trainer(steps=2)
    intact.load(open_checkpoint(checkpoint))
    saved = state_of(intact)
    trainer = tiny_trainer(steps=2)
    fresh = state_of(trainer)
    free = {"sha256", "recipe", "load", "generator"}

    def resume(trainer: Trainer) -> None:
        trainer.load(open_checkpoint(checkpoint))

    for what, changed in every_damage({k: v for k, v in manifest.items() if k not in free}):
        forge_manifest(checkpoint, changed)
        told = refusal(partial(resume, trainer))
        assert not told or str(checkpoint) in told or "the checkpoint's" in told, what
        assert_same(trainer, fresh if told else saved, what)
        trainer = trainer if told else tiny_trainer(steps=2)


def commands(run: Path, tmp_path: Path) -> list[list[str]]:
    out = str(tmp_path / "out")
    return [
        ["sample", str(run), "-n", "2", "--force", "-o", f"{out}.png"],
        ["export", str(run), "--format", "safetensors", "--force", "-o", out],
        ["picture", "nearest", str(run), "--force", "-o", f"{out}.png"],
        ["eval", str(run), "--metrics", "fid"],
    ]


def test_commands_name_the_file_of_a_damaged_manifest(run, tmp_path, capsys, monkeypatch):
    out = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(out / "checkpoints/step-00000001")
    checkpoint = out / "checkpoints/step-00000002"
    manifest = manifest_of(checkpoint)
    reals = load("mnist5k", image_size=8, channels=1, limit=40)
    for module in ("fastgan.cli.picture", "fastgan.recipes.evaluation"):
        monkeypatch.setattr(f"{module}.load", lambda *_, **__: reals)
    monkeypatch.setattr("fastgan.recipes.evaluation.sample_scores", lambda *_, **__: [])
    for command in commands(out, tmp_path):
        assert main(command) == 0
    read = {k: manifest[k] for k in ("load", "generator")}
    for what, changed in every_damage(read):
        others = {k: manifest[k] for k in manifest if k not in read}
        forge_manifest(checkpoint, {**others, **changed})
        for command in commands(out, tmp_path):
            status = main(command)
            told = capsys.readouterr().err
            named = str(out) in told or "the checkpoint's" in told
            assert status == 0 or named, f"{command[0]}: {what}: {told}"


def test_every_field_of_a_runs_description(run, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    facts = json.loads((run / "run.json").read_text())
    recipe = get_recipe("dcgan-64")
    for what, changed in every_damage(facts):
        write(out / "run.json", changed)
        for reader in (
            lambda: read_run(out),
            lambda: newest_unfinished(tmp_path, "run"),
            lambda: as_trained(recipe, out),
        ):
            told = refusal(reader)
            assert not told or str(out) in told, what


def test_lines_of_the_log_that_are_damaged_are_dropped_and_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = {"step": 1, "seconds": 0.5, "loss_d": 1.0, "loss_g": None}
    for what, changed in every_damage(good):
        write(path, changed)
        damaged_line = path.read_text()
        path.write_text(f"{json.dumps(good)}\n{damaged_line}\n[]\n\xff\n{json.dumps(good)}\n")
        log = MetricsLog(path, resume_step=1)
        log.close()
        kept = path.read_text().splitlines()
        assert kept[0] == kept[-1] == json.dumps(good), what
        assert len(kept) + len(log.dropped) == 5, what
        assert all(str(path) in told for told in log.dropped)


def test_resume_falls_back_to_the_newest_checkpoint_that_is_whole(run, tmp_path, recorder):
    out = Path(shutil.copytree(run, tmp_path / "run"))
    newest = out / "checkpoints/step-00000002"
    manifest = manifest_of(newest)
    del manifest["config"]
    forge_manifest(newest, manifest)
    result = tiny_trainer(steps=3, checkpoint_every=1).fit(out, resume=True, reporter=recorder)
    assert result.finished
    assert "checkpoint.json: field config is missing" in recorder.notes[0]
    assert recorder.notes[1].endswith("at step 1")


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_anew(run, tmp_path, recorder):
    out = Path(shutil.copytree(run, tmp_path / "run"))
    for path in (out / "checkpoints").iterdir():
        write(path / "checkpoint.json", {})
    with pytest.raises(CheckpointError, match=r"every checkpoint of .* is torn, and force alone"):
        tiny_trainer(steps=3).fit(out, resume=True, reporter=recorder)
    assert len(list((out / "checkpoints").iterdir())) == 2

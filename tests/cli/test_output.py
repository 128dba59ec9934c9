"""What a command writes never costs anything that stood there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.cli import main
from fastgan.fusion import export
from fastgan.metrics import Score, load_scores
from fastgan.models import create_model
from fastgan.system import whole_file

SHORT = ["--steps=2", "--batch-size=4", "--limit=16", "--sample-count=4", "--device=cpu"]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("output") / "run"
    assert main(["train", "digits", "--out", str(out), *SHORT]) == 0
    return out


COMMANDS = {
    "sample": ["sample", "RUN", "-n=4"],
    "picture": ["picture", "interpolation", "RUN", "--rows=1", "--columns=2"],
    "evolution": ["picture", "evolution", "RUN"],
    "eval": ["eval", "RUN", "--metrics=is", "--samples=20"],
    "safetensors": ["export", "RUN", "--format=safetensors"],
    "torch-export": ["export", "RUN", "--format=torch-export"],
    "onnx": ["export", "RUN", "--format=onnx"],
}
every_command = pytest.mark.parametrize("command", COMMANDS)


def line(command: str, run: Path, out: Path, *more: str) -> list[str]:
    return [str(run) if a == "RUN" else a for a in COMMANDS[command]] + ["-o", str(out), *more]


def refused(arguments: list[str], capsys) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastgan: error: ")
    assert "Traceback" not in error
    assert "Safetensor" not in error
    return error


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of what it holds."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


@every_command
def test_an_existing_file_stays_unless_forced(command, run, tmp_path, capsys):
    if command == "onnx":
        pytest.importorskip("onnxscript")
    if command == "eval":
        pytest.importorskip("torchmetrics")
    out = tmp_path / "new" / "file"
    out.parent.mkdir()
    out.write_text("precious")
    error = refused(line(command, run, out), capsys)
    assert f"{out} stands already: --force writes over it" in error
    assert out.read_text() == "precious"
    assert main(line(command, run, out, "--force")) == 0
    assert str(out) in capsys.readouterr().out
    assert out.stat().st_size > 100
    assert [p.name for p in out.parent.iterdir()] == ["file"]


@every_command
def test_no_command_writes_into_checkpoints(command, run, capsys):
    before = content(run)
    place = run / "checkpoints" / "step-00000002" / "generator.safetensors"
    assert "belongs to the" in refused(line(command, run, place, "--force"), capsys)
    assert content(run) == before


def test_a_runs_own_files_are_never_written_over(run, tmp_path, capsys):
    before = content(run)
    checkpoint = run / "checkpoints" / "step-00000002"
    (tmp_path / "link").symlink_to(checkpoint)
    (tmp_path / "file").symlink_to(checkpoint / "generator.safetensors")
    places = [
        checkpoint / "generator.safetensors",
        checkpoint / "checkpoint.json",
        checkpoint / "new.safetensors",
        run / "checkpoints" / "new.safetensors",
        run / "checkpoints" / "new" / "deep" / "file",
        run / "samples" / ".." / "checkpoints" / "new",
        run / "run.json",
        run / "metrics.jsonl",
        tmp_path / "link" / "generator.safetensors",
        tmp_path / "file",
    ]
    for place in places:
        for force in ([], ["--force"]):
            assert "belongs to the" in refused(line("safetensors", run, place, *force), capsys)
    assert content(run) == before


@every_command
def test_no_command_takes_a_folder_for_a_file(command, run, tmp_path, capsys):
    assert "is a folder, expected a file" in refused(line(command, run, tmp_path), capsys)


def test_what_is_no_place_for_a_file_is_said(run, tmp_path, capsys):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        tmp_path / "folder": "is a folder, expected a file",
        tmp_path / "file" / "below": "is a file, expected a folder",
        tmp_path / "file" / "far" / "below": "is a file, expected a folder",
        tmp_path / "fifo": "is no regular file",
        tmp_path / "loop": "symbolic link",
        tmp_path / ("n" * 300): "File name too long",
        Path("/dev/null"): "is no regular file",
    }
    before = content(tmp_path / "folder")
    for place, message in cases.items():
        error = refused(line("sample", run, place, "--force"), capsys)
        assert message in error
    assert content(tmp_path / "folder") == before
    assert Path("/dev/null").is_char_device()


@every_command
def test_a_folder_without_permission_is_named_before_the_work(
    command, run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    error = refused(line(command, run, tmp_path / "new" / "file"), capsys)
    assert f"{tmp_path}: no permission to write into the folder" in error
    assert not list(tmp_path.iterdir())


def test_a_link_leads_to_where_the_file_is_written(run, tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "grid.png")
    assert main(line("sample", run, tmp_path / "link.png")) == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real" / "grid.png").stat().st_size > 100


@pytest.mark.parametrize("format", ["onnx", "torch-export", "safetensors"])
def test_a_disk_that_fills_up_costs_nothing(format, tmp_path, monkeypatch):
    if format == "onnx":
        pytest.importorskip("onnxscript")
    generator = create_model("dcgan_generator", latent_dim=8, image_size=16, width=4)
    out = tmp_path / "generator"
    out.write_text("precious")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        export(generator, (torch.randn(2, 8),), out, format)
    assert caught.value.filename == str(out)
    assert out.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["generator"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half", None])
    assert not list(path.parent.iterdir())
    with whole_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    # The error of another file keeps that file's name.
    with pytest.raises(FileNotFoundError) as caught, whole_file(path):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")
    assert path.read_bytes() == b"whole"


def test_tuning_looks_at_its_table_before_it_measures(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    error = refused(["tune", "digits", "--device=cpu"], capsys)
    assert f"{tmp_path / 'cache'}: is a file, expected a folder" in error


def test_benchmarks_look_at_their_folder_first(tmp_path, capsys):
    (tmp_path / "file").write_text("a file")
    for place in ("file", "file/below"):
        error = refused(["bench", f"--results={tmp_path / place}"], capsys)
        assert "is a file, expected a folder" in error


def test_scores_that_are_measured_again_replace_the_old_ones_whole(tmp_path, monkeypatch):
    from fastgan.metrics import save_scores

    path = tmp_path / "scores.json"
    save_scores([Score("fid", 1.0)], path)
    with pytest.raises(TypeError):
        save_scores([Score("fid", 2.0, setting={"bad": object()})], path)
    assert load_scores(path)[0].value == 1.0


def test_pictures_go_to_the_runs_folder_each_under_a_name_of_its_own(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    newest = max((run / "checkpoints").iterdir())
    assert main(["sample", str(run), "-n=4"]) == 0
    assert main(["sample", str(newest), "-n=4"]) == 0
    assert main(["picture", "evolution", str(run)]) == 0
    names = sorted(path.name for path in (run / "pictures").iterdir())
    assert names == ["evolution.gif", "grid-2.png", "grid.png"]
    alone = tmp_path / "elsewhere"
    shutil.copytree(newest, alone)
    assert main(["sample", str(alone), "-n=4"]) == 0
    assert [path.name for path in tmp_path.glob("*.png")] == ["grid.png"]


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("PNG", "PNG")])
def test_a_picture_is_of_the_format_that_its_name_says(suffix, kind, tmp_path):
    out = tmp_path / f"grid.{suffix}"
    assert main(["sample", "digits", "-n", "4", "-o", str(out), "--device=cpu"]) == 0
    with Image.open(out) as image:
        assert image.format == kind


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "digits"],
        ["picture", "interpolation", "digits"],
        ["upscale", "digits", "none.png"],
        ["augment-preview", "none", "--augment=ada"],
    ],
    ids=lambda command: command[0],
)
def test_a_picture_of_no_known_format_is_refused_at_once(command, tmp_path, capsys):
    out = tmp_path / "grid.bmpx"
    assert main([*command, "-o", str(out)]) == 2
    assert f"{out}: a picture is one of .png, .jpg, .jpeg, .webp" in capsys.readouterr().err
    assert not out.exists()


def test_an_onnx_file_is_written_without_remarks_of_torch(run, tmp_path):
    pytest.importorskip("onnxscript", reason="needs fastgan[onnx]")
    command = [sys.executable, "-m", "fastgan", "export", str(run), f"--out={tmp_path / 'g.onnx'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["translate", "upscale", "vocode", "inpaint"])
def test_a_generator_that_draws_from_noise_makes_nothing_of_an_image(command, tmp_path, capsys):
    image = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(image)
    images = [str(image)] * (2 if command == "inpaint" else 1)
    assert main([command, "digits", *images, "-o", str(tmp_path / "made.png")]) == 2
    told = capsys.readouterr().err
    assert f"fastgan: error: {command} needs " in told
    assert "got CDCGANGenerator" in told

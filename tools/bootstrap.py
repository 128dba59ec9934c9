"""Make a virtual environment and install fastgan into it. Needs only Python's standard library.

    python3 tools/bootstrap.py .venv

A torch that the base interpreter has already is used as it is, never replaced: the environment then
sees the base's packages, and only what is missing is installed. Where there is no torch, the
versions of constraints.txt are installed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)
# For tests/metrics, in a folder of their own and without what they require: the index's torchvision
# does not import beside a torch without CUDA, nor torchmetrics beside the two.
BESIDE, OTHERS = "torch-fidelity", ("timm",)
# By a path instead of an import hook: beside a clone called fastgan Python would find that folder
# first, and take it for an empty package.
EDITABLE = ["--config-settings", "editable_mode=compat", "--editable"]


def main(arguments: list[str]) -> int:
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        print(f"fastgan needs Python {needed} or newer; this is {sys.version.split()[0]}")
        return 1
    folder = Path(arguments[0] if arguments else ".venv")
    has_torch = importlib.util.find_spec("torch") is not None
    if not (folder / "bin" / "python").exists():
        if importlib.util.find_spec("ensurepip") is None:
            print("this Python cannot make environments: install its venv package (python3-venv)")
            return 1
        print(
            f"making {folder}" + (", with the torch that is installed already" if has_torch else "")
        )
        venv.create(folder, with_pip=True, system_site_packages=has_torch)
    python = str(folder / "bin" / "python")
    if (code := install(python, folder)) == 0:
        print(native_line())
        print(f"`source {folder}/bin/activate` puts the fastgan command on your path")
    return code


def install(python: str, folder: Path) -> int:
    """Install torch where there is none, then fastgan, editable, with its tests and tools.

    torch comes first because the extension is built against it. From then on the version that
    stands is a constraint: pip may not replace it.
    """
    pip = [python, "-m", "pip", "install", "--quiet"]
    if installed_version(python, "torch") is None:
        print("first PyTorch, some hundred MB", flush=True)
        if code := run([*pip, "--constraint", "constraints.txt", "torch", "triton"]):
            return code
    kept = folder / "constraints.txt"
    versions = {name: installed_version(python, name) for name in ("torch", "triton")}
    kept.write_text("".join(f"{name}=={v}\n" for name, v in versions.items() if v))
    package = [*pip, "--constraint", str(kept.resolve()), "--no-build-isolation", *EDITABLE]
    beside = [*pip, "--no-deps", "--upgrade", "--target", str((folder / BESIDE).resolve())]
    steps = [
        ("what builds it", [*pip, "setuptools>=77"]),
        ("fastgan: building its C++ extension takes minutes on few cores", [*package, ".[dev]"]),
        ("what tests compare with", [*beside, BESIDE, *OTHERS]),
    ]
    for what, command in steps:
        print(f"then {what}", flush=True)
        if code := run(command):
            return code
    return 0


def installed_version(python: str, package: str) -> str | None:
    """The version of ``package`` that ``python`` sees, or None."""
    probe = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def run(command: list[str]) -> int:
    """Run ``command`` in the project's folder, shown; its exit status."""
    print("+", " ".join(command), flush=True)
    if code := subprocess.call(command, cwd=ROOT):
        print("the installation failed; the lines above say why")
        return code
    return 0


def native_line() -> str:
    """One line that says whether the C++ extension was built, and if not, what is missing."""
    try:
        build = json.loads((ROOT / "fastgan" / "_build.json").read_text())
    except FileNotFoundError:
        return "C++ extension: not built; PyTorch's own operators are used"
    if build["native"]:
        return "C++ extension: built" + (" with CUDA" if build.get("cuda") else "")
    return f"C++ extension: not built ({build['reason']}); PyTorch's own operators are used"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The house rules that a machine can check: which room imports which."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastgan"

# From the ground up. A room imports rooms of lower floors, and itself.
FLOORS = [
    {"checks", "kernels", "optim", "system"},
    {"ops"},
    {"nn"},
    {"fusion"},
    {"models", "losses", "regularizers", "augment", "data", "metrics"},
    {"engine"},
    {"recipes"},
    {"doctor"},
    {"cli"},
]
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def rooms() -> list[str]:
    names = {p.stem for p in PACKAGE.iterdir() if p.is_dir() or p.suffix == ".py"}
    return sorted(names - {"__init__", "__main__", "__pycache__"})


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        parts = [name.split(".") for name in names]
        found |= {p[1] for p in parts if p[0] == "fastgan" and len(p) > 1}
    return found & HEIGHT.keys()


def test_every_room_has_a_floor():
    assert rooms() == sorted(HEIGHT)


@pytest.mark.parametrize("room", sorted(HEIGHT))
def test_a_room_imports_only_rooms_below_it(room):
    files = [PACKAGE / f"{room}.py"]
    if (PACKAGE / room).is_dir():
        files = sorted((PACKAGE / room).rglob("*.py"))
    for file in files:
        above = {r for r in imported_rooms(file) if HEIGHT[r] >= HEIGHT[room] and r != room}
        assert not above, f"{file.relative_to(ROOT)} imports {sorted(above)}"


def modules() -> dict[str, Path]:
    """The package's modules by their dotted names, kernels included."""
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").rglob("*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a file names in imports anywhere in it, for types too."""
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, (package if node.level else "", node.module)))
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if name in known else origin for name in names}
    return found & known.keys()


def test_no_files_import_each_other_in_a_circle():
    known = modules()
    edges = {name: imports(path, known) - {name} for name, path in known.items()}
    while leaves := {name for name, targets in edges.items() if not targets}:
        edges = {n: targets - leaves for n, targets in edges.items() if n not in leaves}
    assert not edges, f"in circles, or above one: {sorted(edges)}"


def test_no_room_takes_underscore_names_of_another():
    known = modules()
    for name, path in known.items():
        room = name.split(".")[1] if "." in name else ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "fastgan."
            ):
                continue
            for alias in node.names:
                of, *rest = [*node.module.split(".")[1:], alias.name]
                private = [part for part in rest if part.startswith("_")]
                assert of == room or not private, f"{name} takes {private[0]} from {of}"


# Tuples whose entries have names.
NAMED = {"args", "inputs", "spec", "norm", "geometry", "epilogue"}
NAMED |= {"needs_input_grad", "saved_tensors"}


def counted_by_place(tree: ast.AST) -> list[int]:
    """The lines that cut arguments, or pad with Nones, by counting."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            of = node.value
            # The args of a node of torch.fx have no names.
            name = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
            if name in NAMED and not ast.unparse(of).endswith(".args"):
                found.append(node.lineno)
        elif isinstance(node, ast.BinOp) and ast.unparse(node.left) == "(None,)":
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("line", ["args[4:15]", "ctx.needs_input_grad[:7]", "(None,) * 20"])
def test_counting_is_seen(line):
    assert counted_by_place(ast.parse(line))


def test_arguments_have_names_instead_of_places():
    for name, path in modules().items():
        lines = counted_by_place(ast.parse(path.read_text(encoding="utf-8")))
        assert not lines, f"{name} counts arguments in lines {lines}; see ops/core/arguments.py"


# What ops share, by side; everything else there is an op's folder or file.
SHARED = {
    "fastgan/ops": {"core", "__init__"},
    "kernels": {"core"},
    "csrc/cpu": {"simd", "runtime", "transpose"},
    "csrc/cuda": {"device"},
}
OPS = {"bias_act", "conv", "conv_block", "conv_norm_act", "gather_images", "norm_act"}
OPS |= {"adam", "mean_loss", "norm_act_conv", "small_channels"}


@pytest.mark.parametrize("side", SHARED)
def test_an_op_stands_in_its_folder(side):
    suffixes = {".py", ".cpp", ".h", ".cu", ".cuh"}
    for path in (ROOT / side).iterdir():
        if (path.is_dir() and path.name != "__pycache__") or path.suffix in suffixes:
            assert path.stem in OPS | SHARED[side], f"{path.relative_to(ROOT)} is no op's"
            assert path.is_dir() or path.suffix == ".py", f"{path.relative_to(ROOT)}: in a folder"


def test_kernels_stand_once_and_are_no_package_of_their_own():
    assert (PACKAGE / "kernels").resolve() == ROOT / "kernels"
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert importlib.util.find_spec("fastgan.kernels.norm_act") is not None


def test_ruff_refuses_a_top_level_kernels(tmp_path):
    source = tmp_path / "user.py"
    source.write_text("import kernels\n\nprint(kernels)\n")
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed in this environment")
    done = subprocess.run(
        [ruff, "check", "--config", ROOT / "pyproject.toml", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TID251" in done.stdout

"""The kernel report: its own logic, and a small part of the committed one compiled again."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("tools.kernel_report.compare")


@pytest.fixture
def rows(compare: ModuleType) -> tuple:
    first = compare.Row("a_kernel", "bf16 x=1", "sm_90", 32, 0, 1024, 16, 8)
    second = compare.Row("a_kernel", "bf16 x=2", "gfx942", 64, 0, 0, 4, 4, 2)
    return first, second


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.kernel_report", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_report_survives_the_file(compare: ModuleType, rows: tuple, tmp_path: Path) -> None:
    report = {"triton": compare.Section("triton 1.2", tuple(sorted(rows)))}
    path = tmp_path / "kernels.json"
    assert compare.load(path) == {}
    path.write_text(compare.dump(report))
    loaded = compare.load(path)
    assert loaded["triton"].toolchain == "triton 1.2"
    assert set(loaded["triton"].rows) == set(rows)
    assert compare.dump(loaded) == path.read_text()
    assert "| a_kernel | sm_90 | 1 | 32 | 0 | 1024 | 16 | 8 |" in compare.markdown(loaded)


@pytest.mark.parametrize("text", ["", "[]", '{"triton": {}}', '{"triton": {"toolchain": ""}}'])
def test_a_malformed_report_is_an_error(compare: ModuleType, text: str, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a kernel report"):
        compare.load(path)


def test_every_kind_of_difference_is_found(compare: ModuleType, rows: tuple) -> None:
    first, second = rows
    section = compare.Section
    everything = compare.Select()
    old = section("t", rows)
    assert compare.differences(old, section("t", rows), everything) == []
    changed = compare.Row(*first.key, 40, 0, 1024, 16, 8)
    assert compare.differences(old, section("t", (changed, second)), everything) == [
        "a_kernel bf16 x=1 sm_90: registers 32 -> 40"
    ]
    assert "no longer compiled" in compare.differences(old, section("t", (first,)), everything)[0]
    assert "not in the report" in compare.differences(section("t", ()), old, everything)[0]
    only = compare.Select("x=1", ("sm_90",))
    assert compare.differences(old, section("t", (first,)), only) == []


def test_a_spill_is_a_problem(compare: ModuleType) -> None:
    row = compare.Row("a", "b", "sm_90", 255, 16, 0, 16, 16)
    assert compare.spilled([row]) == ["a b sm_90: spills 16"]
    assert compare.unfit([row]) == compare.spilled([row])


def test_a_matrix_product_without_tensor_cores_is_a_problem(compare: ModuleType) -> None:
    row = compare.Row("a", "b", "sm_90", 255, 0, 0, 16, 16, 0)
    assert compare.unfit([row]) == ["a b sm_90: no tensor-core instructions"]


def test_more_shared_memory_than_there_is_is_a_problem(compare: ModuleType) -> None:
    fits, does_not = (compare.Row("a", "b", "gfx942", 9, 0, n, 16, 16, 1) for n in (65536, 65537))
    assert compare.unfit([fits, does_not]) == ["a b gfx942: 65537 bytes of shared memory of 65536"]


def test_a_loop_that_keeps_the_matrix_unit_waiting_is_a_problem(compare: ModuleType) -> None:
    figures = ("sm_90", 90, 0, 1024, 16, 16, 4, 65)
    lean, late = (compare.Row("a", "b", *figures, issue, 128) for issue in (128, 129))
    assert compare.unfit([lean]) == []
    assert compare.unfit([late]) == [
        "a b sm_90: a step issues for 129 cycles and multiplies for 128"
    ]
    page = compare.markdown({"triton": compare.Section("t", (lean,))})
    assert "| a | sm_90 |  | 1 | 65 | 128 | 128 | 1.00 |" in page


def test_the_matrix_loop_is_the_innermost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    loop = importlib.import_module("tools.kernel_report.loop")
    code = """
.L_x_0:
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/              @!P0 HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24, !UPT ;
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/               @P1 BRA `(.L_x_0) ;
        /*0050*/                   BRA `(.L_x_2) ;
.L_x_2:
        /*0060*/                   EXIT ;
"""
    assert loop.matrix_loop(code, warps=8) == (3, 6, 192)
    assert loop.matrix_loop(code.replace("HGMMA", "HMMA"), warps=8) is None


def test_unknown_parts_are_refused() -> None:
    assert "unknown ['metal']" in run("--parts", "metal").stderr


def test_a_part_made_anew_leaves_the_rest(compare: ModuleType) -> None:
    def row(kernel: str, target: str, registers: int) -> Any:
        return compare.Row(kernel, "fp32", target, registers, 0, 0, 16, 16)

    committed = compare.Section(
        "triton 3", (row("a", "sm_90", 1), row("b", "sm_80", 2), row("b", "sm_90", 3))
    )
    fresh = compare.Section("triton 3", (row("b", "sm_90", 4), row("c", "sm_90", 5)))
    found = compare.merged(committed, fresh, compare.Select("^[bc] ", ("sm_90",)))
    assert [r.registers for r in found.rows] == [1, 2, 4, 5]
    assert compare.merged(committed, fresh, compare.Select()) == fresh
    with pytest.raises(ValueError, match="the report is of triton 3, this is triton 4"):
        compare.merged(committed, compare.Section("triton 4", ()), compare.Select("b"))


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


@needs_compiler
def test_the_committed_report_matches_what_compiles_now() -> None:
    select = ("--only", "stats_kernel bf16 .*BLOCK_W=64", "--targets", "sm_90,gfx942")
    done = run("--check", "--all", "--parts", "triton", *select)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compiled 0" not in done.stdout


def test_nothing_that_ships_spills_and_wide_shapes_move_16_bytes(compare: ModuleType) -> None:
    report = compare.load(ROOT / "bench" / "reports" / "kernels.json")
    rows = report["triton"].rows
    assert {row.target for row in rows} == {"sm_80", "sm_90", "sm_100", "sm_120", "gfx942"}
    assert compare.unfit(rows) == []
    convolutions = [row for row in rows if row.kernel == "conv_kernel"]
    assert {row.target for row in convolutions if row.matrix} == {row.target for row in rows}
    assert all(row.matrix for row in convolutions if "PRECISION=ieee" not in row.variant)
    assert all(row.matrix for row in convolutions if not row.variant.startswith("fp32"))
    lean = [row for row in rows if row.kernel in ("tma_conv_kernel", "tma_weight_kernel")]
    assert {row.target for row in lean} == {"sm_90", "sm_100", "sm_120"}
    read = [row for row in lean if row.target == "sm_90" and "MASK=1" not in row.variant]
    assert all(row.issue_ratio is not None for row in read)
    passes = [row for row in rows if row.kernel in ("norm_input_kernel", "norm_gradient_kernel")]
    assert {(row.load, row.store) for row in passes} == {(16, 16)}
    # AMD's 64-wide warps leave 8 bytes a thread; single-launch tiles of tiny tensors less still.
    tiled = ("stats_kernel", "apply_kernel", "backward_kernel", "bias_act_kernel")
    wide = [r for r in rows if r.kernel in tiled and "VEC=16" in r.variant and r.target[:2] == "sm"]
    assert len(wide) > 100
    assert {row.load for row in wide} == {16}
    stores = [row for row in wide if row.kernel in ("apply_kernel", "bias_act_kernel")]
    assert {row.store for row in stores} == {16}


def test_nothing_that_ships_spills_on_the_oldest_triton(compare: ModuleType) -> None:
    """On Hopper, with the figures of which `make oldest-report` makes a page."""
    folder = ROOT / "bench" / "reports"
    newest, oldest = (
        compare.load(folder / f"kernels{name}.json")["triton"] for name in ("", "-oldest")
    )
    needs = re.findall(r'"triton>=([\d.]+);', (ROOT / "pyproject.toml").read_text())
    assert re.fullmatch(rf"triton {needs[0]}[\d.]*", oldest.toolchain)
    assert f"OLDEST_TRITON := {oldest.toolchain[7:]}" in (ROOT / "Makefile").read_text()
    assert compare.unfit(oldest.rows) == []
    names = {row.kernel for row in newest.rows if row.target == "sm_90"}
    assert {(row.kernel, row.target) for row in oldest.rows} == {(n, "sm_90") for n in names}


def test_two_compilers_side_by_side(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    beside = importlib.import_module("tools.kernel_report.beside")
    figures = ("sm_90", 90, 0, 1024, 16, 16, 4, 65)
    old = compare.Row("a", "x=1", *figures, 96, 128)
    new = compare.Row("a", "x=1", "sm_90", 80, 8, 0, 16, 16, 4, 60, 64, 128)
    more = compare.Row("a", "x=2", "sm_90", 91, 8, 0, 16, 16)
    sections = compare.Section("triton 1", (old,)), compare.Section("triton 2", (new, more))
    page = beside.page(*sections)
    assert "# triton 1 beside triton 2" in page
    assert "| a | sm_90 | 1 · 2 | 90 · 80–91 | 0 · 16 | 0.75 · 0.50 |" in page
    compare.write(tmp_path / "own.json", {"triton": sections[0]}, page)
    assert (tmp_path / "own.md").read_text() == page


@needs_compiler
def test_widths_in_ptx_are_those_of_the_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    part = importlib.import_module("tools.kernel_report.triton_part")
    machine_code = importlib.import_module("tools.kernel_report.machine_code")
    if reason := part.unavailable():
        pytest.skip(reason)
    suffix = {16: ".128", 8: ".64", 4: "", 2: ".U16"}
    seen = set()
    for launch in part.launches():
        row = (launch.kernel, launch.constexprs["VEC"]) if "VEC" in launch.constexprs else None
        if row not in (("apply_kernel", 16), ("apply_kernel", 1)) or row in seen:
            continue
        seen.add(row)
        compiled = machine_code.compiled_launch(launch, "sm_90")
        code = machine_code.told(compiled, "nvdisasm", "-c", "-ndf")
        figures = machine_code._read_nvidia(compiled)
        assert f"LDG.E{suffix[figures['load']]} " in code
        assert f"STG.E{suffix[figures['store']]} " in code
        assert figures["load"] == 16 or "LDG.E.128" not in code
    assert len(seen) == 2

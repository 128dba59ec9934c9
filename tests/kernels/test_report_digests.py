"""Which rows of the kernel report are compiled again, and which a digest stands for."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools.kernel_report import compare, digests
from tools.kernel_report.__main__ import main
from tools.kernel_report.compare import Row, Section, Select
from tools.kernel_report.digests import Job

EVERYTHING = Select()
TRUE = {name: Row(name, "fp32", "sm_90", 8, 0, 0, 16, 16) for name in "abc"}


class Part(SimpleNamespace):
    """A part whose compiler makes TRUE, and remembers what it was asked for."""

    SAMPLE = 0

    def __init__(self, **inputs: str) -> None:
        super().__init__(inputs={name: name for name in TRUE} | inputs, compiled=[])

    def unavailable(self) -> None:
        return None

    def toolchain(self) -> str:
        return "cc 1"

    def jobs(self, select: Select) -> list[Job]:
        return [
            Job(row.key, self.inputs[name], (name,))
            for name, row in TRUE.items()
            if select.wants(*row.key)
        ]

    def compile(self, units: list[str]) -> list[list[Row]]:
        self.compiled += units
        return [[TRUE[unit]] for unit in units]


@pytest.fixture
def committed() -> Section:
    return digests.collect(Part(), None, EVERYTHING, False).section  # type: ignore[arg-type]


def compiled(part: Part, committed: Section | None, every: bool = False) -> list[str]:
    made = digests.collect(part, committed, EVERYTHING, every)  # type: ignore[arg-type]
    assert made.section.rows == tuple(sorted(TRUE.values()))
    assert made.stale + made.sampled == len(part.compiled)
    return sorted(part.compiled)


def edited(section: Section) -> Section:
    wrong = dataclasses.replace(TRUE["b"], registers=9)
    rows = tuple(wrong if row == TRUE["b"] else row for row in section.rows)
    return dataclasses.replace(section, rows=rows)


def test_only_what_no_digest_stands_for_is_compiled(committed: Section) -> None:
    assert compiled(Part(), None) == ["a", "b", "c"]
    assert compiled(Part(), committed) == []
    assert compiled(Part(b="other sources"), committed) == ["b"]
    assert compiled(Part(), committed, every=True) == ["a", "b", "c"]


def test_an_edited_row_is_compiled_again(committed: Section) -> None:
    assert compiled(Part(), edited(committed)) == ["b"]


def test_a_sample_is_compiled_though_it_is_known(committed: Section) -> None:
    part = Part()
    part.SAMPLE = 2
    first = compiled(part, committed)
    assert len(first) == 2
    again = Part()
    again.SAMPLE = 2
    assert compiled(again, committed) == first


def test_a_job_of_many_rows_stands_or_falls_with_all_of_them() -> None:
    class Whole(Part):
        def jobs(self, select: Select) -> list[Job]:
            return [Job(("", "", "sm_90"), "inputs", tuple(TRUE))]

    whole = digests.collect(Whole(), None, EVERYTHING, False).section  # type: ignore[arg-type]
    assert list(whole.digests) == ["sm_90"]
    assert compiled(Whole(), whole) == []
    assert compiled(Whole(), edited(whole)) == ["a", "b", "c"]
    fewer = dataclasses.replace(whole, rows=whole.rows[1:])
    assert compiled(Whole(), fewer) == ["a", "b", "c"]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Part:
    part = Part()
    monkeypatch.setattr("tools.kernel_report.__main__.PARTS", ("fake",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("importlib.import_module", lambda name: part)
    return part


def test_a_wrong_figure_is_found(
    part: Part, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--parts", "fake", "--report", str(path := tmp_path / "kernels.json")]
    assert main(options) == 0
    assert main([*options, "--check"]) == 0
    assert "compiled 0 of 3 with cc 1" in capsys.readouterr().out
    report = compare.load(path)
    compare.write(path, {"fake": edited(report["fake"])})
    assert main([*options, "--check"]) == 1
    assert "b fp32 sm_90: registers 9 -> 8" in capsys.readouterr().err
    # The digest of the wrong figure, too: only --all, or a sample, sees it.
    wrong = edited(report["fake"])
    lie = {"b": frozenset({digests.of(part.jobs(EVERYTHING)[1], wrong.rows[1:2])})}
    wrong = dataclasses.replace(wrong, digests=report["fake"].digests | lie)
    compare.write(path, {"fake": wrong})
    assert main([*options, "--check"]) == 0
    assert main([*options, "--check", "--all"]) == 1
    part.SAMPLE = 3
    assert main([*options, "--check"]) == 1


def test_of_another_compiler_nothing_is_compared(
    part: Part, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernels.json"
    rows = edited(Section("", tuple(TRUE.values()))).rows
    compare.write(path, {"fake": Section("cc 0", rows)})
    assert main(["--parts", "fake", "--report", str(path), "--check"]) == 0
    assert "not compared: the report is of cc 0" in capsys.readouterr().out


KERNEL = """
import triton
import triton.language as tl

@triton.jit
def _twice(x, FACTOR: tl.constexpr):
    return x * FACTOR

@triton.jit
def kernel(x_ptr, FACTOR: tl.constexpr):
    tl.store(x_ptr, _twice(tl.load(x_ptr), FACTOR))
"""


@pytest.fixture
def inputs_of(tmp_path: Path) -> Callable[..., str]:
    pytest.importorskip("triton")
    from tools.kernel_report import machine_code

    def inputs(text: str, target: str = "sm_90", **fields: Any) -> str:
        path = tmp_path / str(len(list(tmp_path.iterdir()))) / "kernels.py"
        path.parent.mkdir()
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("kernels_of_a_test", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        launch = machine_code.Launch(
            "kernel", "fp32 FACTOR=2", module.kernel, {"x_ptr": "*fp32", "FACTOR": "constexpr"},
            {"FACTOR": 2}, {(0,): [["tt.divisibility", 16]]}, {"num_warps": 4},
        )  # fmt: skip
        return machine_code.inputs(dataclasses.replace(launch, **fields), target)

    return inputs


def test_inputs_are_equal_wherever_the_kernel_stands(inputs_of: Callable[..., str]) -> None:
    moved = KERNEL.replace("\n@triton.jit", "\nOTHER = 1\n\n@triton.jit")
    assert inputs_of(KERNEL) == inputs_of(KERNEL) == inputs_of("\n\n" + KERNEL) == inputs_of(moved)


@pytest.mark.parametrize(
    "change",
    [
        {"text": KERNEL.replace("tl.load(x_ptr)", "tl.load(x_ptr + 1)")},
        {"text": KERNEL.replace("x * FACTOR", "x + FACTOR")},
        {"target": "sm_80"},
        {"signature": {"x_ptr": "*bf16", "FACTOR": "constexpr"}},
        {"constexprs": {"FACTOR": 3}},
        {"attributes": {}},
        {"options": {"num_warps": 8}},
        # A product, of which instructions of tensor cores are counted.
        {"kernel": "conv_kernel"},
    ],
    ids=["kernel", "helper", "target", "dtype", "constant", "alignment", "warps", "figures"],
)
def test_inputs_differ_where_the_machine_code_may(
    inputs_of: Callable[..., str], change: dict[str, Any]
) -> None:
    assert inputs_of(**{"text": KERNEL} | change) != inputs_of(KERNEL)

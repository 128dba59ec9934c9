"""The CUDA part of the static kernel report."""

from __future__ import annotations

import re
import shutil

import pytest

from tools.kernel_report import compare, cuda_part
from tools.kernel_report.__main__ import REPORT
from tools.kernel_report.compare import Select

USAGE = """
Fatbin elf code:
 Function _Z1a:
  REG:40 STACK:8 SHARED:1024 LOCAL:0 CONSTANT[0]:900 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z1b:
  REG:32 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:900 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
CODE = """
.text._Z1a:
        /*0000*/  LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/  STG.E desc[UR4][R2.64], R4 ;
.text._Z1b:
        /*0000*/  S2R R0, SR_TID.X ;
        /*0010*/  LDG.E.U16.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/  STG.E.64 desc[UR4][R2.64], R4 ;
"""


def test_figures_are_read_kernel_by_kernel(monkeypatch):
    names = {
        "_Z1a": "void fastgan::cuda::map_kernel<fastgan::cuda::NormaliseKernel"
        "<fastgan::cuda::Bf16, 8, (fastgan::cuda::Layout)0> >(x)",
        "_Z1b": "void fastgan::cuda::reduce_kernel<fastgan::cuda::RowSumKernel>(x)",
    }
    monkeypatch.setattr(
        cuda_part, "_output", lambda command, text: "\n".join(names[n] for n in text.splitlines())
    )
    first, second = cuda_part._rows(USAGE, CODE, "sm_90")
    assert first.key == ("normalise", "bfloat16 channels-last 16 bytes", "sm_90")
    assert (first.registers, first.spills, first.shared, first.load, first.store) == (
        40, 8, 1024, 16, 4,
    )  # fmt: skip
    assert second.key == ("row-sum", "reduce", "sm_90")
    assert (second.spills, second.load, second.store) == (0, 2, 8)
    assert (first.entry, second.entry) == (0, 1)


def test_a_kernel_of_one_layout():
    name = "void staged_kernel<fastgan::cuda::SmallChannelConvKernel<fastgan::cuda::Fp16, 1> >(x)"
    assert cuda_part._describe(name) == ("small-channel-conv", "float16 channels-last one element")


@pytest.mark.parametrize(("last", "told"), [("Act", ""), ("LeakyRelu", ", leaky relu alone")])
def test_a_kernel_of_an_activation(last, told):
    name = f"void reduce_kernel<MomentsKernel<Bf16, 8, (Layout)0, fastgan::cuda::{last}, 4> >(x)"
    expected = f"bfloat16 channels-last 16 bytes{told}"
    assert cuda_part._describe(name) == ("moments", expected)


def test_a_kernel_of_another_kind_is_an_error():
    with pytest.raises(ValueError, match="expected an instance of a kernel, got stray"):
        cuda_part._describe("stray(int)")


def test_kernels_move_16_bytes_and_spill_nothing():
    committed = compare.load(REPORT)["cuda"].rows
    rows = [row for row in committed if row.kernel.startswith("bias") and row.target == "sm_80"]
    assert len(rows) == 24, "two kernels, three dtypes, two layouts, two widths"
    for row in rows:
        assert row.spills == 0
        if "16 bytes" in row.variant:
            assert (row.load, row.store) == (16, 16)


def test_norm_act_asks_for_its_values_early():
    """Few instructions stand before the first load, which is of x."""
    kernels = r"normalise|moments|grad-sums|grad-apply|single-pass-(for|back)ward"
    committed = compare.load(REPORT)["cuda"].rows
    rows = [r for r in committed if re.fullmatch(kernels, r.kernel) and r.target == "sm_90"]
    assert len(rows) == 96
    assert max(row.entry for row in rows) < 379


@pytest.mark.slow
def test_the_committed_rows_are_those_of_the_sources():
    if reason := cuda_part.unavailable():
        pytest.skip(reason)
    (rows,) = cuda_part.compile([("gather_images/op.cu", "sm_80")])
    committed = compare.load(REPORT)["cuda"]
    assert len(rows) == 6, "three dtypes, two widths"
    if cuda_part.toolchain() == committed.toolchain:
        assert set(rows) <= set(committed.rows)


def test_the_digest_of_a_target_covers_sources_and_headers(monkeypatch, tmp_path):
    if reason := cuda_part.unavailable():
        pytest.skip(reason)

    def inputs():
        return [job.inputs for job in cuda_part.jobs(Select("", ("sm_80", "sm_90")))]

    shutil.copytree(cuda_part.SOURCES, tmp_path / "csrc" / "cuda")
    shutil.copy(cuda_part.SOURCES.parent / "elementwise.h", tmp_path / "csrc")
    first = inputs()
    assert len(set(first)) == 2
    monkeypatch.setattr(cuda_part, "SOURCES", tmp_path / "csrc" / "cuda")
    assert inputs() == first, "the checkout's path is none of it"
    for name in ("elementwise.h", "cuda/device/merge.h", "cuda/bias_act/op.cu"):
        path = tmp_path / "csrc" / name
        text = path.read_text()
        path.write_text(text + "\n")
        assert not set(inputs()) & set(first), name
        path.write_text(text)
    assert inputs() == first

"""The roofline of a training step: what is counted, the model, and the page that shows it."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from dcgan64 import geometry
from torch import nn

from bench.harness.cost import Cost, of_passes
from bench.harness.page import filled
from bench.roofline import model, page
from bench.roofline.__main__ import main as roofline
from bench.roofline.kernels import DISCRIMINATOR, GENERATOR, Kernel, Passes, step_kernels
from bench.roofline.peaks import GPUS, Peak, find_gpu
from bench.roofline.table import lines, rows, step_bound
from fastgan.cli import explain, main
from fastgan.kernels.conv_block.geometry import Target
from fastgan.kernels.conv_block.tma.plan import product_plan, weight_plan
from fastgan.nn import FusedSequential
from fastgan.ops import convolution_form

N = 4
# Bytes of the tensors of `network` in float32.
IMAGE, WIDE, NARROW = (4 * N * values for values in (3 * 16 * 16, 16 * 8 * 8, 32 * 4 * 4))
FIRST, SECOND, LAST = 4 * 16 * 3 * 16, 4 * 32 * 16 * 16, 4 * 1 * 32 * 16
OF_FIRST = 2 * N * 8 * 8 * 16 * 3 * 16
OF_SECOND = 2 * N * 4 * 4 * 32 * 16 * 16
OF_LAST = 2 * N * 32 * 16


def network() -> nn.Module:
    return FusedSequential(
        OrderedDict(
            first=nn.Conv2d(3, 16, 4, 2, 1),
            first_act=nn.LeakyReLU(0.2),
            second=nn.Conv2d(16, 32, 4, 2, 1, bias=False),
            norm=nn.BatchNorm2d(32),
            act=nn.LeakyReLU(0.2),
            last=nn.Conv2d(32, 1, 4),
        )
    ).to(memory_format=torch.channels_last)


def images(batch: int = N) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16).contiguous(memory_format=torch.channels_last)


def counted(found: list[Kernel]) -> dict[tuple[str, str], tuple[int, Cost]]:
    return {(k.layer, k.name): (k.times, k.cost) for k in found}


def test_costs_count_each_tensor_once() -> None:
    forward, of_x, of_weight = of_passes(1000, x=1, y=20, weight=300)
    assert forward == Cost(1000, 301, 20)
    assert of_x == Cost(1000, 320, 1)
    assert of_weight == Cost(1000, 21, 300)


def test_fused_kernels_are_counted() -> None:
    with convolution_form("fused"):
        found = step_kernels(network(), (images(2),), DISCRIMINATOR, N)
    size = sum(p.numel() for p in network().parameters()) * 4
    y = 4 * N
    assert counted(found) == {
        ("first", "forward"): (3, Cost(OF_FIRST, IMAGE + FIRST, WIDE)),
        # The activation after it has its gradient as g is loaded: y is read, too.
        ("first", "data gradient"): (1, Cost(OF_FIRST, 2 * WIDE + FIRST, IMAGE)),
        ("first", "weight gradient"): (2, Cost(OF_FIRST, IMAGE + 2 * WIDE, FIRST)),
        ("second", "forward"): (3, Cost(OF_SECOND, WIDE + SECOND, NARROW)),
        # The gradient of the statistics that it hands on is formed of y.
        ("second", "data gradient"): (3, Cost(OF_SECOND, 2 * NARROW + SECOND, WIDE)),
        ("second", "weight gradient"): (2, Cost(OF_SECOND, WIDE + 2 * NARROW, SECOND)),
        ("last", "forward"): (3, Cost(OF_LAST, NARROW + LAST, y)),
        # Through the norm and activation that it applied as it loaded x.
        ("last", "data gradient"): (3, Cost(OF_LAST, y + LAST + NARROW, NARROW)),
        ("last", "weight gradient"): (2, Cost(OF_LAST, NARROW + y, LAST)),
        ("all", "Adam"): (1, Cost(0, 4 * size, 3 * size)),
    }


def test_recompute_kernels_are_counted() -> None:
    with convolution_form("recompute"):
        costs = counted(step_kernels(network(), (images(),), DISCRIMINATOR, N))
    assert costs["second", "forward"] == (3, Cost(OF_SECOND, WIDE + SECOND, NARROW))
    assert costs["last", "data gradient"] == (3, Cost(OF_LAST, 4 * N + LAST, NARROW))
    assert costs["last", "norm"] == (3, Cost(0, 2 * NARROW, NARROW))
    assert costs["last", "norm again"] == (2, Cost(0, NARROW, NARROW))
    assert costs["last", "norm gradient"] == (3, Cost(0, 4 * NARROW, NARROW))
    assert costs["first", "activation gradient"] == (2, Cost(0, 2 * WIDE, WIDE))
    assert costs["first", "activation"] == (3, Cost(0, WIDE, WIDE))
    with convolution_form("norm_fused"):
        again = step_kernels(network(), (images(),), DISCRIMINATOR, N)
    assert "norm again" not in {k.name for k in again}


def test_a_norm_without_statistics_in_the_fused_form_is_counted_apart() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input)

    model = network()
    model.second = Own(16, 32, 4, 2, 1, bias=False)
    with convolution_form("fused"):
        found = counted(step_kernels(model, (images(),), GENERATOR, N))
    assert found["second", "forward"][1] == Cost(OF_SECOND, WIDE + SECOND, NARROW)
    assert found["last", "norm"] == (1, Cost(0, 2 * NARROW, NARROW))
    assert ("last", "norm again") not in found
    assert found["last", "data gradient"] == (1, Cost(OF_LAST, 4 * N + LAST, NARROW))


def test_bounds_are_of_the_slower_of_arithmetic_and_memory() -> None:
    kernels = [
        Kernel("a", "forward", 2, Cost(4_000, 10, 10)),
        Kernel("b", "norm", 3, Cost(0, 100, 100)),
    ]
    found = lines({"generator": kernels, "discriminator": kernels[1:]}, 1e9, 1e8)
    assert [(line.bound, line.limit) for line in found] == [
        (pytest.approx(4.0), "operations"),
        (pytest.approx(2.0), "bytes"),
        (pytest.approx(2.0), "bytes"),
    ]
    assert step_bound(found[:2]) == pytest.approx(2 * 4 + 3 * 2)
    assert step_bound(found) == pytest.approx(2 * 4 + 3 * 2 + 3 * 2)
    of_generator, of_discriminator, of_step = rows(found)[-3:]
    assert of_generator == ["generator", "", "", "0.00", "0.0", "14.0", "operations 57%"]
    assert of_discriminator[-2:] == ["6.0", "operations 0%"]
    assert of_step[-2:] == ["20.0", "operations 40%"]


def test_passes_that_a_step_does_not_run_are_not_listed() -> None:
    found = step_kernels(network(), (images(),), Passes(1, 0, 0, 0), N)
    assert not any("gradient" in k.name or k.name == "norm again" for k in found)


def test_gpus_by_name() -> None:
    assert find_gpu("h200")[0] == "H200 SXM"
    for peak in GPUS.values():
        half, tf32 = (peak.rates(p)[0] for p in ("bfloat16", "tf32"))
        assert peak.rates("float16") == (half, peak.bytes)
        assert half > tf32 >= peak.rates("float32")[0]
    with pytest.raises(ValueError, match="gpu: 'V100' is not one of A100 80GB SXM, H100 SXM"):
        find_gpu("V100")
    with pytest.raises(ValueError, match="gpu: 'SXM' is not one of A100 80GB SXM, H100"):
        find_gpu("SXM")


def test_the_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["explain", "dcgan-28", "--batch-size", "2", "--device", "cpu"]
    assert main([*command, "--roofline", "--gpu", "x"]) == 2
    assert "gpu: 'x' is not one of" in capfd.readouterr().err
    # From here on without a process of its own.
    monkeypatch.setattr(explain, "in_checkout", lambda module, *given: roofline(list(given)))
    assert main([*command, "--roofline"]) == 0
    out = capfd.readouterr().out
    assert "NVIDIA H200 data sheet" in out
    assert "discriminator" in out
    on_gpu = [*command, "--roofline", "--gpu", "b200", "--precision", "bfloat16"]
    assert main(on_gpu) == 0
    out = capfd.readouterr().out
    assert "NVIDIA Blackwell data sheet" in out
    assert "By a model" not in out, "of Hopper alone the loops are read"
    assert main([*on_gpu[:-3], "h200", "--precision", "bfloat16"]) == 0
    out = capfd.readouterr().out
    assert "estimate" in out
    assert "gaps between kernels" in out
    for arguments, message in (
        ([*command, "--gpu", "h100"], "--gpu and --precision belong to --roofline"),
        (["explain", "--roofline", "--gpu", "h100", "--batch-size", "1"], "batch_size must be"),
    ):
        assert main(arguments) == 2
        assert message in capfd.readouterr().err


def test_the_page_shows_the_bounds_that_are_counted() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == filled(text, "roofline: gpu", page.gpu_table())
    assert text == filled(text, "roofline: model", page.model_table())


def test_the_page_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stands, copy = page.PAGE.read_text(encoding="utf-8"), tmp_path / "roofline.md"
    copy.write_text(stands.replace("| step |", "| old |"), encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", copy)
    monkeypatch.setattr(sys, "argv", ["page"])
    monkeypatch.setattr(page, "gpu_table", lambda: "gpu")
    monkeypatch.setattr(page, "model_table", lambda: "model")
    assert page.main() == 0
    wanted = filled(filled(copy.read_text(), "roofline: gpu", "gpu"), "roofline: model", "model")
    assert copy.read_text(encoding="utf-8") == wanted
    assert "\ngpu\n" in wanted
    assert "\nmodel\n" in wanted


def test_kernels_by_tma_are_counted() -> None:
    """z and dy are written once, and the products read them."""
    with convolution_form("fused"), torch.autocast("cpu", torch.bfloat16):
        found = step_kernels(network(), (images(2),), DISCRIMINATOR, N, tma=True)
    costs, wide, narrow = counted(found), WIDE // 2, NARROW // 2
    weight = SECOND // 2
    assert costs["second", "forward"] == (3, Cost(OF_SECOND, wide + weight, narrow))
    assert costs["second", "data gradient"] == (3, Cost(OF_SECOND, narrow + weight, wide))
    assert costs["second", "weight gradient"] == (2, Cost(OF_SECOND, wide + narrow, weight))
    assert costs["last", "norm"] == (3, Cost(0, narrow, narrow))
    assert costs["last", "norm again"] == (2, Cost(0, narrow, narrow))
    assert costs["last", "norm gradient"] == (3, Cost(0, 2 * narrow, narrow))
    # Through its own activation, which the next layer does not undo.
    assert costs["first", "activation gradient"] == (2, Cost(0, 2 * wide, wide))
    of_tma = {(k.layer, k.name) for k in found if k.plan is not None}
    assert of_tma == {("second", n) for n in ("forward", "data gradient", "weight gradient")}


def test_the_model_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = Peak(132 * 4096 * 1e9, 1.0, 1.0, 1e12, "a sheet", True, 132)  # of a clock of 1 GHz
    plan = product_plan(geometry(1024, 128, 16, 256), 1, Target())
    assert (plan.grid, plan.steps, plan.config.block_m, plan.config.block_n) == (
        (1024,),
        32,
        128,
        128,
    )
    kernel = Kernel("a", "forward", 1, Cost(2 * 1024 * 64 * 2048 * 256, 0, 0), plan)
    # 8 tiles on the busiest multiprocessor, of 32 steps of 512 cycles; 1024 of 132 * 8 are there.
    for ratio, issue in ((0.5, 0.0), (1.5, 0.5)):
        monkeypatch.setattr(model, "_issue_ratio", lambda plan, ratio=ratio: ratio)
        whole = 8 * 32 * 512 * 1e-3
        found = model.estimate(kernel, peak)
        assert found.issue == pytest.approx(issue * whole)
        assert found.tiles == pytest.approx(whole * (1 - 1024 / (132 * 8)))
        assert (found.memory, found.launches) == (0.0, pytest.approx(2.0))
    memory = Kernel("a", "norm", 3, Cost(0, 500_000, 500_000), launches=2)
    found = model.estimate(memory, peak)
    assert found == pytest.approx((1 / 0.85 - 1, 0.0, 0.0, 4.0))
    assert model.total([memory], peak).left == pytest.approx(3 * found.left)


def test_the_model_reads_the_loops_of_the_report() -> None:
    plan = product_plan(geometry(1024, 128, 16, 256), 1, Target())
    assert 0 < model._issue_ratio(plan) <= 1
    assert 0 < model._issue_ratio(weight_plan(geometry(1024, 128, 16, 256), Target())) <= 1

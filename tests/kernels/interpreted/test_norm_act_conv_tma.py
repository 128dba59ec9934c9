"""Blocks by the kernels for GPUs with TMA, whose statistics travel with their tensors, in Triton's
interpreter: results, gradients, running statistics, launches and what is kept for backward.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from tma_chain import CONVOLUTIONS, check, check_chain, images, layers
from tolerance import within
from torch import Tensor, nn

import fastgan.kernels.conv_block.tma.passes as _passes
from fastgan.fusion.explaining import convolution_kernels
from fastgan.kernels.conv_block.geometry import ConvConfig
from fastgan.kernels.conv_block.tma import plan as tma_plan
from fastgan.kernels.core import precision
from fastgan.nn import FusedSequential, runner
from fastgan.nn.planner import kind_of
from fastgan.nn.recording import recording
from fastgan.ops import backend, convolution_form
from fastgan.ops.conv import algorithms
from tools.rehearse.interpreter import launches

SMALL = (ConvConfig(16, 16, 16, 1, 2),)


@pytest.fixture(autouse=True)
def _on_tma(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU that has TMA, with small tiles, and outputs poisoned."""
    monkeypatch.setattr(tma_plan, "has_tma", lambda device: True)
    for name in ("PRODUCT", "WEIGHT"):
        monkeypatch.setattr(tma_plan, name, SMALL)
    monkeypatch.setattr(tma_plan, "MAX_SLICES", 1)  # else small tiles are the largest, too
    tma_plan.product_plan.cache_clear()
    tma_plan.weight_plan.cache_clear()
    with convolution_form("fused"), backend("triton"):
        torch.use_deterministic_algorithms(True)
        yield
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("k", "side"), [(1, 4), (2, 6)], ids=["whole", "segments"])
def test_a_chain_is_the_layers(k: int, side: int) -> None:
    check_chain(k, *images(side=side))


def half_model(norm: type[nn.Module] = nn.BatchNorm2d, **options: bool) -> FusedSequential:
    fused = FusedSequential(*layers(norm), **options)
    for module in fused:
        if isinstance(module, CONVOLUTIONS):
            module.half()
    return fused


def test_no_launch_stands_between_a_product_and_its_pass() -> None:
    fused, (x, g) = half_model(), images()
    x = x.half().requires_grad_()
    with launches() as forward, recording() as runs:
        y = fused(x)
    assert [run.form for run in runs] == ["fused", "fused", "recompute"]
    assert [str(convolution_kernels(run)) for run in runs[:2]] == ["Triton, TMA"] * 2
    assert forward == {"tma_conv_kernel": 2, "norm_input_kernel": 2}
    with launches() as backward:
        y.backward(g.half())
    products = {"tma_conv_kernel": 2, "tma_weight_kernel": 2}
    passes = {"norm_gradient_kernel": 1, "form_kernel": 1}
    of_the_last = {"bias_act_backward_kernel": 1, "apply_kernel": 1, "backward_whole_kernel": 1}
    slices = {"reduce_kernel": backward["reduce_kernel"]} if backward["reduce_kernel"] else {}
    assert backward == products | passes | of_the_last | slices


def test_layers_of_few_channels_and_of_one_position_run_in_the_fused_form() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 1, 2),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    fused = FusedSequential(*copy.deepcopy(model))
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last).half().float()
    check(model, fused, x, torch.randn(4, 1, 1, 1))
    with recording() as runs, launches() as counted:
        fused(x.half())
    assert [run.form for run in runs] == ["fused"] * 3
    named = [str(convolution_kernels(run)) for run in runs]
    assert named == ["Triton, small-channel", "Triton, TMA", "GEMM"]
    thin = {"from_image_kernel": 1, "weighted_sum_kernel": 1}
    assert counted == thin | {"tma_conv_kernel": 1, "norm_input_kernel": 1}


def test_one_tensor_a_block_is_kept_or_its_normalised_one_too() -> None:
    grads = []
    for keep in (False, True):
        fused, (x, g) = half_model(keep_activations=keep), images()
        kept: dict[int, int] = {}

        def note(t: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[t.untyped_storage().data_ptr()] = t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            y = fused(x.half())
        with launches() as backward:
            y.backward(g.half())
        assert backward["form_kernel"] == (0 if keep else 1)
        weights = {p.data_ptr() for p in fused.parameters()}
        large = Counter(n for at, n in kept.items() if n >= 4 * 16 * 4 and at not in weights)
        # x and the second raw output are as large as one another, the first half as large.
        assert large == {4 * 16 * 16: 3 if keep else 2, 4 * 16 * 4: 2 if keep else 1}
        grads.append([p.grad for p in fused.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_many_pieces_are_merged_in_chunks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers()
    fused, (x, g) = FusedSequential(*copy.deepcopy(model)), images(side=8)
    monkeypatch.setattr(_passes, "MERGED", 1)
    monkeypatch.setattr(_passes, "FOLDED", 2)
    with launches() as counted:
        check(model, fused, x, g)
    assert counted["merge_statistics_kernel"] == 2
    assert counted["fold_sums_kernel"] == 1


def test_instance_norm_has_a_segment_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(channels: int) -> nn.Module:
        return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)

    monkeypatch.setattr(_passes, "MERGE_GROUPS", 2)
    model = layers(norm)
    fused, (x, g) = FusedSequential(*copy.deepcopy(model)), images()
    check(model, fused, x, g)


def test_evaluation_by_the_running_statistics() -> None:
    model = layers().eval()
    fused, (x, g) = FusedSequential(*copy.deepcopy(model)), images()
    check(model, fused, x, g)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_call_made_again_is_as_a_first(training: bool) -> None:
    """Of other values, of weights that a step changed, and of others that took their place."""
    fused, (x, g) = half_model().train(training), images()
    fused(x.half())  # plans
    for change in (torch.Tensor.neg_, torch.Tensor.half):
        for p in fused.parameters():
            p.data = change(p.data) if p.dim() > 1 else p.data
        alike, results = copy.deepcopy(fused), []
        for model in (fused, alike):
            z = x.flip(0).half().requires_grad_()
            y = model(z)
            y.backward(g.half())
            held = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            model.zero_grad()
            results.append([y, z.grad, *held, *model.buffers()])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradients_under_create_graph_are_the_same_and_go_on() -> None:
    fused, (x, g) = half_model(), images()
    x = x.half().requires_grad_()
    (once,) = torch.autograd.grad(fused(x), x, g.half())
    (again,) = torch.autograd.grad(fused(x), x, g.half(), create_graph=True)
    torch.testing.assert_close(once, again, **within(torch.float16, 10, 1))
    again.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fused.parameters())


def test_float32_parameters_are_read_under_autocast() -> None:
    fused, (x, g) = FusedSequential(*layers()), images()
    with torch.autocast("cpu", torch.bfloat16), launches() as counted:
        fused(x).backward(g.bfloat16())
    assert counted["tma_conv_kernel"] == 3
    assert all(p.grad.dtype is torch.float32 for p in fused.parameters())


def test_the_table_runs_it_where_triton_is_asked_for() -> None:
    """In the recompute form; by itself, or in another layout, the library's convolution runs."""
    fused, (x, _) = half_model(), images()
    for name, form, expected in (("triton", "recompute", 2), ("auto", "recompute", 0)):
        with backend(name), convolution_form(form), launches() as counted:
            fused(x.half())
        assert counted["tma_conv_kernel"] == expected
    with algorithms.force(tma=True), backend("auto"), convolution_form("recompute"):
        with launches() as counted:
            fused(x.half())
        assert counted["tma_conv_kernel"] == 2


@pytest.fixture
def _in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU while TF32 is allowed."""
    monkeypatch.setattr(precision, "float32_precision", lambda device: "tf32")


@pytest.mark.usefixtures("_in_tf32")
@pytest.mark.parametrize(("k", "side"), [(1, 4), (2, 6)], ids=["whole", "segments"])
def test_a_chain_of_float32_in_tf32_is_the_layers(k: int, side: int) -> None:
    check_chain(k, *images(side=side), torch.float32, like=torch.float16)


@pytest.mark.usefixtures("_in_tf32")
@pytest.mark.parametrize("keep", [False, True], ids=["y is kept", "z too"])
def test_in_tf32_the_weight_gradient_gathers(keep: bool) -> None:
    """From what was kept: it normalises y as it loads it, so that no pass makes z again."""
    fused, (x, g) = FusedSequential(*layers(), keep_activations=keep), images()
    with launches() as forward, recording() as runs:
        y = fused(x.requires_grad_())
    assert [run.form for run in runs] == ["fused", "fused", "recompute"]
    of_tma = "Triton, TMA"
    assert [convolution_kernels(run) for run in runs[:2]] == [(of_tma, of_tma, "Triton")] * 2
    assert forward == {"tma_conv_kernel": 2, "norm_input_kernel": 2, "pack_kernel": 2}
    with launches() as backward:
        y.backward(g)
    products = {"tma_conv_kernel": 2, "pack_kernel": 2, "weight_kernel": 2}
    of_the_last = {"bias_act_backward_kernel": 1, "apply_kernel": 1, "backward_whole_kernel": 1}
    if keep:
        del of_the_last["apply_kernel"]
    assert backward == products | {"norm_gradient_kernel": 1} | of_the_last


def test_a_change_of_precision_changes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of calls alike, and between a call and its backward: as if nothing had been planned before,
    bit for bit.
    """
    fused, (x, g) = FusedSequential(*layers()), images()
    monkeypatch.setattr(
        runner, "kind_of", lambda x: (*kind_of(x), precision.precision(x))
    )  # a GPU's

    def run(model: FusedSequential, of_forward: str, of_backward: str) -> list[Tensor]:
        z = x.clone().requires_grad_()
        monkeypatch.setattr(precision, "float32_precision", lambda device: of_forward)
        with launches() as forward:
            y = model(z)
        assert forward["tma_conv_kernel"] == (2 if of_forward == "tf32" else 0)
        monkeypatch.setattr(precision, "float32_precision", lambda device: of_backward)
        with launches() as backward:
            y.backward(g)
        assert backward["tma_conv_kernel"] == (2 if of_backward == "tf32" else 0)
        held = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return [y.detach(), z.grad, *held, *(b.clone() for b in model.buffers())]

    found = {}
    for pair in (*[("tf32", "tf32")] * 2, ("ieee", "ieee"), ("tf32", "ieee"), ("tf32", "tf32")):
        alike = copy.deepcopy(fused)  # plans for itself
        found[pair] = run(fused, *pair)
        assert all(map(torch.equal, found[pair], run(alike, *pair)))
    assert not torch.equal(found["tf32", "tf32"][0], found["ieee", "ieee"][0])
    assert not torch.equal(found["tf32", "tf32"][1], found["tf32", "ieee"][1])

"""tools/rehearse: steps on a GPU that is not there."""

from __future__ import annotations

import warnings
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from fastgan.nn import BatchNormAct2d, batches_counted_together
from fastgan.recipes import get_recipe
from tools.kernel_report.compare import Row
from tools.rehearse import check, rehearsal, report
from tools.rehearse.gpus import GPUS, virtual
from tools.rehearse.record import Launch, recording
from tools.rehearse.rehearsal import Step, executed, rehearse
from tools.rehearse.steps import Variant, record

H200 = GPUS["sm_90"]
# Of a captured DCGAN-64 step with a joint batch, in bfloat16: nodes that are ATen's or Triton's,
# and calls of the C++ library. They may fall; what makes one rise is to be looked at.
MAX_NODES = {"cuda": 91, "triton, fused": 103}
# Of captured steps in bfloat16 of recipes with spectral norms, and with penalties on gradients of
# grouped convolutions: as above.
MAX_OF_RECIPES = {"sagan": 630, "r3gan": 691}


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """Two captured steps each of three recipes."""
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    return rehearse(["dcgan-64", "digits", "mlp-gan"], [], compiles=False, quick=True)


def test_no_launch_would_be_refused(steps):
    assert len(steps) == 6
    assert not [problem for step in steps for problem in step.problems]


def test_a_step_does_not_become_more_nodes(steps):
    for step in steps:
        if step.recipe == "dcgan-64":
            most = MAX_NODES[next(name for name in MAX_NODES if f", {name}, " in step.variant)]
            assert sum(step.nodes.values()) <= most, step.nodes


def test_both_networks_are_in_what_was_recorded(steps):
    for step in steps:
        nodes = step.nodes
        assert nodes["triton check_kernel"] == nodes["triton adam_kernel"] == 2
        if "fused" in step.variant and step.recipe == "dcgan-64":
            assert nodes["triton tma_conv_kernel"] >= 15
        if step.recipe != "mlp-gan" and "cuda" in step.variant:
            assert nodes["cuda norm_act_train"] == nodes["cuda norm_act_backward"] > 0


def test_nothing_but_numbers_and_the_batch_goes_in_beside_the_graph(steps):
    assert {step.outside for step in steps} <= {4, 5}


def test_calls_compute_what_the_reference_does():
    found = executed(["digits"])
    assert not found.problems
    assert found.calls >= 20
    assert {"norm_input_kernel", "tma_conv_kernel", "train_kernel"} <= set(found.kernels)


def test_the_recorded_step_is_one_with_the_lazy_penalty():
    recipe = get_recipe("digits")
    variant = Variant(H200, capture=True)
    plain, always, lazy = (
        Counter(call.op for call in record(recipe, variant, batch_size=2, **penalty).calls)
        for penalty in ({}, {"regularizer": "r1"}, {"regularizer": "r1", "reg_every": 3})
    )
    assert lazy == always != plain


def test_norms_and_penalties_take_no_more_launches_whatever_ran_before():
    def nodes(name: str) -> Counter[tuple[str, str]]:
        return report.counted(record(get_recipe(name), Variant(H200, capture=True)).launches, True)

    first = {name: nodes(name) for name in MAX_OF_RECIPES}
    for name, most in reversed(MAX_OF_RECIPES.items()):
        assert nodes(name) == first[name]
        assert first[name].total() <= most, first[name]


@pytest.mark.parametrize("name", ["pix2pix", "style", "volume-gan"])
def test_conditions_of_every_kind(name):
    """Made of images, a picture's statistics, and numbers."""
    step = record(get_recipe(name), Variant(H200, capture=True), batch_size=2)
    assert step.launches
    assert not check.problems(step.launches)


def test_a_problem_is_told_as_it_is_found(monkeypatch, capsys):
    """A rehearsal of everything takes long."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no such step")

    monkeypatch.setattr(rehearsal, "record", refuse)
    found = rehearse(["digits"], [], compiles=False, quick=True)
    told = capsys.readouterr().out
    assert len(found) == 2
    assert all(problem in told for step in found for problem in step.problems)
    assert told.count("digits, captured, bfloat16, ") == told.count("ValueError: no such step") == 2


def test_a_recipe_runs_by_its_own_objective():
    """One without a discriminator has no other."""
    step = record(get_recipe("autoencoder"), Variant(H200, capture=True), batch_size=2)
    assert step.launches
    assert all(launch.captured for launch in step.launches if launch.kind == "cuda")


@pytest.fixture
def recorder():
    with virtual(H200) as cuda, recording("triton", lambda: cuda.capturing) as recorder:
        cuda.capturing = True
        yield recorder


def test_a_value_read_on_the_host_is_an_error(recorder):
    x = torch.ones(3, device="cuda")
    with pytest.raises(DataDependentOutputException):
        x.sum().item()


@pytest.mark.parametrize(
    ("move", "told"),
    [
        (lambda: torch.ones(3, device="cuda").cpu(), "read on the host"),
        (lambda: torch.ones(3).to("cuda"), "pageable memory"),
    ],
)
def test_a_copy_that_waits_is_refused_in_a_capture(recorder, move, told):
    move()
    (problem,) = check.problems(recorder.launches)
    assert told in problem


def test_running_statistics_wait_until_they_are_read(recorder):
    norm = BatchNormAct2d(3).cuda()
    x = torch.ones(2, 3, 4, 4, device="cuda")

    def moves() -> int:
        return sum(launch.name.startswith("_foreach_lerp_") for launch in recorder.launches)

    with batches_counted_together():
        norm(x)
        norm(x)
        assert moves() == 0
        norm.eval()(x)
        assert moves() == 2
        norm.train()(x)
    assert moves() == 3
    assert not any("running" in launch.name for launch in recorder.launches)


def test_pinned_memory_may_be_copied(recorder):
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert not check.problems(recorder.launches)


def test_views_and_allocations_are_no_nodes(recorder):
    x = torch.empty(4, 4, device="cuda")
    x.view(16)[2:].reshape(7, 2).t().detach()
    assert recorder.launches == []
    torch._foreach_add_([x] * 111, 1.0)
    assert [launch.nodes for launch in recorder.launches] == [2]


def test_addresses_are_as_the_allocator_gives_them():
    with virtual(H200):
        x, y = (torch.empty(9, device="cuda") for _ in range(2))
        assert x.data_ptr() % 512 == y.data_ptr() % 512 == 0
        assert x.data_ptr() != y.data_ptr()
        assert x[3:].data_ptr() - x.data_ptr() == 12


def launch(**values: Any) -> Launch:
    given = {"options": {"num_warps": 4}, "grid": (1,)} | values
    return Launch("triton", "kernel", 1, captured=True, **given)


@pytest.mark.parametrize("grid", [(1, 65536), (2**31,), (0,)])
def test_a_grid_beyond_the_limits_is_refused(grid):
    assert not check.problems([launch()])
    assert len(check.problems([launch(grid=grid)])) == 1


def test_too_many_warps_are_refused():
    assert len(check.problems([launch(options={"num_warps": 64})])) == 1


@pytest.mark.parametrize(
    ("offset", "strides", "wrong"), [(0, [64, 1], 0), (4, [64, 1], 1), (0, [65, 1], 1)]
)
def test_descriptors_must_be_aligned(offset, strides, wrong):
    with virtual(H200):
        base = torch.empty(4096, dtype=torch.bfloat16, device="cuda")[offset:]
        descriptor = SimpleNamespace(base=base, strides=strides)
        assert len(check.problems([launch(arguments=(descriptor,))])) == wrong


def row(**values: int) -> Row:
    figures = {"registers": 128, "spills": 0, "shared": 0, "load": 16, "store": 16} | values
    return Row("kernel", "variant", "sm_90", **figures)


@pytest.mark.parametrize(
    ("values", "warps"),
    [({"spills": check.TRADED + 8}, 4), ({"shared": H200.shared + 1}, 4), ({"registers": 255}, 16)],
)
def test_a_compiled_kernel_beyond_the_gpu_is_refused(values, warps):
    assert not check.exceeded(row(registers=255, spills=check.TRADED), 8, H200)
    assert len(check.exceeded(row(**values), warps, H200)) == 1


def test_a_spill_of_a_register_or_two_is_told_and_no_problem(monkeypatch):
    described = SimpleNamespace(kernel="kernel", variant="variant", attributes={})
    monkeypatch.setattr(check, "describe", lambda *_: described)
    compiler = check.Compiler(lambda *_: row(spills=check.TRADED))
    assert not compiler.problems([launch(function=None, arguments=())], H200)
    assert compiler.remarks == [f"kernel variant sm_90: spills {check.TRADED}"]

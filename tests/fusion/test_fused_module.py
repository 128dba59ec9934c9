"""A fused model stays the module it was: copies, pickles, compile, export, DDP, optimizers."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
from originals import Skipping, as_chosen, image, sequential
from torch import nn

import fastgan
from fastgan.fusion.plan import plan_of

pytestmark = pytest.mark.usefixtures("form")


@as_chosen
def test_copies_and_pickles_are_fused_and_their_own():
    model = fastgan.fuse(Skipping()).eval()
    x = image()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert other.forward.__self__ is other
        assert plan_of(other).module is other
        torch.testing.assert_close(other(x), model(x))
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
        assert not other(x).any()
    assert model(x).any()


@as_chosen
def test_modes_gradients_dtypes_and_loading_reach_the_layers():
    model = fastgan.fuse(sequential())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(image()).sum().backward()
    before = model[2].weight.clone()
    optimizer.step()
    assert not torch.equal(before, model[2].weight)
    moved = model[3].running_mean.clone()
    model.eval()(image())
    torch.testing.assert_close(model[3].running_mean, moved)
    assert not model.requires_grad_(False)(image()).requires_grad
    assert model.double()(image().double()).dtype is torch.float64
    other = sequential()
    model.float().load_state_dict(other.state_dict(), assign=True)
    x = image()
    torch.testing.assert_close(model(x), other.eval()(x))


@as_chosen
def test_optimizers_made_before_and_after_and_checkpoints_both_ways():
    """Steps by an optimizer of either age, then the fused weights in the original and back."""
    original = sequential()
    fused = copy.deepcopy(original)
    before = torch.optim.Adam(fused.parameters(), lr=1e-2)
    fastgan.fuse(fused)
    after = torch.optim.SGD(fused.parameters(), lr=1e-2, momentum=0.9)
    theirs = (
        torch.optim.Adam(original.parameters(), lr=1e-2),
        torch.optim.SGD(original.parameters(), lr=1e-2, momentum=0.9),
    )
    x = image(4, 3, 12, 12).double()
    for model, optimizers in ((fused.double(), (before, after)), (original.double(), theirs)):
        for optimizer in optimizers:
            for _ in range(3):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
    torch.testing.assert_close(fused.state_dict(), original.state_dict())
    for source, target in ((fused, sequential().double()), (original, fused)):
        with torch.no_grad():
            source[2].weight.mul_(1.5)
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(target.eval()(x), source.eval()(x))


@as_chosen
def test_compile_and_export():
    model = fastgan.fuse(Skipping()).eval()
    x = image()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    exported = torch.export.export(model, (x,))
    assert any("fastgan" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), model(x))


def test_distributed_data_parallel(tmp_path):
    def compare():
        original = sequential().double()
        fused = nn.parallel.DistributedDataParallel(fastgan.fuse(copy.deepcopy(original)))
        x = image().double()
        fused(x).square().sum().backward()
        original(x).square().sum().backward()
        for own, theirs in zip(fused.parameters(), original.parameters(), strict=True):
            torch.testing.assert_close(own.grad, theirs.grad)

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        compare()
    finally:
        # A wrapper that outlives its group ends the group's threads while it holds the
        # interpreter's lock, for which one of them may wait.
        gc.collect()
        torch.distributed.destroy_process_group()


def test_gradient_penalty_runs_through_a_fused_model():
    original = sequential().double()
    fused = fastgan.fuse(copy.deepcopy(original))
    x = image().double().requires_grad_()
    results = []
    for model in (fused, original):
        (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), model[2].weight)[0])
    torch.testing.assert_close(*results)

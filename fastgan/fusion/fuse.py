"""fuse and unfuse: a model's forwards exchanged for fused ones, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastgan.checks import check_module
from fastgan.fusion.copying import sharing
from fastgan.fusion.matching import Choice, Written
from fastgan.fusion.plan import Plan, link, make_plan, uninstall
from fastgan.fusion.report import FusionReport
from fastgan.fusion.specialized import chains_of
from fastgan.fusion.tracing import Untraceable
from fastgan.nn.layers import layer_kind
from fastgan.nn.modes import in_mode
from fastgan.ops.core.tolerance import between_networks

_Model = TypeVar("_Model", bound=nn.Module)


def fuse(
    model: _Model, example_inputs: Any = None, *, inplace: bool = True, prefer: str = "speed"
) -> _Model:
    """Makes a model run its convolutions, norms and activations as fused blocks; returns it.

    The modules stay where they are: parameters, buffers, `state_dict` keys, hooks and optimizers
    made before or after hold as before. Only `forward` is exchanged, on the model or, where its
    forward cannot be traced by torch.fx, on the submodules whose forward can. Results are the
    original's, to rounding. `model.fusion_report`, when printed, tells each block's fate.

    Fused are runs of Conv and ConvTranspose (or Linear), BatchNorm or InstanceNorm, and ReLU,
    LeakyReLU, Tanh or Sigmoid, as modules or calls, in any `nn.Sequential` or traceable forward,
    whatever their order. Left as they are: layers with hooks (hooks added later are noticed too),
    a convolution or norm that is used twice, a value that is also used elsewhere. Tensors that go
    in or come out may be changed in place before backward where the model's own layers allow it.

    Args:
        example_inputs: a tensor or a tuple of them. If given, the fused model must give the outputs
            that the original gives for them in evaluation, else RuntimeError; the model is then
            unfused.
        prefer: "speed": a block runs in its own layers' steps where no fused step is faster on the
            device, and keeps for backward what they keep. "memory": a block keeps one tensor of its
            size, and computes the normalised one again in backward, which takes time. ValueError
            for another.
        inplace: False leaves `model` alone and returns a copy that shares its parameters and
            buffers.

    A forward is traced where it is a function of its inputs and of Python values that can be
    compared in each call (attributes, globals, closures, and what lists, objects, arrays in them
    hold): when one of them changes, the original forward runs. A forward that draws random numbers
    in Python, asks for types or modes, or changes what it reads is left as it is, and its
    submodules are looked at. Fuse before `torch.compile` and before wrapping in DDP.
    TypeError for a model that is no `nn.Module`.
    """
    check_module("model", model)
    if prefer not in ("speed", "memory"):
        raise ValueError(f"prefer: expected 'speed' or 'memory', got {prefer!r}")
    if not inplace:
        model = sharing(model)
    unfuse(model)
    expected = None if example_inputs is None else _evaluate(model, example_inputs)
    exchange_forwards(model, Choice(keep_activations=prefer == "speed"))
    if expected is not None:
        _compare(model, _evaluate(model, example_inputs), expected)
    return model


def exchange_forwards(model: nn.Module, chosen: Choice) -> None:
    """Has a model without plans run by such."""
    planner = _Planner(chosen)
    planner.visit(model, "")
    link(planner.plans)
    for plan in planner.plans:
        plan.install()
    vars(model)["fusion_report"] = planner.report


def unfuse(model: _Model) -> _Model:
    """Gives every module in `model` its own forward back, in place; returns `model`."""
    for module in model.modules():
        uninstall(module)
    return model


@dataclass
class _Planner:
    """Plans for a module and all that is in it, each once, and the report.

    A part that the trace of a larger one went through may be called on its own as well: it gets a
    plan, too, but its blocks stand in the report already.
    """

    chosen: Choice
    report: FusionReport = field(default_factory=FusionReport)
    plans: list[Plan] = field(default_factory=list)
    seen: set[nn.Module] = field(default_factory=set)
    traced_through: set[nn.Module] = field(default_factory=set)
    written: Written = field(default_factory=dict)

    def visit(self, module: nn.Module, prefix: str) -> None:
        if module in self.seen or layer_kind(module):
            return
        self.seen.add(module)
        if _has_forward(module) and not module.__module__.startswith("fastgan.nn"):
            self._plan(module, prefix)
        for name, child in module.named_children():
            self.visit(child, f"{prefix}{name}.")

    def _plan(self, module: nn.Module, prefix: str) -> None:
        try:
            made = make_plan(module, prefix, self.chosen, self.written)
        except Untraceable as error:
            self.report.untraced.append((prefix.removesuffix("."), str(error)))
            return
        plan, blocks, containers = made
        if plan is not None:
            self.plans.append(plan)
        if module not in self.traced_through:
            self.report.blocks += blocks
            if plan is not None:
                chains = chains_of(plan.graphs[True]), chains_of(plan.graphs[False])
                self.report.chains.append(chains)
        self.traced_through.update(containers)


def _has_forward(module: nn.Module) -> bool:
    return getattr(type(module), "forward", None) is not nn.Module.forward


def _evaluate(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The model's outputs in evaluation, at a fixed seed; its modes and the generators are kept."""
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    devices = {t.device for t in args if isinstance(t, Tensor) and t.is_cuda}
    with in_mode(model, False), torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        found = model(*(a.clone() if isinstance(a, Tensor) else a for a in args))
    return [t for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, Tensor)]


def _compare(model: nn.Module, found: list[Tensor], expected: list[Tensor]) -> None:
    for own, theirs in zip(found, expected, strict=True):
        if not theirs.numel():
            continue
        far = (own.double() - theirs.double()).abs().max() / theirs.abs().max().clamp_min(1e-30)
        if own.shape != theirs.shape or not far <= between_networks(theirs.dtype):
            unfuse(model)
            raise RuntimeError(
                "fuse: the fused model does not give the original's outputs for example_inputs; "
                f"they differ by {float(far):.1e} of the largest. The model is unfused."
            )

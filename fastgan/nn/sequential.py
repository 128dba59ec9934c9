"""FusedSequential: an `nn.Sequential` of convolution blocks that defers every normalisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from fastgan.nn.keeping import activations_kept
from fastgan.nn.layers import hooked
from fastgan.nn.norm_act import Segmented
from fastgan.nn.planner import Leaf, Planned
from fastgan.nn.runner import Runner, runs_unfused
from fastgan.ops.core.tensors import check_flag


class FusedSequential(nn.Sequential, Segmented):
    """`nn.Sequential` whose convolutions, norms and activations run as fused blocks.

    It takes the modules of an `nn.Sequential` and has its `state_dict`; results, running statistics
    and gradients to any order are the same:

    >>> layers = nn.Sequential(nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2), ...)
    >>> fused = FusedSequential(*layers)

    Fused are `Conv{1,2,3}d` and `ConvTranspose{1,2,3}d` (dilation and groups 1, zero padding),
    `BatchNorm`, `InstanceNorm`, `ReLU`, `LeakyReLU`, `Tanh`, `Sigmoid` and fastgan's own, also in
    nested Sequentials. A norm and the activation after it wait for the convolution that follows,
    which applies them to its input: between blocks travels the raw convolution output, and for
    backward each block keeps that one tensor of its size (see `norm_act_conv` and `conv_block`).
    With `keep_activations` time counts and not memory: a block keeps what torch.nn's layers keep,
    and runs in their own steps (form "norm_fused") where no fused step is faster on the device. So
    it does where gradients are off, and nothing is kept.
    Any other child, and one with hooks, runs as it is.
    An activation right behind a convolution keeps its output for backward, LeakyReLU too: where it
    comes last, the result may not be changed in place before (`y += x` raises in backward, and
    `y.data += x` gives wrong gradients), as after `nn.LeakyReLU(inplace=True)`. `fuse` keeps what
    the model's own layers keep.

    Memory is channels-last where a convolution's input or weight is, as in torch.nn. On a CPU a
    contiguous input whose layers run faster channels-last is converted, and the output back.
    `segments(module, k)` holds for the batch norms of torch.nn in it, too.
    """

    def __init__(
        self, *modules: nn.Module | OrderedDict[str, nn.Module], keep_activations: bool = False
    ) -> None:
        check_flag("keep_activations", keep_activations)
        super().__init__(*modules)  # type: ignore[arg-type]
        self.keep_activations = keep_activations
        self._planned = Planned()

    def forward(self, input: Tensor) -> Tensor:
        keeps = activations_kept.by(self.keep_activations)
        runner = Runner(self.segments, keeps, self._planned)
        return runner.run(input, list(_leaves(_children(self))))


def chain(x: Tensor, **modules: nn.Module) -> Tensor:
    """Runs modules one after another, as a FusedSequential of them would.

    For a model whose chain of blocks is spread over several attributes:

    >>> return chain(z, project=self.project, blocks=self.blocks, output=self.output)
    """
    if runs_unfused():  # without a look at x, which may stand in for a tensor
        for module in modules.values():
            x = module(x)
        return x
    runner = Runner(keep_activations=activations_kept.by(False), planned=_planned(modules))
    return runner.run(x, list(_leaves(modules.items())))


def _planned(modules: dict[str, nn.Module]) -> Planned:
    """The plan of a chain: its first module holds it, of which a copy plans for itself."""
    if torch.compiler.is_compiling() or not modules:
        return Planned()
    first = vars(next(iter(modules.values())))
    planned: Planned = first.setdefault(_CHAINS, {}).setdefault(tuple(modules), Planned())
    return planned


_CHAINS = "_fastgan_chains"


def _children(module: nn.Module) -> Iterator[Leaf]:
    """As `named_children`, but one that stands in several places (an activation) in each."""
    return ((name, child) for name, child in module._modules.items() if child is not None)


def _leaves(children: Iterable[Leaf]) -> Iterator[Leaf]:
    """The children in order, those of nested Sequentials among them; Identity left out."""
    for name, child in children:
        plain = not hooked(child)
        if plain and type(child).forward in (nn.Sequential.forward, FusedSequential.forward):
            for inner, leaf in _leaves(_children(child)):
                yield f"{name}.{inner}", leaf
        elif not (plain and type(child) is nn.Identity):
            yield name, child

"""Which part of a fused graph runs channels-last where inputs and parameters are contiguous.

A chain of layers has a cost in either memory format, and a value that goes from one to the other
that of a copy: the cheapest assignment is a minimum cut. It follows from shapes alone.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fastgan.fusion.chain import Chain
from fastgan.fusion.copying import emptied
from fastgan.fusion.layers import called_activation, is_fresh, mutates
from fastgan.fusion.matching import Read
from fastgan.fusion.packing import PackedChain
from fastgan.nn import layout
from fastgan.nn.layers import hooked, layer_kind

# What takes either format, about as long, and answers in that of its input. Dropout is not of them:
# it would draw its mask in another order.
_MODULES = (
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.ConstantPad2d, nn.Dropout2d, nn.ELU, nn.GELU,
    nn.GroupNorm, nn.Hardtanh, nn.MaxPool2d, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.ReflectionPad2d, nn.ReplicationPad2d, nn.SiLU, nn.Softplus, nn.Upsample,
    nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d, nn.ZeroPad2d,
)  # fmt: skip
_FUNCTIONS: set[Any] = {
    torch.add, torch.sub, torch.mul, torch.div, torch.cat, torch.concat, "add", "sub", "mul", "div",
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.iadd,
    F.adaptive_avg_pool2d, F.avg_pool2d, F.elu, F.gelu, F.group_norm, F.hardtanh, F.interpolate,
    F.max_pool2d, F.pad, F.pixel_shuffle, F.silu, F.softplus,
}  # fmt: skip
_OF_ANY_FORMAT = ("shape", "ndim", "dtype", "device")  # attributes of a tensor


class Border(NamedTuple):
    """A value that goes from nodes of one format to some of the other.

    Attributes:
        converted: it becomes channels-last; otherwise it was, and is restored.
    """

    value: fx.Node
    converted: bool
    users: tuple[fx.Node, ...]


def borders(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> tuple[Border, ...]:
    """Where the format changes for inputs of a kind; nowhere if that does not pay."""
    packs = any(isinstance(module, PackedChain) for module in graph.children())
    fits = layout.is_contiguous if packs else layout.convertible
    if not all(x.dim() != 4 or fits(x) for x in inputs):
        return ()
    if any(x.device.type != "cpu" for x in inputs) or not _is_transparent(graph):
        return ()
    try:
        values = _Values(graph)
        values.run_without(inputs)
    except Exception:  # whatever a forward may raise where tensors hold no values
        return ()
    return _Cut(graph, values.found, inputs).borders()


def with_borders(graph: fx.GraphModule, found: tuple[Border, ...]) -> fx.GraphModule:
    """The graph with a copy at each border."""
    nodes = copy.deepcopy(graph.graph)
    twins = dict(zip(graph.graph.nodes, list(nodes.nodes), strict=True))
    for value, converted, users in found:
        with nodes.inserting_after(twins[value]):
            function = layout.converted if converted else layout.restored
            made = nodes.call_function(function, (twins[value],))
        for user in users:
            twins[user].replace_input_with(twins[value], made)
    called = {str(node.target) for node in nodes.nodes if node.op == "call_module"}
    held = {name: graph.get_submodule(name) for name in called}
    return fx.GraphModule(held, nodes, type(graph).__name__)


def _is_transparent(graph: fx.GraphModule) -> bool:
    """Whether the graph may be run to see shapes, and no copy would miss a change in place."""
    modules = dict(graph.named_modules(remove_duplicate=False))
    for node in graph.graph.nodes:
        if node.op == "call_module":
            module = modules[str(node.target)]
            known = module.__module__.startswith(("torch.nn.", "fastgan."))
            if not known or any(map(hooked, module.modules())):
                return False
        elif node.op == "call_function":
            origin = getattr(node.target, "__module__", None) or "torch"
            if origin.partition(".")[0] not in ("torch", "_operator", "builtins", "math"):
                return False
        if mutates(node, modules) and not _mutates_its_own(node, modules):
            return False
    return True


def _mutates_its_own(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node changes in place what was made for it alone."""
    value = node.args[0] if node.args else None
    if not isinstance(value, fx.Node) or len(value.users) > 1:
        return False
    if mutates(value, modules):
        return _mutates_its_own(value, modules)
    made = value.op == "call_module" and isinstance(modules[str(value.target)], Chain)
    return made or is_fresh(value, modules)


class _Values(fx.Interpreter):
    """The tensors of a graph, found by a run in which none holds values."""

    def __init__(self, graph: fx.GraphModule) -> None:
        # In a copy of its layers: those themselves may run at this moment, in another thread.
        super().__init__(emptied(graph), graph=graph.graph)
        self.found: dict[fx.Node, Tensor] = {}

    def run_without(self, inputs: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            self.run(*(torch.empty_like(x, device="meta") for x in inputs))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = value
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, Chain):
            return nn.Sequential.forward(module, *args)
        value = module(*args, **kwargs)
        return value.to("meta") if isinstance(module, Read) and isinstance(value, Tensor) else value


class _Cut:
    """The nodes of a graph between a source, which is channels-last, and a contiguous sink."""

    SOURCE, SINK = "channels-last", "contiguous"

    def __init__(
        self, graph: fx.GraphModule, values: dict[fx.Node, Tensor], inputs: tuple[Tensor, ...]
    ) -> None:
        self.nodes = list(graph.graph.nodes)
        self.modules = dict(graph.named_modules(remove_duplicate=False))
        self.values = values
        self.inputs = dict(zip(self.nodes, inputs, strict=False))

    def borders(self) -> tuple[Border, ...]:
        import networkx  # torch has it; it takes a moment, which contiguous images alone need

        flow, contiguous = networkx.DiGraph(), 0.0
        flow.add_nodes_from((self.SOURCE, self.SINK))
        for node in self.nodes:
            costs = self._costs(node)
            if costs is None:
                flow.add_edge(node, self.SINK)  # of any capacity
                continue
            contiguous += costs[0]
            flow.add_edge(self.SOURCE, node, capacity=costs[0])
            flow.add_edge(node, self.SINK, capacity=costs[1])
        edges = list(self._edges())
        for value, users in edges:
            # One copy serves all users of the other format.
            copied, restored = (value, "copied"), (value, "restored")
            cost = layout.copy_cost(self.values[value].numel())
            flow.add_edge(copied, value, capacity=cost)
            flow.add_edge(value, restored, capacity=cost)
            for user in users:
                flow.add_edge(user, copied)
                flow.add_edge(restored, user)
        least, (part, _) = networkx.minimum_cut(flow, self.SOURCE, self.SINK)
        if least >= layout.MAX_SHARE * contiguous:
            return ()
        found = []
        for value, users in edges:
            inside = value in part
            if others := tuple(user for user in users if (user in part) != inside):
                found.append(Border(value, not inside, others))
        return tuple(found)

    def _edges(self) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
        """Each image, and the nodes that take it in a format."""
        for node, value in self.values.items():
            if value.dim() == 4:
                yield node, [user for user in node.users if not _reads_a_size(user)]

    def _costs(self, node: fx.Node) -> tuple[float, float] | None:
        """Contiguous and channels-last; None for what has to be contiguous."""
        if node not in self.values or self.values[node].dim() != 4:
            return None
        if node.op != "call_module":
            known = node.target in _FUNCTIONS or called_activation(node) is not None
            return (0.0, 0.0) if known else None
        module = self.modules[str(node.target)]
        if isinstance(module, PackedChain):
            return module.costs(self.values[node.all_input_nodes[0]])
        if isinstance(module, Chain):
            return self._chain_costs(module, node.all_input_nodes[0])
        return (0.0, 0.0) if _takes_either(module) else None

    def _chain_costs(self, chain: Chain, given: fx.Node) -> tuple[float, float] | None:
        x, value = self.inputs.get(given), self.values[given]
        like, shape = torch.empty((0, 0, 0, 0), dtype=value.dtype), tuple(value.shape)
        grad_x = torch.is_grad_enabled() and (x is None or x.requires_grad)
        costs = layout.costs_of(chain.planned.blocks(chain.leaves), like, shape, grad_x)
        return None if costs is None else (costs.contiguous, costs.channels_last)


def _takes_either(module: nn.Module) -> bool:
    if isinstance(module, _ConvNd):
        contiguous = all(p.is_contiguous() for p in module.parameters())
        return layer_kind(module) == "conv" and module.groups == 1 and contiguous
    if layer_kind(module) in ("norm", "act"):
        return not isinstance(module, _InstanceNorm)  # torch.nn's copies it
    return type(module) in _MODULES


def _reads_a_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and node.args[1] in _OF_ANY_FORMAT

"""A fused graph for a kind of inputs of which it is known how every block runs."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from itertools import groupby

from torch import fx, nn

from fastgan.fusion.chain import Chain
from fastgan.fusion.packing import FORM as PACKED
from fastgan.fusion.packing import PackedChain
from fastgan.nn.blocks import Block
from fastgan.nn.planner import Form, Leaf


def chains_of(graph: fx.GraphModule) -> list[Chain]:
    return [module for module in graph.children() if isinstance(module, Chain)]


def pattern(graph: fx.GraphModule) -> Hashable:
    """How the blocks ran in the last call: all that the specialized graph depends on."""
    return tuple(
        (c.planned.converts, tuple(form.name for form in c.planned.last or ()))
        for c in chains_of(graph)
    )


def specialized(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with the layers themselves where they ran as such in its last call."""
    nodes = copy.deepcopy(graph.graph)
    held: dict[str, nn.Module] = {}
    for node in list(nodes.nodes):
        if node.op != "call_module":
            continue
        name = str(node.target)
        module = graph.get_submodule(name)
        if not isinstance(module, Chain):
            held[name] = module
            continue
        value = node.args[0]
        for i, part in enumerate(_parts(module)):
            held[f"{name}_{i}"] = part
            with nodes.inserting_before(node):
                value = nodes.call_module(f"{name}_{i}", (value,))
        node.replace_all_uses_with(value)
        nodes.erase_node(node)
    return fx.GraphModule(held, nodes, type(graph).__name__)


def _parts(chain: Chain) -> Iterator[nn.Module]:
    """The layers that ran as such, and chains of those between."""
    ran = chain.planned.parts()
    if chain.planned.converts or _packed(
        chain
    ):  # whole: between parts of it the format would change back
        yield chain
        return
    if not ran:  # all of it ran as it is
        yield from (layer for _, layer in chain.leaves)
        return
    fused = [flag for block, form in ran for flag in _fused(block, form)]
    for flag, run in groupby(zip(fused, chain.leaves, strict=True), key=lambda pair: pair[0]):
        leaves: list[Leaf] = [leaf for _, leaf in run]
        if flag:
            yield Chain(leaves, chain.keep_activations)
        else:
            yield from (layer for _, layer in leaves)


def _packed(chain: Chain) -> bool:
    return isinstance(chain, PackedChain) and chain.planned.last == [PACKED]


def _fused(block: Block, form: Form) -> list[bool]:
    """For each layer of a block, whether a fused op runs it."""
    count = len(block.children)
    if form.plain:
        return [False] * count
    if form.name == "norm_fused":
        return [i < block.before_conv for i in range(count)]
    return [True] * count

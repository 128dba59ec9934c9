"""A fused graph for a kind of inputs of which it is known how every block runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from torch import fx, nn

from fastgan.fusion.chain import Chain
from fastgan.fusion.packing import FORM as PACKED
from fastgan.fusion.packing import PackedChain
from fastgan.nn import steps
from fastgan.nn.planner import Leaf


class Specialized(NamedTuple):
    """A forward, and what it relies on in layers that it calls by steps."""

    forward: Callable[..., Any]
    relies: steps.State


def chains_of(graph: fx.GraphModule) -> list[Chain]:
    return [module for module in graph.children() if isinstance(module, Chain)]


def pattern(graph: fx.GraphModule) -> Hashable:
    """How the blocks ran in the last call: all that the specialized graph depends on."""
    return tuple(
        (c.planned.converts, tuple(form.name for form in c.planned.last or ()))
        for c in chains_of(graph)
    )


def specialized(graph: fx.GraphModule, stepped: bool) -> Specialized:
    """The graph with the layers themselves where they ran as such in its last call.

    Args:
        stepped: by steps, where there are such (see `fastgan.nn.steps`).
    """
    nodes = copy.deepcopy(graph.graph)
    held: dict[str, nn.Module] = {}
    relies: steps.State = ()
    for node in list(nodes.nodes):
        if node.op != "call_module":
            continue
        name = str(node.target)
        module = graph.get_submodule(name)
        if isinstance(module, Chain):
            parts = _parts(module, stepped)
        else:
            parts = [_layer(module, stepped and len(node.args) == 1 and not node.kwargs)]
        if parts == [module]:
            held[name] = module
            continue
        value = node.args[0]
        for i, part in enumerate(parts):
            with nodes.inserting_before(node):
                if isinstance(part, nn.Module):
                    held[f"{name}_{i}"] = part
                    value = nodes.call_module(f"{name}_{i}", (value,))
                else:
                    relies += part.relies
                    value = nodes.call_function(part.step, (value,))
        node.replace_all_uses_with(value)
        nodes.erase_node(node)
    return Specialized(fx.GraphModule(held, nodes, type(graph).__name__).forward, relies)


def _parts(chain: Chain, stepped: bool) -> list[steps.Part]:
    """The layers that ran as such, and chains of those between."""
    ran = chain.planned.parts()
    if chain.planned.converts or _packed(chain):
        return [chain]  # whole: between parts of it the format would change back
    if not ran:  # all of it ran as it is
        return [_layer(layer, stepped) for _, layer in chain.leaves]
    parts: list[steps.Part] = []
    fused: list[Leaf] = []

    def add(*found: steps.Part) -> None:
        if fused and found:
            parts.append(Chain(list(fused), chain.keep_activations))
            fused.clear()
        parts.extend(found)

    for block, form in ran:
        count = form.count(block)
        alone = steps.of_block(block, count) if stepped else None
        if alone is not None:
            add(*alone)
        else:
            fused += zip(block.names[:count], block.children[:count], strict=True)
            add(*(_layer(layer, stepped) for layer in block.children[count:]))
    if fused:
        parts.append(Chain(fused, chain.keep_activations))
    return parts


def _layer(layer: nn.Module, stepped: bool) -> steps.Part:
    return (steps.of_layer(layer) if stepped else None) or layer


def _packed(chain: Chain) -> bool:
    return isinstance(chain, PackedChain) and chain.planned.last == [PACKED]

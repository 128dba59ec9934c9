"""Which values of a graph may share memory, and what changes it."""

from __future__ import annotations

from torch import fx, nn

from fastgan.fusion.layers import is_fresh, mutates
from fastgan.nn.layers import hooked


def writer(value: fx.Node, after: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The first node behind `after` that may change the memory of a value, through any view."""
    order = {node: i for i, node in enumerate(after.graph.nodes)}
    found = [
        user
        for node in _shared(value, modules)
        for user in node.users
        if order[user] > order[after] and mutates(user, modules) and node in _written(user)
    ]
    return min(found, key=order.__getitem__, default=None)


def is_shared(value: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether code that the graph does not show holds the memory of a value: who calls it, or a
    module within that is not torch.nn's."""

    def unseen(node: fx.Node) -> bool:
        if node.op != "call_module":
            return node.op in ("placeholder", "output")
        module = modules[str(node.target)]
        return hooked(module) or not module.__module__.startswith(("torch.nn", "fastgan.nn"))

    return any(
        node.op == "placeholder" or any(map(unseen, node.users)) for node in _shared(value, modules)
    )


def _shared(value: fx.Node, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """The values that may lie in the memory of one."""
    found, ahead = {value}, [value]
    while ahead:
        node = ahead.pop()
        near = [user for user in node.users if node in _aliased(user, modules)]
        near += _aliased(node, modules)
        ahead += [other for other in near if other not in found]
        found.update(near)
    return found


def _aliased(node: fx.Node, modules: dict[str, nn.Module]) -> list[fx.Node]:
    """The arguments in whose memory a node's value may lie: what is not known to be new may."""
    if node.op == "output" or is_fresh(node, modules):
        return []
    return _written(node) if mutates(node, modules) else node.all_input_nodes


def _written(node: fx.Node) -> list[fx.Node]:
    """The arguments that a node which works in place may change."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args[:1], node.kwargs), found.append)  # one, or a list of them
    return found

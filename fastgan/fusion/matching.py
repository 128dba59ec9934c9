"""Finding the chains of layers in a traced graph, and putting one module in the place of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx, nn

from fastgan.fusion.aliases import is_shared, writer
from fastgan.fusion.chain import Chain
from fastgan.fusion.layers import (
    called_activation,
    is_fresh,
    mutates,
)
from fastgan.fusion.packing import PackedChain, packable
from fastgan.fusion.report import Block
from fastgan.nn.layers import is_plain_norm, layer_kind, why_no_convolution, why_not_layer
from fastgan.nn.planner import Shared

# Which layer may follow which within a chain; of these a block is any pair but X → conv.
_FOLLOWS = {
    "conv": ("norm", "act"),
    "linear": ("norm",),
    "norm": ("act", "conv"),
    "act": ("norm", "conv"),
}


@dataclass
class Layer:
    """A node of the graph that is a layer. `reason` says why it cannot be part of a chain."""

    node: fx.Node
    kind: str
    module: nn.Module
    name: str
    reason: str | None = None


# A convolution that is not to be one with its activation, or a norm with the one before it, and
# why: what they would keep is changed in place. A larger graph shows that of the parts that it goes
# through, whose own graphs do not.
Written = dict[nn.Module, str]


class Choice(NamedTuple):
    """What `fuse` is to do, beside what holds for all models.

    Attributes:
        keep_activations: as FusedSequential's.
        packs: the weights stay as they are, so that each is packed once.
    """

    keep_activations: bool
    packs: bool = False


class Found(NamedTuple):
    """The layers of a graph, which of them are linked, and the blocks whose layers are not.

    Attributes:
        links: from a layer's node to the one layer that takes its output and may share a chain with
            it.
    """

    modules: dict[str, nn.Module]
    layers: dict[fx.Node, Layer]
    links: dict[fx.Node, Layer]
    left: list[tuple[fx.Node, Block]]


def find_links(
    graph: fx.Graph, root: nn.Module, prefix: str = "", written: Written | None = None
) -> Found:
    """What can be fused in a graph, which is put into a form without needless in-place steps.

    Args:
        prefix: the root's own name, for those of the layers.
        written: see `Written`; is added to.
    """
    written = {} if written is None else written
    modules = dict(root.named_modules(remove_duplicate=False))
    _skip_identities(graph, modules)
    pure = _functionalise(graph, modules)
    layers = _layers(graph, modules, prefix, pure)
    links, left = {}, []
    for layer in layers.values():
        follower, reason = _follower(layer, layers, modules, written)
        if follower is None:
            continue
        if reason is None:
            links[layer.node] = follower
        elif follower.kind != "conv":
            left.append((layer.node, _as_block([layer, follower], reason)))
    return Found(modules, layers, links, left)


def fused_graph(
    graph: fx.Graph, root: nn.Module, prefix: str, chosen: Choice, written: Written
) -> tuple[fx.GraphModule | None, list[Block]]:
    """The graph with its chains fused, and every block in it; None if there is nothing to fuse."""
    found = find_links(graph, root, prefix, written)
    chains = _chains(found.layers, found.links, chosen)
    blocks = found.left + [block for chain in chains for block in _blocks(chain)]
    order = {node: i for i, node in enumerate(graph.nodes)}
    in_order = [block for _, block in sorted(blocks, key=lambda pair: order[pair[0]])]
    if chosen.packs:
        chains = [part for chain in chains for part in _packable_parts(chain)]
        chains += _lone(found.layers, chains, packable)
    elif chains:
        chains += _lone(found.layers, chains, _runs_alone)
    if not chains:
        return None, in_order
    return _rewritten(graph, root, found.modules, chains, chosen), in_order


def _as_block(group: list[Layer], reason: str = "") -> Block:
    return Block(tuple(p.name for p in group), tuple(_title(p) for p in group), reason)


def _skip_identities(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    for node in list(graph.nodes):
        if node.op == "call_module" and layer_kind(modules[str(node.target)]) == "identity":
            if why_not_layer(modules[str(node.target)]) or len(node.args) != 1:
                continue
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _functionalise(graph: fx.Graph, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """Makes later uses of a value that an activation changed in place uses of its result.

    Where the value is memory of its own and the activation is the first to use it, the two cannot
    be told apart any more: whether the activation works in place does not matter then. Returns
    those activations.
    """
    pure: set[fx.Node] = set()
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not mutates(node, modules) or _activation(node, modules) is None:
            continue
        value = node.args[0] if node.args else None
        if not isinstance(value, fx.Node):
            continue
        if not (value in pure or is_fresh(value, modules)):
            continue
        users = sorted(value.users, key=order.__getitem__)
        if users[0] is node:
            for user in users[1:]:
                user.replace_input_with(value, node)
            pure.add(node)
    return pure


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return module if layer_kind(module) == "act" else None
    return called_activation(node)


def _layers(
    graph: fx.Graph, modules: dict[str, nn.Module], prefix: str, pure: set[fx.Node]
) -> dict[fx.Node, Layer]:
    """Every node that is a layer of one tensor."""
    called = [modules[str(n.target)] for n in graph.nodes if n.op == "call_module"]
    times = Counter(called)
    layers: dict[fx.Node, Layer] = {}
    for node in graph.nodes:
        module = _layer_module(node, modules)
        if module is None or (kind := layer_kind(module)) not in _FOLLOWS:
            continue
        by_call = node.op != "call_module"
        name = f"{prefix}{node.target}" if not by_call else f"{_function_name(node)}()"
        layer = Layer(node, kind, module, name, why_not_layer(module))
        if layer.reason is None and kind != "act" and times[module] > 1:
            layer.reason = f"{type(module).__name__} is used {times[module]} times"
        if layer.reason is None and mutates(node, modules) and node not in pure:
            layer.reason = f"{_title(layer)} changes in place a value that is used elsewhere"
        layers[node] = layer
    return layers


def _layer_module(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    if node.op == "call_module":
        whole = len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs
        return modules[str(node.target)] if whole else None
    takes_node = node.args and isinstance(node.args[0], fx.Node)
    return called_activation(node) if takes_node else None


def _function_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else node.target.__name__


def _title(layer: Layer) -> str:
    return type(layer.module).__name__.removeprefix("Parametrized")


def _follower(
    layer: Layer, layers: dict[fx.Node, Layer], modules: dict[str, nn.Module], written: Written
) -> tuple[Layer | None, str | None]:
    """(the layer that takes this one's output and may share a chain with it, why it does not)."""
    users = list(layer.node.users)
    fitting = [layers[u] for u in users if u in layers and layers[u].kind in _FOLLOWS[layer.kind]]
    if not fitting:
        return None, None
    follower = fitting[0]
    if layer.reason or follower.reason:
        return follower, layer.reason or follower.reason
    conv = layer if (layer.kind, follower.kind) == ("conv", "act") else follower
    if conv.kind == "conv" and (why_not := why_no_convolution(conv.module)) is not None:
        return follower, why_not
    if len(users) > 1:
        others = ", ".join(_user_name(u, modules) for u in users if u is not follower.node)
        return follower, f"the output of {layer.name} also goes to {others}"
    return follower, _changed(layer, follower, modules, written)


def _changed(
    layer: Layer, follower: Layer, modules: dict[str, nn.Module], written: Written
) -> str | None:
    """What changes in place a tensor that the two keep for backward as one, but not as they are."""
    if layer.kind == "conv" and follower.kind == "act":
        # As one they keep the output; of torch.nn's activations, LeakyReLU keeps its input.
        begins, what = layer.module, "output"
        found = writer(follower.node, follower.node, modules)
    elif layer.kind == "act" and follower.kind == "norm":
        if isinstance(layer.module, nn.LeakyReLU):
            return None
        # As one they keep the input; of torch.nn's layers, these activations keep their output.
        begins, what = follower.module, "input"
        found = writer(layer.node.all_input_nodes[0], layer.node, modules)
    else:
        return None
    if found is not None:
        written[begins] = f"{_user_name(found, modules)} changes its {what} in place"
    return written.get(begins)


def _user_name(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "output":
        return "the result"
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return _function_name(node)


def _chains(
    layers: dict[fx.Node, Layer], links: dict[fx.Node, Layer], chosen: Choice
) -> list[list[Layer]]:
    """The longest runs of linked layers that hold more than convolutions alone."""
    followers = {follower.node for follower in links.values()}
    chains = []
    for node, layer in layers.items():
        if node in followers or node not in links:
            continue
        chain = [layer]
        while chain[-1].node in links:
            chain.append(links[chain[-1].node])
        if chain[-1].kind == "norm" and chain[-2].kind != "act" and not chosen.packs:
            chain.pop()  # with nothing after it, it trains as fast on its own
        if _blocks(chain):
            chains.append(chain)
    return chains


def _lone(
    layers: dict[fx.Node, Layer], chains: list[list[Layer]], runs: Callable[[nn.Module], bool]
) -> list[list[Layer]]:
    """Layers in no chain: nothing is fused with them, but a kernel of ours may be the faster one.

    runs: whether one may run a layer.
    """
    chained = {layer.node for chain in chains for layer in chain}
    return [
        [layer]
        for node, layer in layers.items()
        if node not in chained and not layer.reason and runs(layer.module)
    ]


def _runs_alone(module: nn.Module) -> bool:
    return why_no_convolution(module) is None or is_plain_norm(module)


def _packable_parts(chain: list[Layer]) -> list[list[Layer]]:
    """A chain cut into convolutions, each with the activation behind it, and what is between."""
    parts: list[list[Layer]] = []
    for layer in chain:
        kinds = [member.kind for member in parts[-1]] if parts else []
        begins = not kinds or layer.kind == "conv"
        ends = kinds[:1] == ["conv"] and (len(kinds) > 1 or layer.kind != "act")
        if begins or ends:
            parts.append([layer])
        else:
            parts[-1].append(layer)
    return parts


def _blocks(chain: list[Layer]) -> list[tuple[fx.Node, Block]]:
    """A chain as people speak of it: a convolution with the norm and activation that follow it."""
    groups: list[list[Layer]] = []
    for layer in chain:
        kinds = [member.kind for member in groups[-1]] if groups else []
        if groups and layer.kind != "conv" and layer.kind not in kinds:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return [(group[0].node, _as_block(group)) for group in groups if len(group) > 1]


def _rewritten(
    graph: fx.Graph,
    root: nn.Module,
    modules: dict[str, nn.Module],
    chains: list[list[Layer]],
    chosen: Choice,
) -> fx.GraphModule:
    held: dict[str, Any] = {}
    ends = [(chain[0].node, chain[-1].node) for chain in chains]
    shared = [
        Shared(is_shared(head.all_input_nodes[0], modules), is_shared(tail, modules))
        for head, tail in ends
    ]
    for i, (chain, (head, tail)) in enumerate(zip(chains, ends, strict=True)):
        # In the place of its first layer: what it reads is as it was then.
        named = [(layer.name, layer.module) for layer in chain]
        # Alone it keeps no more than its input.
        for_speed = chosen.keep_activations or len(chain) == 1
        if chosen.packs and packable(chain[0].module):
            held[f"_chain_{i}"] = PackedChain(named, for_speed)
        else:
            held[f"_chain_{i}"] = Chain(named, for_speed, shared[i])
        with graph.inserting_before(head):
            fused = graph.call_module(f"_chain_{i}", (head.args[0],))
        tail.replace_all_uses_with(fused)
        for layer in reversed(chain):
            graph.erase_node(layer.node)
    for i, node in enumerate(list(graph.nodes)):
        if node.op == "call_module" and node.target not in held:
            held[str(node.target)] = modules[str(node.target)]
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            held[f"_read_{i}"] = Read(modules[owner], name)
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_module(f"_read_{i}"))
            graph.erase_node(node)
    for node in graph.nodes:
        node.type = None  # annotations may be text, which the code of a pickled graph cannot hold
    graph._tracer_cls = None  # pickling traces the graph's code again, by the ordinary tracer
    return fx.GraphModule(held, graph, type(root).__name__)


class Read(nn.Module):
    """An attribute of a module, as it is at the time: `.to()` and loading may put another there."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.held = (owner, name)

    def forward(self) -> Any:
        owner, name = self.held
        return getattr(owner, name)

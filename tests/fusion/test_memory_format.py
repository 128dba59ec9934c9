"""The part of a contiguous model that fuse runs channels-last: the cheapest, and nobody sees it."""

from __future__ import annotations

import copy
import math
import random
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from along import sizes
from tolerance import FLOOR, error
from torch import Tensor, fx, nn

from fastgan import fuse
from fastgan.fusion import explain, memory_format
from fastgan.fusion.memory_format import borders
from fastgan.fusion.plan import Plan, plan_of
from fastgan.nn import layout

pytestmark = pytest.mark.usefixtures("native")


class UNet(nn.Module):
    """Two levels of 4x4 convolutions, whose skips, sizes and last view a copy must not disturb.

    Its activations have no kinks, at which rounding would decide the gradient.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, 1, 1)
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.Sigmoid(),
        )
        self.inner = nn.Sequential(
            *(nn.Conv2d(2 * width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width)),
            *(nn.Tanh(), nn.ConvTranspose2d(2 * width, 2 * width, 4, 2, 1, bias=False)),
            nn.BatchNorm2d(2 * width),
        )
        self.elu = nn.ELU(inplace=True)
        self.up = nn.ConvTranspose2d(4 * width, width, 4, 2, 1)
        self.tail = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.down(self.head(x))
        inner = self.inner(F.interpolate(y, size=y.shape[2:]))
        inner += y
        y = self.up(torch.cat([self.elu(inner), y], 1))
        return self.tail(y).tanh(), y.view(y.size(0), -1).square().mean(1)


def found(model: nn.Module, x: Tensor) -> list[tuple[str, bool]]:
    plan = plan_of(model)
    assert isinstance(plan, Plan)
    return [(b.value.name, b.converted) for b in borders(plan.graphs[model.training], (x,))]


def results(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss and of the size of its gradient by x."""
    x = x.clone().requires_grad_()
    image, score = model(x)
    assert image.is_contiguous()
    (g,) = torch.autograd.grad(image.square().mean() + score.sum(), x, create_graph=True)
    g.square().sum().backward()
    assert g.is_contiguous()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    assert all(grad.is_contiguous() for grad in grads.values())
    kept = {k: b.clone() for k, b in model.named_buffers()}
    return {"image": image.detach(), "score": score.detach(), "x": g.detach(), **grads, **kept}


def test_a_model_is_converted_at_its_own_borders() -> None:
    model = fuse(UNet())
    x = torch.randn(8, 3, 64, 64)
    before = copy.deepcopy(model.state_dict())
    at = found(model, x)
    assert [converted for _, converted in at] == [True, False, False]  # the view, and the image
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert at == found(fuse(UNet()), x)
    assert not found(model, x[:1, :, :16, :16].clone())  # the weights cost more than is saved
    assert not found(model, x.to(memory_format=torch.channels_last))
    assert not found(fuse(UNet().to(memory_format=torch.channels_last)), x)
    assert {row.layout for row in explain(model, x)} >= {"converted"}


def test_results_and_gradients_are_the_models() -> None:
    torch.manual_seed(0)
    model, x = UNet(), torch.randn(8, 3, 64, 64)
    fused = fuse(copy.deepcopy(model))
    assert found(fused, x.clone().requires_grad_())
    exact = results(copy.deepcopy(model).double(), x.double())
    theirs = results(copy.deepcopy(model), x)
    for _ in range(2):  # the second call of a kind runs a graph of its own
        again = copy.deepcopy(fused)
        results(fused, x)
        fused.load_state_dict(again.state_dict())
        fused.zero_grad()
        own = results(fused, x)
        fused.load_state_dict(again.state_dict())
        for k, value in own.items():
            least = sizes(exact)[k]
            allowed = 2 * error(theirs[k], exact[k], least) + FLOOR[torch.float32]
            assert error(value, exact[k], least) <= allowed, k


class Around(nn.Module):
    """A convolution chain, what a test puts behind it, and another chain."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(64, 64, 4, 2, 1), nn.LeakyReLU(0.2))
        self.between = between
        self.last = nn.Sequential(nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


NEAR = 10 * FLOOR[torch.float32]  # two layers in float32, run in two ways
X = torch.randn(16, 64, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("between", "copies"),
    [
        (nn.AvgPool2d(2), 2),
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.Dropout2d()), 2),
        (nn.Dropout(), 4),  # its mask is drawn in the order of memory
        (nn.Softmax(1), 4),
    ],
    ids=str,
)
def test_what_stands_between_chains(between: nn.Module, copies: int) -> None:
    model = Around(between)
    fused = fuse(copy.deepcopy(model))
    assert len(found(fused, X)) == copies
    torch.manual_seed(1)
    own = fused(X)
    torch.manual_seed(1)
    assert error(own.detach(), model(X).detach()) < NEAR


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        Doubled.calls += 1
        return x * float(x.shape[0] > 0)

    calls = 0


class AndItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Around(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        z = self.layers(y)
        y += 1.0  # of which a copy that was made before would not know
        return z + y


def test_a_value_that_is_changed_in_place_is_not_copied() -> None:
    model = AndItself()
    fused = fuse(copy.deepcopy(model))
    assert not found(fused, X)
    assert error(fused(X).detach(), model(X).detach()) < NEAR


def test_no_module_that_is_not_known_runs_once_more() -> None:
    model = fuse(Around(Doubled()))
    Doubled.calls = 0
    model(X)
    assert Doubled.calls == 1
    hooked = Around(nn.Identity())
    seen: list[int] = []
    hooked.between.register_forward_hook(lambda *_: seen.append(1))
    fuse(hooked)(X)
    assert seen == [1]


def test_a_lone_convolution_runs_by_the_faster_kernel() -> None:
    model = fuse(UNet())
    x = torch.randn(8, 3, 64, 64)
    assert "up" not in str(model.fusion_report)
    rows = {row.name: row for row in explain(model, x)}
    assert rows["up"].form == "recompute"
    assert rows["head"].form == "unfused"


def test_the_cut_is_the_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every assignment of the formats, on graphs drawn at random."""
    draw = random.Random(0)
    monkeypatch.setattr(layout, "MAX_SHARE", math.inf)
    for _ in range(60):
        graph = fx.Graph()
        nodes = [graph.placeholder("x")]
        for _ in range(7):
            pair = tuple(draw.choice(nodes) for _ in range(2))
            nodes.append(graph.call_function(torch.add, pair))
        output = graph.output(tuple(nodes[-2:]))
        values = {node: torch.empty(draw.randrange(1, 9), 1, 1, 1) for node in nodes}
        costs = {node: (draw.randrange(900), draw.randrange(300)) for node in nodes[1:]}
        pinned = {nodes[0], output, *draw.sample(nodes, 2)}
        cut = memory_format._Cut(fx.GraphModule({}, graph), values, ())
        monkeypatch.setattr(
            cut, "_costs", lambda node, c=costs, p=pinned: None if node in p else c[node]
        )

        def cost(part: set[fx.Node], nodes=nodes, values=values, costs=costs, pinned=pinned):
            total = sum(costs[n][n in part] for n in nodes if n not in pinned)
            for value in nodes:
                if any((user in part) != (value in part) for user in value.users):
                    total += layout.copy_cost(values[value].numel())
            return total

        free = [node for node in nodes if node not in pinned]
        best = min(
            cost({n for n, side in zip(free, sides, strict=True) if side})
            for sides in product((False, True), repeat=len(free))
        )
        assert cost(_part(cut.borders(), nodes)) == best


def _part(found: tuple[memory_format.Border, ...], nodes: list[fx.Node]) -> set[fx.Node]:
    """The channels-last nodes that borders tell of, from the contiguous input on."""
    crossing = {(b.value, user) for b in found for user in b.users}
    part: set[fx.Node] = set()
    for node in nodes[1:]:
        value = node.all_input_nodes[0]
        if (value in part) != ((value, node) in crossing):
            part.add(node)
    return part


def test_layers_keep_their_weights_while_a_form_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may run them at that moment."""
    model, seen = UNet(4), []
    run_node = memory_format._Values.run_node

    def watching(self: memory_format._Values, node: fx.Node) -> object:
        seen.append(any(p.is_meta for p in model.parameters()))
        return run_node(self, node)

    monkeypatch.setattr(memory_format._Values, "run_node", watching)
    fuse(model)(torch.randn(2, 3, 16, 16))
    assert seen
    assert not any(seen)

"""Activations kept for backward where memory is plenty: by whom, and when."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgan.engine.keeping import Keeper
from fastgan.nn import FusedSequential, activations_kept, chain

from .conftest import tiny_trainer

CUDA = torch.device("cuda", 0)


def layers(dims: int = 2) -> list[nn.Module]:
    """One block with a norm to apply before its convolution: of 2 x 8 x 4^dims values."""
    conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[dims - 1]
    return [conv(3, 8, 3, 2, 1), norm(8), nn.Tanh(), conv(8, 4, 3, 1, 1)]


def image(dims: int = 2) -> Tensor:
    return torch.randn(2, 3, *[8] * dims, requires_grad=True)


def saved(y_of_x: nn.Module, x: Tensor, values: int) -> int:
    """How many tensors of a number of values a forward pass keeps for backward."""
    kept = {}

    def note(t: Tensor) -> Tensor:
        if t.numel() == values:
            kept[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        y_of_x(x)
    return len(kept)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_setting_keeps_one_tensor_more(dims: int) -> None:
    values = 2 * 8 * 4**dims
    model, keeping = FusedSequential(*layers(dims)), None
    for name, count in (("auto", 1), ("on", 2), ("off", 1)):
        with activations_kept(name):
            assert saved(model, image(dims), values) == count, name
    keeping = FusedSequential(*layers(dims), keep_activations=True)
    for name, count in (("auto", 2), ("off", 1)):
        with activations_kept(name):
            assert saved(keeping, image(dims), values) == count, name
    with activations_kept("on"), torch.no_grad():
        y = model(x := image(dims))
    torch.testing.assert_close(y, chain(x, **dict(model.named_children())))
    with pytest.raises(ValueError, match="'yes' is not one of auto, on, off"):
        activations_kept("yes")


def test_in_a_compiled_graph() -> None:
    model, x = FusedSequential(*layers()), image()
    compiled = torch.compile(model, backend="aot_eager")
    found = {}
    for name in ("off", "on", "off"):
        with activations_kept(name):
            found[name] = saved(compiled, x, 2 * 8 * 16)
            torch.testing.assert_close(compiled(x), model(x))
    assert found == {"off": 1, "on": 2}


class Memory:
    """A GPU with so many bytes free, of which a step took some at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, taken: int) -> None:
        self.asked = 0

        def info(device: torch.device) -> tuple[int, int]:
            assert device == CUDA
            self.asked += 1
            return free, 10 * free

        monkeypatch.setattr(torch.cuda, "mem_get_info", info)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: taken)


# What the block of `layers` would keep: 2 x 8 x 4 x 4 values of 4 bytes.
NEED = 1024


@pytest.mark.parametrize(
    ("free", "taken", "captures", "keeps"),
    [
        (2 * NEED, 0, False, True),
        (2 * NEED - 1, 0, False, False),
        (2 * NEED, 500, False, True),
        (2 * NEED, 500, True, False),
        (2 * (NEED + 500), 500, True, True),
    ],
)
def test_auto_goes_by_the_memory_that_the_first_step_leaves(
    monkeypatch: pytest.MonkeyPatch, free: int, taken: int, captures: bool, keeps: bool
) -> None:
    memory, model = Memory(monkeypatch, free, taken), FusedSequential(*layers())
    keeper = Keeper("auto", CUDA, captures=captures, fixed=False)
    found = [keeper(lambda: saved(model, image(), 2 * 8 * 16)) for _ in range(3)]
    assert found == [1, 1 + keeps, 1 + keeps]
    assert memory.asked == 1
    assert activations_kept.value == "auto"


@pytest.mark.parametrize("model", [nn.Sequential(*layers()), FusedSequential(*layers()[:1])])
def test_nothing_to_keep(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    Memory(monkeypatch, 1 << 40, 0)
    keeper = Keeper("auto", CUDA, captures=False, fixed=False)
    keeper(lambda: model(image()))
    assert keeper.setting == "auto"


@pytest.mark.parametrize(
    ("setting", "device", "fixed", "found"),
    [
        ("auto", CUDA, True, 1), ("auto", torch.device("cpu"), False, 1),
        ("on", torch.device("cpu"), False, 2), ("on", CUDA, True, 2), ("off", CUDA, False, 1),
    ],
)  # fmt: skip
def test_what_does_not_depend_on_memory(
    monkeypatch: pytest.MonkeyPatch, setting: str, device: torch.device, fixed: bool, found: int
) -> None:
    memory, model = Memory(monkeypatch, 1 << 40, 0), FusedSequential(*layers())
    keeper = Keeper(setting, device, captures=False, fixed=fixed)  # type: ignore[arg-type]
    assert keeper(lambda: saved(model, image(), 2 * 8 * 16)) == found
    assert memory.asked == 0


def watch(network: nn.Module, seen: set[str]) -> None:
    """Notes what the setting is while the network runs."""
    network.register_forward_hook(lambda *_: seen.add(activations_kept.value))


def test_a_run_is_asked_and_trains_alike() -> None:
    values = {}
    for setting in ("on", "off"):
        trainer, seen = tiny_trainer(keep_activations=setting), set[str]()
        watch(trainer.discriminator, seen)
        trainer.train_step()
        assert seen == {setting}
        values[setting] = [p.detach().clone() for p in trainer.generator.parameters()]
    for a, b in zip(*values.values(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="keep_activations"):
        tiny_trainer(keep_activations="yes")

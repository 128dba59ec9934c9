"""fold packs the weights of convolutions once: the same numbers, and no change goes unseen."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from tolerance import assert_as_exact
from torch import Tensor, nn

import fastgan
from fastgan.fusion import explain
from fastgan.fusion.packing import PackedChain
from fastgan.fusion.plan import plan_of
from fastgan.ops.core import native
from fastgan.ops.core.memory_format import channels_last_strides

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="oneDNN is not there"
)


def chains(model: nn.Module) -> list[PackedChain]:
    plan = plan_of(model)
    assert plan is not None
    return [c for c in plan.graphs[False].children() if isinstance(c, PackedChain)]


def forms(model: nn.Module) -> list[str]:
    return [form.name for chain in chains(model) for form in chain.planned.last or ()]


# Layers, the shape of an input, and the forms in which the convolutions run channels-last.
LAYERS = {
    "relu": ([nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()], (16, 8, 9, 7), ["packed"]),
    "tanh": ([nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.Tanh()], (8, 16, 5, 5), ["packed"]),
    "sigmoid": ([nn.Conv3d(4, 8, 3), nn.Sigmoid()], (8, 4, 9, 9, 9), ["packed"]),
    "dilated": ([nn.Conv2d(8, 16, 5, dilation=2), nn.LeakyReLU(0.2)], (40, 8, 30, 9), ["packed"]),
    "output padding": (
        [nn.ConvTranspose2d(8, 16, 4, 2, output_padding=1, bias=False), nn.LeakyReLU(0.2)],
        (8, 8, 30, 3),
        ["packed"],
    ),
    "one dimension": ([nn.Conv1d(8, 16, 5, dilation=2), nn.LeakyReLU(0.2)], (2, 8, 30), None),
    "depthwise": ([nn.Conv2d(16, 16, 3, groups=16), nn.Tanh()], (160, 16, 9, 9), ["packed"]),
    "Winograd": ([nn.Conv2d(64, 64, 4, 2, 1), nn.LeakyReLU(0.1)], (8, 64, 8, 8), ["packed"]),
    "to an image": ([nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh()], (4, 32, 8, 8), ["packed"]),
    "one position": ([nn.ConvTranspose2d(16, 32, 4), nn.ReLU()], (33, 16, 1, 1), ["packed"]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_packed_layer_is_the_layer(name: str) -> None:
    layers, shape, expected = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(*layers).eval()
    x = torch.randn(shape)
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    last = last.as_strided(shape, channels_last_strides(shape))
    exact = copy.deepcopy(model).double()(x.double())
    folded = fastgan.fold(model)
    for given in (last, x):
        found = folded(given)
        assert_as_exact(name, found, model(given), exact)
        assert found.is_contiguous() == model(given).is_contiguous()
        if given is last and expected:
            assert forms(folded) == expected


def wide() -> nn.Sequential:
    """For a batch of 16 of 64 x 16 x 16 both convolutions run packed, on converted images."""
    return nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)
    ).eval()


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 64, 16, 16)


def test_contiguous_images_are_converted_and_the_output_is_contiguous() -> None:
    model = wide()
    folded = fastgan.fold(model)
    x = images()
    found = folded(x)
    torch.testing.assert_close(found, model(x))
    assert found.stride() == model(x).stride()
    assert forms(folded) == ["packed", "packed"]
    assert [row.form for row in explain(folded, x)] == ["packed", "packed"]
    assert {row.layout for row in explain(folded, x)} == {"converted"}


def change_in_place(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(2)


def change_by_data(conv: nn.Conv2d) -> None:
    conv.weight.data = conv.weight.data * 2


def change_by_another(conv: nn.Conv2d) -> None:
    conv.weight = nn.Parameter(conv.weight.detach() * 2, requires_grad=False)


def change_by_loading(conv: nn.Conv2d) -> None:
    conv.load_state_dict({k: 2 * v for k, v in conv.state_dict().items()})


def change_settings(conv: nn.Conv2d) -> None:
    conv.padding = (2, 2)


def change_bias(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    conv.bias = nn.Parameter(conv.bias.detach() + 1, requires_grad=False)


CHANGES = [
    change_in_place, change_by_data, change_by_another, change_by_loading, change_settings,
    change_bias,
]  # fmt: skip


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_packed_again(change, grad: bool) -> None:
    folded = fastgan.fold(wide())
    x = images()
    with torch.set_grad_enabled(grad):
        for _ in range(2):
            for _ in range(2):
                folded(x)
            assert forms(folded) == ["packed", "packed"]
            if native.from_python():
                assert all(bool(chain.known) is not grad for chain in chains(folded))
            change(folded[0])
            torch.testing.assert_close(folded(x), nn.Sequential.forward(folded, x))


@pytest.mark.skipif(not native.from_python(), reason="csrc/eager is not there")
def test_a_call_like_an_earlier_one_is_known_by_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = fastgan.fold(wide())
    x = images()
    with torch.no_grad():
        expected = folded(x)
        monkeypatch.setattr(PackedChain, "_serves", lambda *_: pytest.fail("looked at anew"))
        torch.testing.assert_close(folded(x), expected)
        monkeypatch.undo()
        with torch.backends.mkldnn.flags(enabled=False):
            folded(x)
            assert forms(folded) != ["packed", "packed"]
        folded(x)
        assert forms(folded) == ["packed", "packed"]
        seen: list[Tensor] = []
        folded[2].register_forward_hook(lambda *given: seen.append(given[-1]))
        torch.testing.assert_close(folded(x), expected)
    assert len(seen) == 1


def test_hooks_gradients_other_dtypes_and_modes_run_the_layers() -> None:
    folded = fastgan.fold(wide())
    x = images()
    expected = folded(x)
    seen: list[Tensor] = []
    handle = folded[0].register_forward_hook(lambda *given: seen.append(given[-1]))
    torch.testing.assert_close(folded(x), expected)
    handle.remove()
    assert len(seen) == 1
    torch.testing.assert_close(folded(x.clone().requires_grad_()), expected)
    folded(x.clone().requires_grad_()).sum().backward()
    folded[2].weight.requires_grad_()
    folded(x).sum().backward()
    assert folded[2].weight.grad is not None
    folded[2].weight.requires_grad_(False)
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(folded(x), nn.Sequential.forward(folded, x))
    with torch.autocast("cpu", torch.bfloat16):
        assert folded(x).dtype is torch.bfloat16
    torch.testing.assert_close(torch.func.vmap(folded)(x.unsqueeze(0))[0], expected)
    assert folded.double()(x.double()).dtype is torch.float64
    torch.testing.assert_close(folded.float()(x), expected)


def test_a_few_shapes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = fastgan.fold(wide())
    for count in range(16, 24):
        x = images(count)
        torch.testing.assert_close(folded(x), nn.Sequential.forward(folded, x))
    assert all(0 < len(chain.calls) <= 4 for chain in chains(folded))


def test_not_a_number_stays_one() -> None:
    folded = fastgan.fold(wide())
    x = images()
    x[3, 5, 6, 7] = float("nan")
    assert folded(x)[3].isnan().any()


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_a_folded_model_is_copied_saved_and_compiled_after_it_ran() -> None:
    folded = fastgan.fold(wide())
    x = images()
    expected = folded(x)
    file = io.BytesIO()
    torch.save(folded, file)
    file.seek(0)
    for other in (copy.deepcopy(folded), torch.load(file, weights_only=False)):
        assert not any(chain.calls for chain in chains(other))
        torch.testing.assert_close(other(x), expected)
    assert set(folded.state_dict()) == set(wide().state_dict())
    torch.testing.assert_close(torch.compile(folded, backend="eager")(x), expected)
    program = torch.export.export(folded, (x,)).module()
    torch.testing.assert_close(program(x), expected)
    torch.testing.assert_close(torch.jit.trace(folded, x)(x), expected)


def test_weights_made_in_inference_mode_run_unpacked() -> None:
    with torch.inference_mode():
        folded = fastgan.fold(wide())
        x = images()
        torch.testing.assert_close(folded(x), nn.Sequential.forward(folded, x))
        assert "packed" not in forms(folded)

"""Residual networks: the plain composition, attention, classes, spectral norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.models import create_model
from fastgan.models.resnet import ClassBatchNormAct2d, DownBlock, SelfAttention, UpBlock

SHAPE = {"image_size": 16, "channels": 1, "width": 8}


def test_up_block_is_the_papers() -> None:
    block = UpBlock(4, 6, 0).double()
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)

    def normed(norm: nn.Module, h: Tensor) -> Tensor:
        return F.relu(F.batch_norm(h, None, None, norm.weight, norm.bias, training=True))

    up = F.interpolate(normed(block.norm1, x), scale_factor=2)
    h = block.conv2(normed(block.norm2, block.conv1(up)))
    expected = h + block.skip(F.interpolate(x, scale_factor=2))
    torch.testing.assert_close(block(x, None), expected)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_down_block_is_the_papers(first: bool, down: bool) -> None:
    block = DownBlock(4, 6, first=first, down=down).double()
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    h = block.conv2(F.relu(block.conv1(x if first else F.relu(x))))
    expected = h + block.skip(x)
    torch.testing.assert_close(block(x), F.avg_pool2d(expected, 2) if down else expected)


def test_class_batch_norm_has_a_row_for_each_class() -> None:
    norm = ClassBatchNormAct2d(3, 4).double()
    with torch.no_grad():
        norm.weight.weight.normal_()
        norm.bias.weight.normal_()
    x, labels = torch.randn(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    z = F.batch_norm(x, None, None, training=True)
    rows = [
        F.relu(z[i] * norm.weight.weight[k][:, None, None] + norm.bias.weight[k][:, None, None])
        for i, k in enumerate(labels)
    ]
    torch.testing.assert_close(norm(x, labels), torch.stack(rows))


def test_attention_is_softmax_over_pooled_positions() -> None:
    layer = SelfAttention(8).double()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    assert torch.equal(layer(x), x)  # γ starts at 0
    with torch.no_grad():
        layer.gamma.fill_(0.7)
    query = layer.query(x).reshape(2, 1, 16)
    key = F.max_pool2d(layer.key(x), 2).reshape(2, 1, 4)
    value = F.max_pool2d(layer.value(x), 2).reshape(2, 4, 4)
    seen = torch.zeros(2, 4, 16, dtype=torch.float64)
    for n in range(2):
        for i in range(16):
            share = torch.softmax(query[n, :, i] @ key[n], 0)
            seen[n, :, i] = value[n] @ share
    expected = x + 0.7 * layer.out(seen.view(2, 4, 4, 4))
    torch.testing.assert_close(layer(x), expected)
    assert torch.autograd.gradgradcheck(lambda t: layer(t), x[:1, :, :2, :2].requires_grad_())


def test_projection_adds_the_inner_product_with_the_label() -> None:
    plain = create_model("resnet_discriminator", **SHAPE, spectral=False)
    with_classes = create_model("resnet_discriminator", **SHAPE, spectral=False, num_classes=3)
    with_classes.load_state_dict(plain.state_dict(), strict=False)
    images, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 1])
    hidden: list[Tensor] = []
    plain.output.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    expected = plain(images)
    expected = expected + (with_classes.label.weight[labels] * hidden[0]).sum(1)
    torch.testing.assert_close(with_classes(images, labels), expected)


def test_every_weight_of_the_discriminator_has_spectral_norm_one() -> None:
    model = create_model("resnet_discriminator", **SHAPE, num_classes=3, attention=8)
    with torch.no_grad():
        for _ in range(300):
            model(torch.randn(1, 1, 16, 16), torch.tensor([0]))
    layers = (nn.Conv2d, nn.Linear, nn.Embedding)
    weights = {n: m.weight for n, m in model.named_modules() if isinstance(m, layers)}
    assert {"label", "output", "attention.0.query"} <= weights.keys()
    for name, weight in weights.items():
        norm = torch.linalg.matrix_norm(weight.detach().flatten(1), 2)
        torch.testing.assert_close(norm, torch.ones(()), rtol=0.02, atol=0, msg=name)


def test_classes_change_the_image_and_labels_are_needed() -> None:
    model = create_model("resnet_generator", **SHAPE, num_classes=3)
    with torch.no_grad():
        model.blocks[0].norm1.weight.weight.normal_()
    z = torch.randn(1, 128).expand(2, -1)
    images = model.eval()(z, torch.tensor([0, 1]))
    assert not torch.allclose(images[0], images[1])
    with pytest.raises(ValueError, match=r"labels: a conditional network needs int64 \[2\]"):
        model(z)
    with pytest.raises(ValueError, match="labels must be int64 of shape"):
        model(z, torch.tensor([0.0, 1.0]))


def test_attention_must_be_at_a_map_that_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"attention must be 0 or the height of a .* 8 or 16, got 4"
    ):
        create_model("resnet_generator", **SHAPE, attention=4)
    with pytest.raises(ValueError, match="multiple of 8 channels, got 4"):
        create_model("resnet_discriminator", image_size=16, width=4, attention=8)

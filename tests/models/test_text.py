from __future__ import annotations

import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx
from torch import nn

from fastgan.fusion import export
from fastgan.models import TextDiscriminator, TextGenerator, TextRNN, create_model
from fastgan.nn.recording import recording

SMALL = {"characters": "?ab\n", "length": 6, "width": 5}


def test_the_generator_gives_shares_that_the_discriminator_takes():
    torch.manual_seed(0)
    generator, discriminator = (
        TextGenerator(**SMALL, latent_dim=3, blocks=2),
        TextDiscriminator(**SMALL),
    )
    text = generator(torch.randn(7, 3))
    assert text.shape == (7, *generator.item_shape) == (7, 4, 6)
    torch.testing.assert_close(text.sum(1), torch.ones(7, 6))
    assert discriminator(text).shape == (7,)


def test_the_blocks_run_as_chains():
    with recording() as runs:
        TextDiscriminator(**SMALL, blocks=1)(torch.rand(2, 4, 6))
    convolutions = [run for run in runs if run.block.conv is not None]
    assert [run.block.names for run in convolutions] == [("conv1", "act2"), ("conv2",)]
    assert all(run.form not in ("", "unfused") for run in convolutions)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_character_depends_on_those_before_it_alone(cell):
    torch.manual_seed(0)
    model = TextRNN(**SMALL, layers=2, cell=cell)
    text = nn.functional.one_hot(torch.randint(0, 4, (1, 6)), 4).movedim(-1, 1).float()
    other = text.clone()
    other[..., 3] = text[..., 3].roll(1, 1)
    same = (model.logits(text) == model.logits(other)).all(1)[0]
    assert same.tolist() == [True] * 4 + [False] * 2


def test_drawn_characters_have_the_shares_of_the_model():
    torch.manual_seed(0)
    model = TextRNN(**SMALL).requires_grad_(False)
    model.output.bias.copy_(torch.tensor([0.0, 2.0, 1.0, -1.0]))
    drawn = model(torch.randn(4000, 6))
    assert torch.equal(drawn.sum(1), torch.ones(4000, 6))
    expected = model.logits(drawn).softmax(1)[0, :, 0]
    torch.testing.assert_close(drawn[..., 0].mean(0), expected, atol=0.03, rtol=0)  # 4 deviations
    # All later ones too: by the model's own logits given what was drawn before.
    expected = model.logits(drawn).softmax(1).mean((0, 2))
    torch.testing.assert_close(drawn.mean((0, 2)), expected, atol=0.02, rtol=0)
    model.temperature = 1e-3
    likeliest = model(torch.randn(9, 6))
    assert torch.equal(likeliest, likeliest[:1].expand_as(likeliest))
    assert torch.equal(model.logits(likeliest).argmax(1), likeliest.argmax(1))


@NEEDS_ONNX
@pytest.mark.parametrize("kind", [TextGenerator, TextRNN])
def test_a_sampler_is_exported(kind, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = kind(**SMALL).eval()
    z = torch.randn(3, model.latent_dim)
    path = tmp_path / "model.onnx"
    export(model, (z,), path, "onnx", {})
    assert_onnx(path, model, z)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("text_generator", {"characters": "aa"}, "characters must be different ones"),
        ("text_generator", {"length": 0}, "image_size must be at least 1, got 0"),
        ("text_generator", {"blocks": 0}, "blocks must be at least 1, got 0"),
        ("text_rnn", {"cell": "lstn"}, "cell must be one of 'lstm', 'gru', got 'lstn'"),
    ],
)
def test_what_cannot_be_built(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)


def test_other_shapes_are_told():
    with pytest.raises(ValueError, match=r"z must have shape \[N, 6\] or .*, got \[2, 5\]"):
        TextRNN(**SMALL)(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"text must have shape \[N, 4, 6\], got \[2, 4, 5\]"):
        TextRNN(**SMALL).logits(torch.randn(2, 4, 5))
    with pytest.raises(ValueError, match=r"must have shape \[N, 4, 6\], got \[2, 4, 5\]"):
        TextDiscriminator(**SMALL)(torch.randn(2, 4, 5))

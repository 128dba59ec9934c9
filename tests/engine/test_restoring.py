"""Images of any size: larger without seams, filled in without a change elsewhere, translated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx
from PIL import Image

from fastgan.cli import main
from fastgan.engine import load_generator
from fastgan.engine.log import SilentReporter
from fastgan.engine.restoring import inpaint, read_image, translate, upscale, write_image
from fastgan.models import create_model
from fastgan.models.restoration import around_hole
from fastgan.recipes import ModelSpec, get_recipe, train
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(12):
        blocks = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(blocks).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory):
    """Runs of a step or two, of tiny networks."""
    tiny = {"super-resolution": {"blocks": 1}, "inpainting": {"depth": 2}, "pix2pix": {"depth": 2}}
    folder = tmp_path_factory.mktemp("runs")
    for name, smaller in tiny.items():
        recipe = get_recipe(name)
        arguments = {**recipe.generator.arguments, **smaller, "width": 8}
        recipe = replace(recipe, generator=ModelSpec(recipe.generator.name, arguments))
        train(
            recipe, out=folder / name, steps=2, batch_size=4, device="cpu", data=str(photos),
            image_size="32", held_out=0.34, sample_count=4, reporter=SilentReporter(),
        )  # fmt: skip
    return folder


def moved(name: str, **arguments: object) -> torch.nn.Module:
    """A generator with weights that are not those of the start."""
    torch.manual_seed(0)
    model = create_model(name, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_leave_no_seams(norm, scale):
    model = moved("srresnet", width=8, blocks=2, scale=scale, norm=norm)
    image = torch.rand(1, 3, 45, 37) * 2 - 1
    whole = model(image).detach()
    tiled = upscale(model, image, tile=16)
    assert tiled.shape == (1, 3, 45 * scale, 37 * scale)
    assert (tiled - whole).abs().max() < 1e-4
    model.reach -= 1  # what it needs, and no more
    assert (upscale(model, image, tile=16) - whole).abs().max() > 1e-7


def test_an_untrained_network_nearly_interpolates():
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    bicubic = torch.nn.functional.interpolate(image, scale_factor=4.0, mode="bicubic")
    made = create_model("srresnet", width=8, blocks=2).eval()(image)
    assert (made - bicubic.clamp(-1, 1)).abs().mean() < 0.2


def test_outside_of_the_mask_nothing_changes(tmp_path):
    model = moved("inpainter", width=8, depth=2)
    pixels = torch.randint(0, 256, (1, 3, 21, 30), dtype=torch.uint8)
    mask = torch.zeros(1, 1, 21, 30)
    mask[..., 5:11, 8:20] = 1
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png", 3)
    filled = inpaint(model, image, mask)
    known = mask.expand_as(filled) == 0
    assert torch.equal(filled[known], image[known])
    assert (filled != image).sum() > 0.9 * 3 * 6 * 12
    again = np.array(Image.open(write_image(filled, tmp_path / "filled.png")))
    again = torch.from_numpy(again).permute(2, 0, 1)[None]
    assert torch.equal(again[known], pixels[known])


def test_the_local_discriminator_looks_around_the_hole():
    images = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 3, 16, 16)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 0:4, 9:13] = 1
    window, hole = around_hole(images, mask)
    assert window.shape == (1, 3, 8, 8)
    assert window[0, 0, 0].tolist() == list(range(7, 15))
    assert hole.sum() == 16
    assert hole[0, 0, :4, 2:6].eq(1).all()  # rows from the top edge on


def test_sides_that_the_network_does_not_divide_are_extended():
    model = moved("unet", width=8, depth=3)
    condition = torch.rand(2, 1, 13, 22)
    made = translate(model, condition)
    assert made.shape == (2, 3, 13, 22)
    whole = condition[..., :8, :16]
    # Without gradients layers may run in another form: as near as tiles are to the whole.
    assert (translate(model, whole) - model(whole)).abs().max() < 1e-4


def test_other_generators_and_sizes_are_refused():
    image, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    unet, srresnet = moved("unet", width=8, depth=2), moved("srresnet", width=8, blocks=1)
    with pytest.raises(ValueError, match="of a super-resolution run, got UNet"):
        upscale(unet, image)
    with pytest.raises(ValueError, match="of an inpainting run, got SRResNet"):
        inpaint(srresnet, image, mask)
    with pytest.raises(ValueError, match="takes images, such as a pix2pix run's, got Linear"):
        translate(torch.nn.Linear(2, 2), image)
    with pytest.raises(ValueError, match="mask must be of the image's size, 16x16, got 16x8"):
        inpaint(moved("inpainter", width=8, depth=2), image, mask[..., :8, :])
    with pytest.raises(ValueError, match="scale must be 2, 4 or 8, got 3"):
        create_model("srresnet", scale=3)
    with pytest.raises(ValueError, match="tile must be at least 1"):
        upscale(srresnet, image, tile=0)


def test_the_commands(runs, photos, tmp_path, capsys):
    image, mask = photos / "00.png", tmp_path / "mask.png"
    Image.new("L", (32, 32), 255).save(mask)
    out = tmp_path / "out.png"
    for arguments, size in (
        (["upscale", runs / "super-resolution", image, "--tile", "20"], (128, 128)),
        (["inpaint", runs / "inpainting", image, mask], (32, 32)),
        (["translate", runs / "pix2pix", image], (32, 32)),
        (["translate", runs / "pix2pix", image, "--of-photo"], (32, 32)),
    ):
        assert main([*map(str, arguments), "-o", str(out), "--force", "--device", "cpu"]) == 0
        assert Image.open(out).size == size
    capsys.readouterr()
    Image.new("L", (8, 8)).save(mask)
    assert main(["inpaint", str(runs / "inpainting"), str(image), str(mask)]) == 2
    assert "mask must be of the image's size, 32x32, got 8x8" in capsys.readouterr().err
    for command in (["sample"], ["picture", "interpolation"]):
        assert main([*command, str(runs / "pix2pix")]) == 2
        assert "UNet draws nothing by itself" in capsys.readouterr().err
    assert main(["upscale", str(runs / "pix2pix"), str(image)]) == 2
    assert "super-resolution run, got UNet" in capsys.readouterr().err
    assert main(["upscale", str(runs / "super-resolution"), str(tmp_path / "no.png")]) == 2
    assert "no.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("super-resolution", {"bicubic", "nearest"}),
        ("inpainting", {"mean_fill"}),
        ("pix2pix", {"mean_colour"}),
    ],
)
def test_scores_stand_beside_those_of_ways_without_training(runs, name, ways):
    chosen = Evaluation(metrics=("psnr", "ssim"), split="test")
    scores = {s.metric: s for s in evaluate_checkpoint(runs / name, chosen)}
    assert {f"psnr_{way}" for way in ways} | {f"psnr_y_{way}" for way in ways} <= scores.keys()
    assert scores["psnr"].setting["reals"] == 4
    if name == "super-resolution":
        assert scores["psnr_y"].setting["border"] == 4
        # Blocks of one colour: nearest keeps them sharp, bicubic does not.
        assert scores["sharpness_nearest"].value > scores["sharpness_bicubic"].value
    if name == "inpainting":
        assert scores["psnr"].setting["inside"] == "hole"
    with pytest.raises(ValueError, match="fid is of samples or codes"):
        evaluate_checkpoint(runs / name, Evaluation(metrics=("fid",)))


@NEEDS_ONNX
def test_the_inference_network_runs_as_onnx(runs, tmp_path):
    path = tmp_path / "generator.onnx"
    assert main(["export", str(runs / "super-resolution"), "-o", str(path)]) == 0
    images = torch.rand(3, 3, 8, 8) * 2 - 1  # a batch of another size than the example's
    assert_onnx(path, load_generator(runs / "super-resolution"), images)

"""Networks of timm, torchvision and ONNX files as feature networks, with random weights."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx
import pytest
import stub_torchvision
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from fastgan.cli import main
from fastgan.data import ImageDataset
from fastgan.metrics import FeatureNetwork, difference, evaluate, get_network, save_scores
from fastgan.metrics.libraries import read_weights

from .test_evaluate import SMALL

pytestmark = pytest.mark.usefixtures("own_statistics")

# Where `make setup` puts timm, beside the environment's packages.
BESIDE = Path(sys.prefix) / "torch-fidelity"
IMAGENET = {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"}


def grey(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def standardized(images: Tensor, size: int, mode: str) -> Tensor:
    """Grey images as ImageNet's networks want them, written out."""
    images = images.expand(-1, 3, -1, -1)
    images = F.interpolate(images, (size, size), mode=mode, antialias=True).clamp(-1, 1)
    mean, std = (
        torch.tensor([float(v) for v in IMAGENET[k].split()]).view(3, 1, 1) for k in ("mean", "std")
    )
    return ((images + 1) / 2 - mean) / std


@pytest.fixture(scope="module")
def timm() -> Iterator[ModuleType]:
    """timm, with a stand-in for the names that it imports of a torchvision that is not there."""
    stubs = {} if stub_torchvision.imports_itself() else stub_torchvision.modules()
    sys.modules.update(stubs)
    sys.path.append(str(BESIDE))
    try:
        found = pytest.importorskip("timm", reason="needs timm: pip install 'fastgan[features]'")
    finally:
        sys.path.remove(str(BESIDE))
        for name in stubs:  # no other package shall take it for a torchvision
            del sys.modules[name]
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        del sys.modules[name]


def test_a_model_of_timm_with_its_own_preprocessing(timm, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False).eval()
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    network = get_network("timm:resnet10t", file)
    assert (network.name, network.channels, network.classes) == ("timm:resnet10t", 3, True)
    assert (network.resize, network.facts) == ("176x176 bicubic antialiased", IMAGENET)
    features, logits = network(grey(2))
    with torch.no_grad():
        seen = standardized(grey(2), 176, "bicubic")
        maps = model.forward_features(seen)
        assert torch.equal(features, maps.mean((2, 3)))
        torch.testing.assert_close(logits, model(seen))
    assert get_network(f"timm:resnet10t@{network.digest[:12]}", file).digest == network.digest
    with pytest.raises(ValueError, match=f"begins with {network.digest[:12]}, expected 012345678"):
        get_network("timm:resnet10t@012345678", file)
    with pytest.raises(ValueError, match=r"weights.safetensors is of another model than timm:vit"):
        get_network("timm:vit_tiny_patch16_224", file)
    with pytest.raises(ValueError, match=r"there is no model 'resnet10' .*did you mean 'resnet10t"):
        get_network("timm:resnet10")


def test_weights_that_cannot_be_had_are_told(timm, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no route")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(OSError, match=r"of timm:resnet10t are not here .*no route.*--feature-weig"):
        get_network("timm:resnet10t")


def test_a_model_without_classes(timm, tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    timm_create = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda n, **k: timm_create(n, num_classes=0, **k))
        network = get_network("timm:vit_tiny_patch16_224", tmp_path / "weights.safetensors")
    assert network(grey(1)).logits is None
    with pytest.raises(ValueError, match="is needs a network with classes"):
        evaluate([grey(4)], None, network, ("is",))


class Small(nn.Module):
    """As torchvision's: logits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).mean((2, 3)))


@pytest.fixture
def torchvision(monkeypatch) -> type[Enum]:
    """A stand-in with two models and the weights of one, by the names of torchvision's own."""
    preset = SimpleNamespace(
        crop_size=[12], mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        interpolation=SimpleNamespace(value="bilinear"),
    )  # fmt: skip

    class Weights(Enum):
        V1 = "1"
        V2 = "2"

        def transforms(self) -> SimpleNamespace:
            return preset

    Weights.DEFAULT = Weights.V2

    def get_model(name: str, weights: Weights | None) -> nn.Module:
        torch.manual_seed(0 if weights is None else int(weights.value))
        return Small() if name == "small" else nn.Sequential(nn.Conv2d(3, 2, 1))

    models = ModuleType("torchvision.models")
    models.get_model, models.get_model_weights = get_model, lambda name: Weights
    models.list_models = lambda module: ["small", "convolutions"]
    package = ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return Weights


def test_a_model_of_torchvision_gives_what_its_last_layer_is_given(torchvision, tmp_path):
    network = get_network("torchvision:small")
    assert (network.name, network.facts) == ("torchvision:small", IMAGENET)
    assert network.resize == "12x12 bilinear antialiased"
    torch.manual_seed(2)  # of its default weights
    model, seen = Small(), standardized(grey(3), 12, "bilinear")
    features, logits = network(grey(3))
    assert torch.equal(features, model.conv(seen).mean((2, 3)))
    assert torch.equal(logits, model(seen))
    assert get_network("torchvision:small.V1").digest != network.digest
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    assert get_network("torchvision:small", tmp_path / "weights.pth").digest == network.digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", r"there is no model 'smal' in torchvision \(did you mean 'small'\?\)"),
        ("small.V3", "torchvision's small has no weights 'V3': there are V1, V2"),
        ("convolutions", "torchvision:convolutions has no dense layer"),
    ],
)
def test_what_torchvision_has_not_is_told(torchvision, name, message):
    with pytest.raises(ValueError, match=message):
        get_network(f"torchvision:{name}")


def test_torchvisions_own_resnet(tmp_path):
    if not stub_torchvision.imports_itself():
        pytest.skip("needs a torchvision that was built for this torch")
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "weights.pth")
    network = get_network("torchvision:resnet18", tmp_path / "weights.pth")
    assert (network.resize, network.facts) == ("224x224 bilinear antialiased", IMAGENET)
    assert network(grey(1)).features.shape == (1, 512)


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:resnet18", "onnx:a.onnx"])
def test_packages_that_are_missing_are_named_with_their_extra(monkeypatch, name):
    for module in ("timm", "torchvision", "torchvision.models", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"needs .*: pip install 'fastgan\[features\]'"):
        get_network(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not these", "cannot be read as"),
        ([torch.zeros(2)], "must hold tensors by their names"),
        ({"epoch": 3}, "must hold tensors by their names"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_other_content_are_refused(tmp_path, content, message, suffix):
    file = tmp_path / f"weights{suffix}"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=message if suffix == ".pth" else "cannot be read as"):
        read_weights(file)
    with pytest.raises(FileNotFoundError, match="weights: there is no file"):
        read_weights(tmp_path / "none.pth")


def write_onnx(
    path: Path,
    weight: Tensor,
    batch: int | str = "n",
    size: int | str = 8,
    kind: int = TensorProto.FLOAT,
    beside: bool = False,
    **metadata: object,
) -> Path:
    """A file whose output "features" are means of pixels, times `weight` [C, D], [N, D, 1, 1]; its
    other output has the means alone. With `beside` the weight lies in a file of its own."""
    channels, width = weight.shape
    tensor = numpy_helper.from_array(weight.t().contiguous().view(width, channels, 1, 1).numpy())
    tensor.name = "weight"
    if beside:
        (path.parent / "weight.bin").write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, "weight.bin")
        tensor.ClearField("raw_data")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("GlobalAveragePool", ["floats"], ["means"]),
            helper.make_node("Conv", ["means", "weight"], ["features"]),
        ],
        "pooled",
        [helper.make_tensor_value_info("images", kind, [batch, channels, size, size])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, width, 1, 1]),
            helper.make_tensor_value_info("means", TensorProto.FLOAT, [batch, channels, 1, 1]),
        ],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    path.write_bytes(model.SerializeToString())
    return path


WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]])


def means(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1).mean((2, 3))


def test_an_onnx_file_is_a_network(tmp_path):
    file = write_onnx(tmp_path / "net.onnx", WEIGHT)
    network = get_network(f"onnx:{file}#features")
    assert (network.name, network.facts) == ("onnx:net.onnx", {"output": "features"})
    assert (network.image_size, network.channels, network.classes) == (8, 3, False)
    assert network.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    torch.testing.assert_close(network(grey(5)).features, means(grey(5)) @ WEIGHT)
    torch.testing.assert_close(get_network(f"onnx:{file}#means")(grey(5)).features, means(grey(5)))
    assert get_network(f"onnx:{file}#features@{network.digest[:8]}").digest == network.digest
    with pytest.raises(ValueError, match=r"begins with .*, expected 00000000"):
        get_network(f"onnx:{file}#features@00000000")


def test_a_file_of_a_fixed_batch_a_size_of_ones_own_and_bytes(tmp_path):
    fixed = write_onnx(tmp_path / "fixed.onnx", WEIGHT, batch=2)
    torch.testing.assert_close(
        get_network(f"onnx:{fixed}#features")(grey(5)).features, means(grey(5)) @ WEIGHT
    )
    loose = get_network(f"onnx:{write_onnx(tmp_path / 'a.onnx', WEIGHT, size='side')}#means")
    assert (loose.image_size, loose.resize) == (0, "none")
    levels = write_onnx(tmp_path / "bytes.onnx", WEIGHT, kind=TensorProto.UINT8)
    expected = means(((grey(3) + 1) * 127.5).round())
    torch.testing.assert_close(get_network(f"onnx:{levels}#means")(grey(3)).features, expected)


def test_preprocessing_is_the_files_own(tmp_path):
    own = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bicubic"}
    file = write_onnx(tmp_path / "net.onnx", WEIGHT, size=16, **own)
    network = get_network(f"onnx:{file}#means")
    assert network.resize == "16x16 bicubic antialiased"
    assert network.facts == IMAGENET | {"output": "means"}
    expected = standardized(grey(4), 16, "bicubic").mean((2, 3))
    torch.testing.assert_close(network(grey(4)).features, expected)


def test_the_digest_covers_the_tensors_beside(tmp_path):
    file = write_onnx(tmp_path / "net.onnx", WEIGHT, beside=True)
    network = get_network(f"onnx:{file}#features")
    torch.testing.assert_close(network(grey(5)).features, means(grey(5)) @ WEIGHT)
    (tmp_path / "weight.bin").write_bytes((2 * WEIGHT).t().contiguous().numpy().tobytes())
    assert get_network(f"onnx:{file}#features").digest != network.digest


@pytest.mark.parametrize(
    ("settings", "output", "message"),
    [
        ({}, "", r"net.onnx must be given with one of its outputs, .*#features, .*#means"),
        ({}, "#other", r"one of its outputs, .*#features, .*#means; got .*#other"),
        ({"mean": [0.5]}, "#means", r"mean in the metadata of .* must be 3 numbers.*got \[0.5\]"),
        ({"mean": [0, 0, 0], "std": [1, 0, 1]}, "#means", "std in the metadata .* above 0"),
        ({"std": [1, 1, 1]}, "#means", "mean in the metadata of .* must be 3 numbers.*got None"),
        (
            {"mean": [0, 0, 0], "std": [1, 1, 1], "kind": TensorProto.UINT8},
            "#means",
            "takes uint8 as it is: mean and std are of floats",
        ),
        ({"interpolation": "lanczos"}, "#means", "must be bilinear or bicubic, got 'lanczos'"),
        ({"kind": TensorProto.INT32}, "#means", "must take images .N, C, H, W. alone, float or"),
    ],
)
def test_files_that_do_not_fit_are_told(tmp_path, settings, output, message):
    file = write_onnx(tmp_path / "net.onnx", WEIGHT, **settings)
    with pytest.raises(ValueError, match=message):
        get_network(f"onnx:{file}{output}")


def test_no_file_and_no_onnx(tmp_path):
    with pytest.raises(FileNotFoundError, match="features: there is no file"):
        get_network(f"onnx:{tmp_path}/none.onnx")
    (tmp_path / "net.onnx").write_bytes(b"not these")
    with pytest.raises(ValueError, match=r"net\.onnx is no ONNX model that runs"):
        get_network(f"onnx:{tmp_path}/net.onnx")
    with pytest.raises(ValueError, match=r"weights: onnx:net\.onnx has its own"):
        get_network("onnx:net.onnx", tmp_path)


def scores_in(network: FeatureNetwork) -> list:
    images = ((grey(30, seed=9) + 1) * 127.5).round().byte()
    return evaluate([grey(20)], ImageDataset(images, name="x"), network, ("fid", "kid"), SMALL)


def test_numbers_of_unlike_features_are_never_compared(tmp_path, capsys):
    """Not of other weights, another output, or another preprocessing; by name and by hash."""
    first = write_onnx(tmp_path / "net.onnx", WEIGHT)
    (tmp_path / "other").mkdir()
    changed = write_onnx(tmp_path / "other" / "net.onnx", WEIGHT * 1.5)
    base = scores_in(get_network(f"onnx:{first}#features"))
    for other, what in (
        (get_network(f"onnx:{changed}#features"), "features_sha256"),
        (get_network(f"onnx:{first}#means"), "output: features, means"),
    ):
        for score, reference in zip(base, scores_in(other), strict=True):
            with pytest.raises(ValueError, match=f"cannot be compared; they differ in .*{what}"):
                difference(score, reference)
    again = scores_in(get_network(f"onnx:{first}#features"))
    assert difference(again[0], base[0]) == 0
    runs = [tmp_path / name for name in ("one", "two")]
    for run, scores in zip(
        runs, (base, scores_in(get_network(f"onnx:{first}#means"))), strict=True
    ):
        run.mkdir()
        (run / "run.json").write_text(json.dumps({"config": {}, "finished": True}))
        save_scores(scores, run / "scores.json")
        line = {"step": 1, "scores": json.loads((run / "scores.json").read_text())}
        (run / "scores.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["compare", *map(str, runs)]) == 2
    assert "they differ in output: means, features" in capsys.readouterr().err


def test_statistics_of_one_preprocessing_are_not_taken_for_anothers(tmp_path):
    """Two networks of one digest, as of one file with two outputs."""
    made = [
        FeatureNetwork("a", nn.Flatten(), 1, 8, False, facts={"mean": mean}, digest="same")
        for mean in ("0.5", "0.4")
    ]
    made[1].module.forward = lambda images: images.flatten(1) * 2
    first, second = (scores_in(network)[0].value for network in made)
    # Both sets twice as far from zero: four times the distance, unless the reals are the others'.
    assert second == pytest.approx(4 * first, rel=1e-6)

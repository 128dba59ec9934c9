"""Steps as CUDA graphs: the same steps, without the host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from devices import GPU
from fake_cuda import FakeCuda
from torch import Tensor, nn

from fastgan.augment import ADA, Chain, InstanceNoise
from fastgan.engine import CaptureError, TrainConfig, Trainer, find_checkpoint, gan_step
from fastgan.engine.capture import StepRunner
from fastgan.engine.device import take_device
from fastgan.engine.health import Health
from fastgan.engine.validate import capture_of
from fastgan.engine.watching import Watch
from fastgan.nn import BatchNormAct2d, norm_act
from fastgan.ops import convolution_form

from .conftest import all_tensors, tiny_trainer

ROOT = Path(__file__).resolve().parents[2]


def test_capture_needs_a_cuda_device():
    with pytest.raises(CaptureError, match="CUDA graphs need a CUDA device, got cpu"):
        tiny_trainer(capture="on", device="cpu")
    assert not StepRunner(lambda *_: {}, torch.device("cpu"), "auto").captures


def test_without_capture_the_function_runs_at_every_step_and_the_newest_values_stay():
    calls = []

    def step(inputs, variant) -> dict[str, Tensor]:
        calls.append(variant)
        (value,) = inputs[0]
        return {"twice": 2 * value} | ({"often": value} if variant else {})

    run = StepRunner(step, torch.device("cpu"))
    for i, variant in enumerate([True, False, False]):
        run([(torch.tensor(float(i)),)], variant)
    assert calls == [True, False, False]
    assert {k: float(v) for k, v in run.latest.items()} == {"twice": 4.0, "often": 0.0}


def doubled(inputs, variant) -> dict[str, Tensor]:
    return {"twice": 2 * inputs[0][0]}


def test_everything_runs_on_the_streams_of_the_device_that_was_asked_for(monkeypatch):
    gpu = FakeCuda(monkeypatch)
    run = StepRunner(doubled, torch.device("cuda", 1))
    for _ in range(StepRunner.WARM_UP + 2):
        run([(torch.ones(()),)], "variant")
    assert {(a.device, b.device) for a, b in gpu.waits} == {(1, 1)}
    # Before each warm-up the side stream waits, after it is waited for.
    assert [gpu.default[1] in wait for wait in gpu.waits] == [True] * 2 * StepRunner.WARM_UP
    assert gpu.replays == [gpu.default[1]] * 2
    assert gpu.index == 0
    assert gpu.streams == gpu.default


@pytest.mark.parametrize(
    ("cause", "raised", "message"),
    [
        (RuntimeError("not permitted: float()\nmore"), CaptureError, r"graph \(not permitted: flo"),
        (ValueError("labels do not fit"), ValueError, "labels do not fit"),
        (KeyboardInterrupt("^C"), KeyboardInterrupt, r"\^C"),
        (None, CaptureError, r"\(operation failed due to a previous error during capture\)"),
    ],
)
def test_a_capture_that_fails_tells_its_cause_and_gives_the_stream_back(
    monkeypatch, cause, raised, message
):
    gpu = FakeCuda(monkeypatch)
    gpu.end_fails = RuntimeError("operation failed due to a previous error during capture")

    def fails(inputs, variant) -> dict[str, Tensor]:
        if cause is not None and len(gpu.graphs):
            raise cause
        return {}

    run = StepRunner(fails, torch.device("cuda", 1))
    for _ in range(StepRunner.WARM_UP):
        run([], "variant")
    with pytest.raises(raised, match=message) as found:
        run([], "variant")
    if raised is CaptureError:
        assert found.value.__cause__ is (cause or gpu.end_fails)
    assert (gpu.index, gpu.streams) == (0, gpu.default)
    assert [graph.resets for graph in gpu.graphs] == [1]
    assert not run._graphs


CHANGES = {
    "weight of a penalty": lambda t: setattr(t.gan.penalties[0], "weight", 3.0),
    "option of a penalty": lambda t: t.gan.penalties[0].options.update(noise=0.25),
    "class weight": lambda t: setattr(t.gan, "class_weight", 0.5),
    "weights of classes": lambda t: setattr(t.gan, "class_weights", (1.0, 2.0)),
    "clipping": lambda t: setattr(t.gan.update_d, "clip", 1.0),
    "Adam": lambda t: t.optimizer_g.param_groups[0].update(betas=(0.0, 0.9)),
    "augmentation": lambda t: setattr(t.gan.augment.augmentations[1], "interval", 2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_value_that_a_callback_changes_is_recorded_anew(monkeypatch, change):
    """A graph would keep the number that it was recorded with."""
    parts = {"augment": Chain(InstanceNoise(), ADA()), "step": counting_step}
    trainer = tiny_trainer(regularizer="dragan", parts=parts)
    gpu = FakeCuda(monkeypatch)
    trainer._runner = StepRunner(
        trainer._run_step, torch.device("cuda", 0), settings=trainer._host_values
    )
    for _ in range(StepRunner.WARM_UP + 3):
        trainer.train_step()
    assert [graph.resets for graph in gpu.graphs] == [0]
    assert len(gpu.replays) == 3
    change(trainer)
    for _ in range(StepRunner.WARM_UP + 3):
        trainer.train_step()
    assert [graph.resets for graph in gpu.graphs] == [1, 0]
    assert len(gpu.replays) == 6


def counting_step(gan, batches, due):
    """Counts its own calls in a plain attribute, as of no consequence."""
    counting_step.calls = getattr(counting_step, "calls", 0) + 1
    return gan_step(gan, batches, due)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_a_cumulative_average_is_not_captured(kind, monkeypatch):
    """Its weight is one over a count, which the host reads."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), kind(4, momentum=None))
    assert capture_of(TrainConfig(), nn.Module(), network)[0] == "off"
    with pytest.raises(CaptureError, match=r"capture is on, but Sequential's 1 has momentum=None"):
        capture_of(TrainConfig(capture="on"), network)
    network[1].track_running_stats = False
    assert capture_of(TrainConfig(), network) == ("auto", "")


def test_a_cumulative_average_in_a_graph_of_the_user_says_so(monkeypatch):
    monkeypatch.setattr(norm_act, "is_captured", lambda _: True)
    with pytest.raises(RuntimeError, match="BatchNormAct2d: momentum is None"):
        BatchNormAct2d(4, momentum=None)(torch.randn(2, 4, 3, 3))


def test_a_device_that_is_taken_is_the_current_one(monkeypatch):
    gpu = FakeCuda(monkeypatch)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert take_device("cuda:1") == torch.device("cuda", 1)
    assert gpu.index == 1
    # As in a process group of the user's own, where each process has chosen its device.
    assert take_device("cuda") == torch.device("cuda", 1)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """cuDNN's algorithms must not depend on the moment, so that two runs can be compared."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def cuda_trainer(capture: str, **settings) -> Trainer:
    made = tiny_trainer(device="cuda", capture=capture, **settings)
    torch.manual_seed(1)  # of dropout, on every device
    return made


SETTINGS = {
    "plain": {},
    "lazy R1, critic steps": {"regularizer": "r1", "reg_every": 3, "discriminator_steps": 2},
    "schedule, clipping, flips": {"lr_schedule": "cosine", "warmup_steps": 4, "clip_grad": 0.5}
    | {"flip": True},
    "bfloat16, joint batch": {"precision": "bfloat16", "joint_batch": True, "dropout": 0.0},
    "float16": {"precision": "float16"},
    "ADA, LeCam": {"augment": "ada", "regularizer": "lecam"},
    "one stage": {"update_rule": "one_stage", "norm": "none"},
    "in parts": {"accumulate": 2},
}


def assert_same_run(captured: Trainer, eager: Trainer, steps: int) -> None:
    """After so many steps of each, from one seed."""
    for trainer in (eager, captured):
        torch.manual_seed(1)
        for _ in range(steps):
            trainer.train_step()
    assert captured._runner._graphs
    for name, value in all_tensors(eager).items():
        torch.testing.assert_close(all_tensors(captured)[name], value, msg=name)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
class TestOnGpu:
    pytestmark = GPU

    def test_captured_steps_equal_eager_ones(self, settings, deterministic):
        captured, eager = (cuda_trainer(capture, steps=20, **settings) for capture in ("on", "off"))
        assert_same_run(captured, eager, 20)
        for name, value in eager.latest.items():
            torch.testing.assert_close(captured.latest[name], value, msg=name)

    def test_nothing_waits_for_the_device_between_log_points(self, settings):
        trainer = cuda_trainer("on", steps=100, **settings)
        for _ in range(24):
            trainer.train_step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(12):  # past the end of an epoch: 40 images, 8 a batch
                trainer.train_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(value.isfinite() for value in trainer.latest.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
class TestPackedWeightsOnGpu:
    pytestmark = GPU

    def test_captured_steps_equal_eager_ones_that_keep_no_packed_weight(self, precision):
        captured, eager = (
            cuda_trainer(capture, steps=12, precision=precision, accumulate=2)
            for capture in ("on", "off")
        )
        eager.step_function = gan_step.__wrapped__
        with convolution_form("fused"):
            assert_same_run(captured, eager, 12)


class TestCheckpointsOnGpu:
    pytestmark = GPU

    def test_a_penalty_whose_weight_changes_counts_with_the_new_one(self, deterministic):
        captured, eager = (cuda_trainer(c, steps=12, regularizer="r1") for c in ("on", "off"))
        for trainer in (captured, eager):
            torch.manual_seed(1)
            for _ in range(6):
                trainer.train_step()
            trainer.gan.penalties[0].weight = 1000.0
        assert_same_run(captured, eager, 6)

    def test_a_look_between_captured_steps_changes_nothing(self, deterministic):
        looked, alone = (cuda_trainer("on", steps=12, watch_every=1) for _ in range(2))
        watch = Watch(looked, Health(looked))
        for trainer in (alone, looked):
            torch.manual_seed(1)
            for step in range(12):
                trainer.train_step()
                if trainer is looked:
                    graphs = [*looked._runner._graphs.values()]
                    watch.look()
                    assert [*looked._runner._graphs.values()] == graphs, step
        assert looked._runner._graphs
        for name, value in all_tensors(alone).items():
            assert torch.equal(all_tensors(looked)[name], value), name

    @pytest.mark.parametrize("exact", [True, False])
    def test_a_captured_run_resumes(self, tmp_path, recorder, exact):
        settings = {"deterministic": exact, "checkpoint_every": 8}
        whole = cuda_trainer("on", steps=16, **settings)
        whole.fit(tmp_path / "whole", reporter=recorder)
        cuda_trainer("on", steps=8, **settings).fit(tmp_path / "parts", reporter=recorder)
        again = cuda_trainer("on", steps=16, **settings)
        again.fit(tmp_path / "parts", resume=True, reporter=recorder)
        tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {}
        for name, value in all_tensors(whole).items():
            torch.testing.assert_close(all_tensors(again)[name], value, msg=name, **tolerance)

    def test_going_back_in_a_captured_run_records_anew(self, tmp_path, recorder, deterministic):
        trainer = cuda_trainer("on", steps=8)
        trainer.fit(tmp_path / "run", reporter=recorder)
        saved = find_checkpoint(tmp_path / "run")
        states = []
        for _ in range(2):
            trainer.load(saved)
            for _ in range(6):
                trainer.train_step()
            states.append({k: v.clone() for k, v in all_tensors(trainer).items()})
        for name, value in states[0].items():
            torch.testing.assert_close(states[1][name], value, msg=name)

    def test_a_step_that_cannot_be_captured_says_what_to_do(self):
        # In a process of its own: with torch 2.11 a capture that fails can leave the default
        # generator of the process unusable.
        command = [sys.executable, "-c", f"from {__name__} import fail_a_capture as f; f()"]
        path = os.pathsep.join(filter(None, [str(ROOT), *sys.path]))
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def fail_a_capture() -> None:
    def reads_a_value(gan, batches, due):
        metrics = gan_step(gan, batches, due)
        float(metrics["loss_d"])
        return metrics

    trainer = cuda_trainer("on", parts={"step": reads_a_value})
    for _ in range(StepRunner.WARM_UP):
        trainer.train_step()
    current = torch.cuda.current_stream()
    with pytest.raises(CaptureError, match=r"cannot be captured .* capture=off runs it") as found:
        trainer.train_step()
    assert "capturing" in str(found.value.__cause__)
    assert torch.cuda.current_stream() == current

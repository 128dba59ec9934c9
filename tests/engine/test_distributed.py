"""Two gloo processes against one, and a worker that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tolerance import assert_as_exact, within

from fastgan import engine
from fastgan.data import ImageDataset
from fastgan.engine import find_checkpoint
from fastgan.engine.distributed import DistributedGroup
from fastgan.models import create_model

from .conftest import tiny_trainer
from .distributed_worker import CASES, KINDS, RUN

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, free_port: str) -> Path:
    """What two processes made, and what one made."""
    folder = tmp_path_factory.mktemp("processes")
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    settings = [{}, *({**together, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2))]
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, folder],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for variables in settings
    ]
    try:
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [w.returncode for w in workers] == [0, 0, 0], "\n".join(outputs)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return {name: torch.load(folder / f"result{name}.pt") for name in ("", "0", "1")}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_step_of_one(results, case):
    """The same batch, the same noise, and gradients within the tolerance rule; penalties on."""
    alone, first, second = (results[name]["steps"] for name in ("", "0", "1"))
    exact, eager = alone[case, torch.float64], alone[case, torch.float32]
    for name, own in first[case, torch.float32].items():
        assert torch.equal(own, second[case, torch.float32][name]), name
        size = 0.25 if name == "d.output.bias" else 0.0  # a sum of ±½ / 8 that nearly cancels
        assert_as_exact(name, own, eager[name], exact[name], size=size)
    # In float64 nothing hides behind rounding: a wrong scale or a missing part would show.
    for name, own in first[case, torch.float64].items():
        torch.testing.assert_close(own, exact[name], **within(torch.float64, 1e5, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_travel_as_they_come_are_those_of_one_all_reduce(results, kind):
    """Bit for bit, of all kinds of steps; and they do travel before the last pass ends."""
    for rank in "01":
        as_they_come, at_once = results[rank]["kinds"][kind]
        for part in ("gradients", "weights"):
            for name, expected in at_once[part].items():
                got = as_they_come[part][name]
                assert got is expected is None or torch.equal(got, expected), name
        assert at_once["gradients"]["d.unused"] is None
        assert not any(sum(sent) for sent in at_once["sent"].values())
        assert all(max(sent) >= 2 for sent in as_they_come["sent"].values()), as_they_come["sent"]


def test_gradients_travel_within_the_last_backward_pass(results):
    """Once the parameters that have any are known; in the end all are the mean over the ranks."""
    alone, first, second = (results[name]["changing"] for name in ("", "0", "1"))
    # Of six, in their order: the last layer's, the first to go, has no gradient in the fourth; then
    # those of the others are known.
    assert [sent for sent, _ in first] == [0, 6, 6, 0, 4]
    for (_, own), (_, other), (_, mean) in zip(first, second, alone, strict=True):
        for a, b, expected in zip(own, other, mean, strict=True):
            assert (a is None) == (b is None) == (expected is None)
            if expected is not None:
                assert torch.equal(a, b)
                torch.testing.assert_close(a, expected)


@pytest.mark.parametrize(("joint", "exchanges"), [(False, 26), (True, 20)])
def test_a_joint_batch_exchanges_statistics_once_for_both(joint, exchanges, monkeypatch):
    """Of a step of DCGAN-64, in a group whose other process is not there."""
    pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    found = []
    for run, sent in ((dist.all_gather, 1), (dist.all_reduce, 0)):

        def counted(*given, run=run, sent=sent, **more):
            found.append(given[sent])
            return run(*given, **more)

        monkeypatch.setattr(dist, run.__name__, counted)
    dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=2)
    try:
        shape = {"image_size": 64, "channels": 1, "width": 4}
        made = engine.Trainer(
            create_model("dcgan_generator", latent_dim=6, **shape),
            create_model("dcgan_discriminator", **shape),
            ImageDataset(images=torch.zeros(8, 1, 64, 64, dtype=torch.uint8)),
            engine.TrainConfig(batch_size=4, sync_batchnorm=True, joint_batch=joint, device="cpu"),
        )
        found.clear()
        made.train_step()
    finally:
        dist.destroy_process_group()
    statistics = [tensor for tensor in found if tensor.dtype is torch.float64]
    assert len(statistics) == exchanges


def test_a_run_of_two_processes_resumes_exactly_with_random_numbers_of_their_own(results):
    first, second = results["0"]["run"], results["1"]["run"]
    for rank in (first, second):
        different = [
            k for k in rank["whole"] if not torch.equal(rank["whole"][k], rank["parts"][k])
        ]
        assert not different
    assert all(torch.equal(v, second["whole"][k]) for k, v in first["whole"].items())
    assert not torch.equal(first["torch"], second["torch"])


def test_a_signal_to_one_process_stops_both_after_the_same_step(results):
    assert results["0"]["stopped"] == results["1"]["stopped"] == (3, signal.SIGTERM)


def test_data_that_one_process_cannot_read_loses_nothing(results):
    first, second = results["0"]["unreadable"], results["1"]["unreadable"]
    assert first["saved"] == second["saved"] == 3
    assert second["told"] == "RuntimeError: a file of the set is gone"
    assert first["told"].startswith("LostRankError: another process of this run could not read")
    assert first["told"].endswith("of step 4: a file of the set is gone")
    whole = results["0"]["run"]["whole"]
    assert not [k for k, v in whole.items() if not torch.equal(v, first["weights"][k])]


def test_every_process_hears_of_a_mistake(results):
    assert results["0"]["messages"] == results["1"]["messages"]
    share, parts, standing, uneven, more = results["0"]["messages"]
    assert "batch_size must be a multiple of the 2 processes, got 9" in share
    assert "a multiple of accumulate = 8 on each of 2 processes, got 8" in parts
    assert standing.startswith("FileExistsError:")
    assert "the ranks have different parameters with a gradient" in uneven
    assert "expected 1 backward passes in this update, got one more" in more


def test_no_thread_of_the_group_outlives_it(results):
    assert results["0"]["threads"] == results["1"]["threads"] == 0


def test_a_single_process_is_a_rank_of_its_own():
    group, values = DistributedGroup.current(), torch.ones(2)
    assert (group.rank, group.size, group.is_first) == (0, 1, True)
    assert group.gather(values) is group.mean(values) is group.part(values) is values
    assert group.collect(3) == [3]
    assert group.in_turn(lambda: 4) == group.from_first(lambda: 4) == 4


def test_old_names_warn():
    with pytest.warns(DeprecationWarning, match=r"Ranks is now fastgan\.engine\.DistributedGroup"):
        assert engine.Ranks is DistributedGroup
    made = tiny_trainer()
    with pytest.warns(DeprecationWarning, match=r"trainer\.ranks is now trainer\.group"):
        assert made.ranks is made.group
    networks = made.generator, made.discriminator, made.gan.update_g, made.gan.update_d
    with pytest.warns(DeprecationWarning, match="argument ranks of GAN is now group") as warned:
        gan = engine.GAN(*networks, made.gan.loss, ranks=made.group)
    assert gan.group is made.group
    assert warned[0].filename == __file__


def torchrun(out: Path, *more: str, restarts: int = 0) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    run += ["--monitor-interval=0.1", f"--max-restarts={restarts}"]
    run += ["--standalone", "-m", "fastgan", "train", "mlp-gan", f"--out={out}"]
    return [*run, *(f"--{k.replace('_', '-')}={v}" for k, v in RUN.items()), *more]


def worker_of(launcher: int, rank: int) -> int:
    """The process id of a rank that torchrun (process ``launcher``) started."""
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"rank {rank} of {launcher} is not running")


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_and_resume_continues_it(folder, tmp_path):
    out = tmp_path / "run"
    process = killed_at_step_4(torchrun(out), out)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "another process of this run has ended or cannot be reached" in errors
    assert 4 <= find_checkpoint(out).step < RUN["steps"]

    subprocess.run(torchrun(out, "--resume"), check=True, capture_output=True)
    assert_same_run(out, folder / "uninterrupted")


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_worker_dies(folder, tmp_path):
    out = tmp_path / "run"
    process = killed_at_step_4(torchrun(out, "--resume", restarts=1), out)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert_same_run(out, folder / "uninterrupted")


def killed_at_step_4(command: list[str], out: Path) -> subprocess.Popen[str]:
    """A run whose second process was killed once the first checkpoint stood."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not (out / "checkpoints" / "step-00000004").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(worker_of(process.pid, 1), signal.SIGKILL)
    return process


def assert_same_run(out: Path, other: Path) -> None:
    resumed, whole = find_checkpoint(out), find_checkpoint(other)
    assert resumed.step == whole.step == RUN["steps"]
    for file in whole.manifest["files"]:
        tensors = resumed.tensors(file.removesuffix(".safetensors"))
        for name, value in whole.tensors(file.removesuffix(".safetensors")).items():
            assert torch.equal(tensors[name], value), f"{file} {name}"

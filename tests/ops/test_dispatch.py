"""Which backend runs, and what is said of those that cannot."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from devices import ON_GPU
from torch._subclasses.fake_tensor import FakeTensorMode

import fastgan
from fastgan.ops import available, bias_act, norm_act
from fastgan.ops.core import dispatch, native


def test_the_setting_holds_until_the_block_ends() -> None:
    with fastgan.backend("reference"):
        assert dispatch.setting() == "reference"
        with fastgan.backend("auto"):
            assert dispatch.setting() == "auto"
        assert dispatch.setting() == "reference"
    assert dispatch.setting() == "auto"


def test_the_setting_holds_without_a_block() -> None:
    fastgan.backend("reference")
    assert dispatch.setting() == "reference"


def test_everything_imports_where_triton_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import fastgan.nn, fastgan.ops, torch\n"
        "fastgan.nn.FusedSequential(torch.nn.Conv2d(1, 1, 1))(torch.ones(1, 1, 2, 2))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="'gpu' is not one of auto, reference, cpu"):
        fastgan.backend("gpu")
    assert dispatch.setting() == "auto"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("cuda", "the tensors are on cpu"), ("triton", "TRITON_INTERPRET=1|not installed")],
)
def test_an_explicit_choice_never_falls_back(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with (
        fastgan.backend(name),
        pytest.raises(RuntimeError, match=f"backend '{name}' cannot run: .*({reason})"),
    ):
        norm_act(torch.randn(4, 3), None, None, training=True)


def test_without_the_library_the_reference_is_chosen(no_library: None) -> None:
    x = torch.randn(4, 3)
    norm_act(x, None, None, training=True)
    chosen = ("reference", {"cpu": "no C++ compiler"})
    assert dispatch.choices == {("cpu", torch.float32): chosen}
    assert norm_act(x[:0], None, None, training=True).shape == (0, 3)
    assert available()["cpu"] == "no C++ compiler"
    with fastgan.backend("cpu"), pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        norm_act(x, None, None, training=True)


def test_automatic_choice_takes_the_library(native: None) -> None:
    assert dispatch.resolve("auto", torch.ones(1)) == "cpu"
    assert dispatch.choices["cpu", torch.float32] == ("cpu", {})


def test_available_names_every_backend() -> None:
    found = available()
    assert list(found) == ["reference", "cpu", "triton", "cuda"]
    assert found["reference"] is None
    assert all(reason is None or reason for reason in found.values())


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "_native.so").write_bytes(b"not a library")
    monkeypatch.setattr(native, "_PACKAGE", tmp_path)
    assert "does not load" in native.load.__wrapped__()
    assert "not installed" in native.build_record.__wrapped__()["reason"]


@pytest.mark.parametrize(
    ("capability", "archs", "ptx", "runs"),
    [
        ((9, 0), ["80", "90"], "90", True),
        ((8, 6), ["80"], "", True),  # the same major number, a later minor
        ((7, 5), ["80", "90"], "90", False),
        ((8, 0), ["86"], "", False),
        ((11, 0), ["100", "120"], "120", False),
        ((12, 1), ["100", "120"], "120", True),
        ((13, 0), ["120"], "120", True),
        ((9, 0), ["90a"], "", True),
        ((10, 3), ["100a"], "", False),
        ((10, 3), ["100f"], "", True),
    ],
)
def test_kernels_that_were_not_built_for_a_gpu_are_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    archs: list[str],
    ptx: str,
    runs: bool,
) -> None:
    version = torch.version.cuda or ""
    record = {"native": True, "cuda": True, "cuda_archs": archs, "cuda_ptx": ptx}
    monkeypatch.setattr(native, "build_record", lambda: record | {"cuda_version": version})
    monkeypatch.setattr(native, "load", lambda: None)
    monkeypatch.setattr(native, "_why_not_built", native._why_not_built.__wrapped__)
    monkeypatch.setattr(native, "_why_not_on", native._why_not_on.__wrapped__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {1: capability}.get)
    reason = dispatch.why_not("cuda", "cuda", torch.float32)
    assert (reason is None) == runs, reason
    if not runs:
        number = "".join(map(str, capability))
        assert f"this GPU is sm_{number}: install again with FASTGAN_CUDA_ARCHS={number}" in reason


def test_kernels_of_another_cuda_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"native": True, "cuda": True, "cuda_archs": ["90"], "cuda_version": "13.0"}
    monkeypatch.setattr(native, "build_record", lambda: record)
    monkeypatch.setattr(native, "load", lambda: None)
    monkeypatch.setattr(native, "_why_not_built", native._why_not_built.__wrapped__)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    reason = dispatch.why_not("cuda", "cuda", torch.float32)
    assert reason is not None
    assert reason.startswith("built with CUDA 13.0, torch")
    assert reason.endswith("is of CUDA 12.8")


def test_what_keeps_a_call_from_the_raw_kernels() -> None:
    """Whoever watches operators must see them: modes, transforms, traces, other classes."""
    x, answers = torch.ones(2, 3), []

    def ask(t: torch.Tensor) -> torch.Tensor:
        answers.append(dispatch.is_eager(t))
        return t + 0

    ask(x)
    ask(torch.nn.Parameter(x))
    assert answers == [True, True]
    answers.clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        ask(x)
    torch.func.vmap(ask)(x)
    torch.jit.trace(ask, x, check_trace=False)
    torch.compile(ask, backend="eager")(x)
    ask(x.to("meta"))
    ask(x.as_subclass(type("Other", (torch.Tensor,), {})))
    assert answers
    assert not any(answers)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_eager_calls_equal_the_operator(
    host_backend: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs, statistics and gradients bit for bit, batched gradients included."""
    given = [torch.randn(4, 3, 5, 5), torch.zeros(3), torch.ones(3), torch.randn(3), torch.randn(3)]
    cotangents = torch.randn(2, 4, 3, 5, 5)

    def results() -> list[torch.Tensor]:
        x, mean, var, weight, bias = (t.clone() for t in given)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        z = bias_act(norm_act(x, mean, var, weight, bias, training), bias, activation="tanh")
        plain = torch.autograd.grad(z, leaves, cotangents[0], retain_graph=True)
        batched = ()
        if host_backend == "cpu":  # the reference writes into a tensor that vmap does not batch
            batched = torch.autograd.grad(z, leaves, cotangents, is_grads_batched=True)
        with torch.no_grad():
            again = bias_act(norm_act(x, mean, var, weight, bias, training), bias)
        return [z, again, mean, var, *plain, *batched]

    eager = results()
    monkeypatch.setattr(dispatch, "is_eager", lambda *_: False)
    for a, b in zip(eager, results(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", ON_GPU, indirect=True)
def test_float64_is_refused_by_name_on_a_gpu(device: str) -> None:
    x = torch.randn(4, 3, 5, 5, device=device, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="float64"):
        norm_act(x, None, None, training=True)


@pytest.mark.parametrize("device", ON_GPU, indirect=True)
def test_nothing_waits_for_a_gpu(device: str) -> None:
    x = torch.randn(64, 64, 32, 32, device=device).bfloat16()
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(2, 64, device=device)
    running = torch.zeros(64, device=device), torch.ones(64, device=device)
    dz = torch.randn_like(x)
    norm_act(x, *running, weight, bias, True).backward(dz)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm_act(x, *running, weight, bias, True).backward(dz)
    finally:
        torch.cuda.set_sync_debug_mode(mode)

"""Running a step: eagerly, or as CUDA graphs that the host only launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, get_args

import torch
from torch import Tensor

from fastgan.checks import check_choice
from fastgan.engine.config import Capture
from fastgan.engine.device import resolve_device
from fastgan.engine.distributed import DistributedGroup
from fastgan.system import first_line, working

Inputs = Sequence[tuple[Tensor | None, ...]]
StepFunction = Callable[[Inputs, Hashable], dict[str, Tensor]]


class CaptureError(ValueError):
    """A step that cannot be captured as a CUDA graph, or a device that has no graphs."""


class StepRunner:
    """Runs ``function(inputs, variant)``, and keeps the newest value of each scalar it returns.

    Captured, the function runs as it stands for the first ``WARM_UP`` steps of each variant (those
    steps count like any other), and is then recorded once; from there on a step copies its inputs
    to where the graph reads them and launches the graph. Python code of the function does not run
    in a launch: what it does must be done by tensor operations on the device, of the same shapes
    in every step of a variant.

    Args:
        function: one step, a function of tensors.
        device: where it runs.
        capture: auto captures on CUDA devices.
        generators: random number generators that the function draws from, besides the default one.
        settings: what the function's Python reads beside its inputs; where that has changed since a
            step, steps are recorded anew.
        shared: the function talks to other processes (NCCL's threads then run beside the capture).

    Raises:
        CaptureError: ``capture`` is on and the device is not a CUDA device.
    """

    WARM_UP = 3

    def __init__(
        self,
        function: StepFunction,
        device: torch.device,
        capture: Capture = "auto",
        generators: Sequence[torch.Generator] = (),
        settings: Callable[[], object] = lambda: None,
        shared: bool = False,
    ) -> None:
        if capture == "on" and device.type != "cuda":
            raise CaptureError(f"capture is on, but CUDA graphs need a CUDA device, got {device}")
        self.captures = capture != "off" and device.type == "cuda"
        self._device = device
        self.latest: dict[str, Tensor] = {}
        self._function = function
        self._generators = generators
        self._settings = settings
        self._read: object = None
        self._error_mode = "thread_local" if shared else "global"
        self._made: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._inputs: Inputs | None = None
        if self.captures:
            self._side = torch.cuda.Stream(device)
        self.forget()

    def __call__(self, inputs: Inputs, variant: Hashable) -> None:
        """Make one step; ``variant`` tells apart the steps that do different things."""
        if not self.captures:
            self._step(inputs, variant)
            return
        # Streams are of the current device, whichever the caller has chosen.
        with torch.cuda.device(self._device):
            self._launch(inputs, variant)

    def _launch(self, inputs: Inputs, variant: Hashable) -> None:
        held = self._hold(inputs)
        if self._read is not None and self._read != self._settings():
            self.forget()
        if variant in self._graphs:
            self._graphs[variant].replay()
            return
        with working("compiling and capturing the step"):
            if self._made[variant] < self.WARM_UP:
                self._warm_up(held, variant)
            else:
                self._graphs[variant] = self._record(held, variant)
                self._graphs[variant].replay()
        # After the function: what its own Python counts is no change from outside.
        self._read = self._settings()

    def forget(self) -> None:
        """Record anew: what the function works on was replaced, or the graphs must not live on."""
        for graph in self._graphs.values():
            graph.reset()
        self._graphs.clear()
        self._made.clear()
        self._read = None
        if self.captures:
            self._pool = torch.cuda.graph_pool_handle()

    def _step(self, inputs: Inputs, variant: Hashable) -> None:
        found = self._function(inputs, variant)
        known = self.latest.keys() & found.keys()
        self.latest |= {name: value.clone() for name, value in found.items() if name not in known}
        if known:  # by one launch for all
            names = sorted(known)
            torch._foreach_copy_([self.latest[n] for n in names], [found[n] for n in names])

    def _hold(self, inputs: Inputs) -> Inputs:
        """Copy ``inputs`` to the buffers that the graphs read."""
        if self._inputs is None:
            self._inputs = [tuple(None if t is None else t.clone() for t in row) for row in inputs]
            return self._inputs
        for held, given in zip(self._inputs, inputs, strict=True):
            for target, source in zip(held, given, strict=True):
                if target is not None and source is not None:
                    target.copy_(source, non_blocking=True)
        return self._inputs

    def _warm_up(self, inputs: Inputs, variant: Hashable) -> None:
        # On the stream of the capture, so that what is made lazily is made for it.
        self._made[variant] += 1
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            self._step(inputs, variant)
        torch.cuda.current_stream().wait_stream(self._side)

    def _record(self, inputs: Inputs, variant: Hashable) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        current, cause = torch.cuda.current_stream(), None
        try:
            # One pool for all graphs: they run one after another, and nothing that a graph
            # allocates is read after it.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._side, capture_error_mode=self._error_mode
            ):
                try:
                    self._step(inputs, variant)
                except BaseException as error:
                    cause = error
                    raise
        except BaseException as error:
            # A capture that has become invalid cannot be ended either: torch then raises that
            # in place of the cause, and leaves the side stream current.
            torch.cuda.set_stream(current)
            with suppress(RuntimeError):
                graph.reset()
            cause = cause or error
            if not isinstance(cause, RuntimeError):
                raise cause from None
            raise CaptureError(
                f"the step cannot be captured as a CUDA graph ({first_line(cause)}); "
                "capture=off runs it as it stands"
            ) from cause
        return graph


class CapturedStep:
    """What :func:`capture` returns: a step to be called with tensors and, by name, plain values."""

    def __init__(self, step: Callable[..., dict[str, Tensor]], *runner: Any) -> None:
        def function(inputs: Inputs, variant: Any) -> dict[str, Tensor]:
            return step(*inputs[0], **dict(variant))

        self._runner = StepRunner(function, *runner)
        self._shapes: list[list[int] | None] | None = None

    def __call__(self, *inputs: Tensor | None, **variant: Hashable) -> dict[str, Tensor]:
        """Make one step; returns the newest value of each scalar that steps have given, on the
        device."""
        self._check(inputs)
        self._runner([inputs], tuple(sorted(variant.items())))
        return self._runner.latest

    def forget(self) -> None:
        """Record anew: after a state was loaded, or a network or an optimizer was replaced."""
        self._runner.forget()

    def _check(self, inputs: Sequence[Tensor | None]) -> None:
        for i, value in enumerate(inputs):
            if not (value is None or isinstance(value, Tensor)):
                raise TypeError(
                    f"inputs[{i}] of a captured step must be a tensor or None, got {value!r}; "
                    "plain values go by name, and each combination of them is recorded by itself"
                )
        shapes = [None if value is None else list(value.shape) for value in inputs]
        if self._shapes is None:
            self._shapes = shapes
        if shapes != self._shapes:
            raise ValueError(
                f"inputs of a captured step must keep their shapes: {self._shapes} in the first "
                f"step, {shapes} now; leave out a last batch that is smaller (drop_last=True)"
            )


def capture(
    step: Callable[..., dict[str, Tensor]],
    device: str | torch.device = "auto",
    *,
    mode: Capture = "auto",
    generators: Sequence[torch.Generator] = (),
    settings: Callable[[], object] = lambda: None,
) -> CapturedStep:
    """``step`` as the Trainer runs its own: on a CUDA device as CUDA graphs, elsewhere as it is.

    The first three calls with the same values by name run ``step`` itself and count like any
    other; the next one records it, and from there on a call copies its inputs to where the graph
    reads them and launches the graph. Nothing in ``step`` may then wait for the device or change
    shapes, and its Python does not run in a launch: what changes from step to step are its inputs
    and what tensors hold (:meth:`Update.set_lr`, :meth:`Ema.before`).

    Args:
        step: ``step(*tensors, **values)`` gives scalars by name: tensors [] on the device.
        device: where it runs: auto (a GPU where there is one), cpu, cuda or cuda:<n>.
        mode: on, off, or auto, which captures on CUDA devices.
        generators: random number generators that it draws from, besides torch's own.
        settings: what its Python reads beside its arguments, as values to compare, such as
            :meth:`GAN.host_values`; where they change, steps are recorded anew.

    Raises:
        CaptureError: ``mode`` is on and the device has no CUDA graphs; in a call, the step cannot
            be captured.
        ValueError: no such device or mode; in a call, inputs of other shapes than in the first.
        TypeError: in a call, an input that is no tensor.
    """
    check_choice("mode", mode, get_args(Capture))
    where, shared = resolve_device(str(device)), DistributedGroup.current().size > 1
    return CapturedStep(step, where, mode, generators, settings, shared)


def host_values(*parts: object) -> list[tuple[Any, ...]]:
    """The plain values that stand in the attributes of ``parts``: a graph keeps what they were."""
    return [
        (name, tuple(value.items()) if isinstance(value, dict) else value)
        for part in parts
        for name, value in getattr(part, "__dict__", {}).items()
        if isinstance(value, (bool, int, float, str, tuple, dict)) and not name.startswith("_")
    ]

"""Training held to the tolerance rule: every step of a run, each from the same state.

Two free runs of a deep network part for good once a rounding carries an activation over its kink:
how far they end from float64's is drawn by lot from there on, and a bound on it measures luck. So
the run is float64's, its state rounded to float32 before each step, and from each of these states
the fused network, PyTorch's and float64's take one step. What is compared is what the step
computes: losses, gradients (updated weights would hide their errors below a weight's last bit),
running statistics.

Over the steps the rule holds for the median error of every tensor, which is that of its rounding
and blind to kinks as long as most steps are free of them; and for the largest error of each group,
so that no single step is off. A gradient has no value at a kink, and hence no error: where a step
sticks out, be it ours or PyTorch's, both are run again a little aside, where the unit that was
within rounding of zero is not. An error that is not a kink's stays.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from tolerance import FLOOR, error
from torch import Tensor, nn

STEPS = 16
# A step sticks out with more than so many times PyTorch's median error; with a kink it is some
# thousand times, as the roundings of well-conditioned steps are alike.
STICKS_OUT = 4
# Aside: every parameter is moved by so much of itself, far more than roundings move a unit.
ASIDE, TRIES = 2.0**-12, 3

State = dict[str, Tensor]
Results = dict[str, dict[str, Tensor]]
"""What a step computed: "losses", any groups of "gradients", and others, by name."""
Errors = dict[str, dict[str, tuple[float, float]]]
"""(own, PyTorch's) by group and name."""


class Run(NamedTuple):
    """A network in training: its whole state, and its step by number, the same whenever called."""

    network: nn.Module
    step: Callable[[int], Results]

    def step_from(self, state: State, number: int) -> Results:
        self.network.load_state_dict(state)
        return self.step(number)


def sizes(gradients: dict[str, Tensor]) -> dict[str, float]:
    """The least magnitude a gradient's error relates to: the largest in its layer.

    That of a bias before a norm is zero, but for rounding.
    """

    def layer(name: str) -> str:
        return name.rpartition(".parametrizations")[0] or name.rpartition(".")[0] or name

    largest: dict[str, float] = {}
    for name, g in gradients.items():
        largest[layer(name)] = max(largest.get(layer(name), 0.0), float(g.abs().max()))
    return {name: largest[layer(name)] for name in gradients}


def assert_along(own: Run, theirs: Run, exact: Run) -> None:
    """The rule over the steps of `exact`'s run, which is in float64."""
    states: list[State] = []
    truths: list[Results] = []
    for number in range(STEPS):
        states.append(_rounded(exact.network))
        truths.append(exact.step_from(states[-1], number))
    losses = {k: max(float(t["losses"][k].abs()) for t in truths) for k in truths[0]["losses"]}

    def errors(state: State, number: int, truth: Results) -> Errors:
        return _errors(*(r.step_from(state, number) for r in (own, theirs)), truth, losses)

    found = [errors(s, i, t) for i, (s, t) in enumerate(zip(states, truths, strict=True))]
    usual = {g: _usual([_largest(e[g])[1] for e in found]) for g in truths[0]}
    names = {name for name, _ in exact.network.named_parameters()}
    for number, state in enumerate(states):
        for draw in range(TRIES):
            if not _sticks_out(found[number], usual):
                break
            near = _aside(state, names, draw)
            found[number] = errors(near, number, exact.step_from(near, number))
    _check(found)


def assert_free(own: Run, theirs: Run, exact: Run) -> None:
    """The rule over runs that are left to themselves: each loss's curve, and the last parameters.

    For runs that are not chaotic. It sees what passes from step to step otherwise than by the
    state, such as a packed weight that an optimizer's step should have made void. That fails from
    every start; a run that a kink sets apart is made again from a start a little aside.
    """
    start = _rounded(theirs.network)
    names = {name for name, _ in theirs.network.named_parameters()}
    for draw in range(TRIES):
        try:
            return _assert_free_from(start, own, theirs, exact)
        except AssertionError:
            start = _aside(start, names, draw)
    _assert_free_from(start, own, theirs, exact)


def _assert_free_from(start: State, own: Run, theirs: Run, exact: Run) -> None:
    ends: list[Results] = []
    for run in (own, theirs, exact):
        run.network.load_state_dict(start)
        losses = [run.step(number)["losses"] for number in range(STEPS)]
        curves = {k: torch.stack([at[k] for at in losses]) for k in losses[0]}
        ends.append({"losses": curves, "parameters": dict(run.network.named_parameters())})
    largest = max(float(p.detach().abs().max()) for p in ends[-1]["parameters"].values())
    errors = _errors(*ends, dict.fromkeys(ends[-1]["parameters"], largest))
    for group, named in errors.items():
        _hold(f"largest error of {group}", *_largest(named))


def _check(found: list[Errors]) -> None:
    for group, named in found[0].items():
        for name in named:
            pairs = [e[group][name] for e in found]
            middle = (median(of) for of in zip(*pairs, strict=True))
            _hold(f"median error of {group}, {name}", *middle)
        largest = (max(of) for of in zip(*(_largest(e[group]) for e in found), strict=True))
        _hold(f"largest error of {group}", *largest)


def _hold(what: str, own: float, theirs: float) -> None:
    allowed = 2 * theirs + FLOOR[torch.float32]
    assert own <= allowed, f"{what}: {own:.2e}, PyTorch's {theirs:.2e}"


def _rounded(network: nn.Module) -> State:
    state = network.state_dict()
    return {k: v.clone().float() if v.is_floating_point() else v.clone() for k, v in state.items()}


def _aside(state: State, names: set[str], seed: int) -> State:
    draw = torch.Generator().manual_seed(seed)

    def moved(p: Tensor) -> Tensor:
        return p * (1 + ASIDE * (torch.randint(0, 2, p.shape, generator=draw) * 2 - 1))

    return {k: moved(v) if k in names else v for k, v in state.items()}


def _errors(own: Results, theirs: Results, truth: Results, natural: dict[str, float]) -> Errors:
    found: Errors = {}
    for group, values in truth.items():
        least = sizes(values) if group.startswith("gradients") else natural
        found[group] = {}
        for k, v in values.items():
            own_error, their_error = (
                error(r[group][k], v, least.get(k, 0.0)) for r in (own, theirs)
            )
            found[group][k] = own_error, their_error
    return found


def _largest(errors: dict[str, tuple[float, float]]) -> tuple[float, float]:
    own, theirs = zip(*errors.values(), (0.0, 0.0), strict=True)
    return max(own), max(theirs)


def _usual(errors: list[float]) -> float:
    """The median; a saturated hinge leaves gradients of nothing, without an error."""
    return median([e for e in errors if e] or [0.0])


def _sticks_out(errors: Errors, usual: dict[str, float]) -> bool:
    floor = FLOOR[torch.float32]
    return any(max(_largest(e)) > STICKS_OUT * usual[g] + floor for g, e in errors.items())

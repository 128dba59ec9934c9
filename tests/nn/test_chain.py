"""chain: its plan is kept from call to call; without gradients it runs for speed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fastgan.nn import FusedSequential, chain, planner
from fastgan.nn.recording import recording


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.LeakyReLU(0.2))
    return {"body": body, "last": nn.Conv2d(3, 1, 1)}


def test_a_chain_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    modules, x, plans = layers(), torch.randn(2, 2, 5, 5), []
    own = planner.plan
    monkeypatch.setattr(planner, "plan", lambda *args: (plans.append(0), own(*args))[1])
    for _ in range(3):
        chain(x, **modules)
    assert len(plans) == 1
    chain(x, body=modules["body"])  # another chain, that begins with the same module
    chain(x, **modules)
    assert len(plans) == 2
    chain(x, **copy.deepcopy(modules))
    assert len(plans) == 3


def test_a_changed_layer_is_seen() -> None:
    modules, x = layers(), torch.randn(2, 2, 5, 5)
    chain(x, **modules)
    modules["body"][2].negative_slope = 0.7
    expected = modules["last"](modules["body"](x))
    torch.testing.assert_close(chain(x, **modules), expected)
    modules["body"][2] = nn.Tanh()
    expected = modules["last"](modules["body"](x))
    torch.testing.assert_close(chain(x, **modules), expected)


def test_without_gradients_nothing_is_saved_for_memory(native: None) -> None:
    """Where the library's convolution is as fast, the layers' own steps run."""
    x, model = torch.randn(2, 2, 5, 5), FusedSequential(*layers().values()).eval()
    forms = {}
    for grad in (True, False):
        with torch.set_grad_enabled(grad), recording() as runs:
            chain(x, **layers())
            model(x)
        forms[grad] = {run.form for run in runs}
    assert forms[True] == {"recompute"}
    assert forms[False] <= {"unfused", "norm_fused"}

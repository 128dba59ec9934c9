"""What the host does for a fused call, with the launch taken out: calls of functions, Python's and
C's, which a plan kept by geometry saves. No time is measured here: `python -m bench.host_cost`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from host_calls import calls

pytest.importorskip("triton")

from bench.host_cost import chain, images, main, no_launches
from fastgan.kernels.conv_block.tma.form import form_launch
from fastgan.nn import BatchNormAct2d


@pytest.fixture(autouse=True)
def launches() -> Iterator[list[str]]:
    """The kernels that would have been launched, as on a GPU with TMA."""
    with no_launches() as launched:
        yield launched


def test_a_block_between_blocks(launches: list[str]) -> None:
    x, found = images(), {}
    for blocks in (1, 2):
        model = chain(blocks)
        forward = calls(lambda model=model: model(x))
        both = calls(lambda model=model: model(x).backward(torch.zeros_like(x)))
        del launches[:]
        model(x).backward(torch.zeros_like(x))
        found[blocks] = forward, both - forward, len(launches)
    forward, backward, launched = (b - a for a, b in zip(found[1], found[2], strict=True))
    assert launched == 6, "the block ran in another form"
    assert forward <= 145, "644 before plans were kept, 129 since"
    assert backward <= 105, "358 before, 92 since"


def test_norm_and_activation(launches: list[str]) -> None:
    x, norm = images(), BatchNormAct2d(16)
    forward = calls(lambda: norm(x))
    both = calls(lambda: norm(x).backward(torch.zeros_like(x)))
    assert "train_kernel" in launches
    assert forward <= 150, "270 before, 137 since"
    assert both - forward <= 125, "173 before, 112 since"


def test_launches_are_triton_s_again_in_the_end() -> None:
    x = images().detach()
    launch = form_launch("input", tuple(x.shape), 1, 0, x.device)
    with no_launches() as launched:
        for _ in range(2):
            launch(x, None, None, x, 0.2)
        assert launched == ["form_kernel"] * 2
        assert launch.compiled
    assert not launch.compiled


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bench.host_cost.SECONDS", 0.02)
    main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 2
    for line in lines:
        forward, backward = (float(word) for word in line.split() if word[0].isdigit())
        assert forward > 0, line
        assert backward > 0, line

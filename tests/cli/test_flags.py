"""Every boolean of every command takes both forms, whatever it is by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fastgan.cli import COMMANDS, main
from fastgan.cli._common import parse
from fastgan.recipes import get_recipe

SHORT = ["--batch-size=4", "--limit=16", "--sample-count=4", "--device=cpu", "--checkpoint-every=2"]


def booleans(made: Any) -> Iterator[tuple[str, ...]]:
    """The path to each boolean field of a dataclass, and of those within it."""
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, bool):
            yield (field.name,)
        elif dataclasses.is_dataclass(value):
            yield from ((field.name, *inner) for inner in booleans(value))


def with_value(made: Any, path: tuple[str, ...], value: bool) -> Any:
    first, *rest = path
    inner = with_value(getattr(made, first), tuple(rest), value) if rest else value
    return dataclasses.replace(made, **{first: inner})


def value_at(made: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        made = getattr(made, name)
    return made


def defaults() -> Iterator[tuple[str, Any, list[str]]]:
    """Each command's arguments as they are by default, and its positional ones."""
    for command in COMMANDS:
        module = import_module(f"fastgan.cli.{command.replace('-', '_')}")
        kind = getattr(module, "Arguments", None)
        if hasattr(module, "arguments_of"):
            kind = module.arguments_of(get_recipe("digits"))
        if kind is None:
            continue
        named = {"kind": "classes", "checkpoint": Path("run"), "name": "mnist", "data": "mnist"}
        named |= {"image": Path("image.png"), "mask": Path("mask.png"), "run": Path("run")}
        named |= {"runs": (Path("run"),), "shell": "bash", "clip": Path("a.wav")}
        needed = [
            f.name
            for f in dataclasses.fields(kind)
            if f.default is f.default_factory is dataclasses.MISSING
        ]
        given = {name: named[name] for name in needed}
        words = [v[0] if isinstance(v, tuple) else v for v in given.values()]
        yield command, kind(**given), [str(word) for word in words]


CASES = [
    pytest.param(made, positional, path, id=f"{command} {path[-1]}")
    for command, made, positional in defaults()
    for path in booleans(made)
]


@pytest.mark.parametrize(("made", "positional", "path"), CASES)
@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_both_forms_are_taken(made, positional, path, default, given):
    flag = f"--{'' if given else 'no-'}{path[-1].replace('_', '-')}"
    start = with_value(made, path, default)
    parsed = parse(type(made), [*positional, flag], prog="fastgan", default=start)
    assert parsed == with_value(made, path, given)


def test_the_fields_are_found():
    names = {case.id for case in CASES}
    assert {"train flip", "train strict", "train resume", "train share_fakes"} <= names
    assert {"bench quick", "explain roofline"} <= names


def test_a_restarted_line_is_taken_again_and_again(tmp_path, capsys):
    """torchrun --max-restarts starts the very same line: at the first start there is no run."""
    line = ["train", "mlp-gan", "--out", str(tmp_path / "run"), "--resume", *SHORT]
    line += ["--flip", "--no-share-fakes", "--strict", "--joint-batch", "--no-tensorboard"]
    assert main([*line, "--steps=2"]) == 0
    assert main([*line, "--steps=4"]) == 0
    assert "resumed" in capsys.readouterr().out
    assert main([*line, "--steps=6", "--no-flip"]) == 2
    assert "flip: True in the checkpoint, False now" in capsys.readouterr().err

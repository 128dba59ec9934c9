"""Help reads as it is written: no None, lines broken by their width, positional words by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from fastgan.cli import COMMANDS, main
from fastgan.cli._common import parse


@dataclass(frozen=True)
class Inner:
    """A section."""

    rate: float | None = None
    """By default
    the usual one."""


@dataclass(frozen=True)
class Outer:
    """Of tests."""

    checkpoint: tyro.conf.Positional[Path]
    """A folder."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; this goes on in the line below, and is
    long."""
    to: Literal["a", "b"] | None = None
    names: tuple[str, ...] | None = None
    count: int = 3
    inner: Inner = field(default_factory=Inner)


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"data", "recipes"}))
def test_no_help_speaks_of_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of([command, "--help"], capsys)
    assert "None" not in text
    assert "(default: )" not in text
    assert " PATH PATH" not in text


def test_what_stands_for_values_and_where_lines_break(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Outer, ["--help"], prog="fastgan outer")
    text = capsys.readouterr().out
    joined = " ".join(text.replace("│", " ").split())
    for words in (
        "usage: fastgan outer [-h] [OPTIONS] CHECKPOINT",
        "-o PATH, --out PATH The file to write; this goes on in the line below, and is long.",
        "--to {a,b}",
        "--names [STR ...]",
        "--count INT (default: 3)",
        "--rate FLOAT By default the usual one.",
        "A section.",
    ):
        assert words in joined
    assert any("By default the usual one." in line for line in text.splitlines())


def test_what_is_given_and_what_is_not() -> None:
    parsed = parse(Outer, ["run", "--rate", "2", "--names", "a", "b"], prog="fastgan outer")
    assert parsed == Outer(Path("run"), names=("a", "b"), inner=Inner(2.0))
    before = Outer(Path("run"), to="b", count=4, inner=Inner(1.0))
    assert parse(Outer, ["run", "--to", "None"], prog="fastgan", default=before) == Outer(
        Path("run"), to=None, count=4, inner=Inner(1.0)
    )


@pytest.mark.parametrize(
    ("flag", "word", "message"),
    [
        ("--count", "20k", "expected a whole number, got '20k'"),
        ("--count", "1e3", "expected a whole number, got '1e3'"),
        ("--rate", "fast", "expected a number, got 'fast'"),
    ],
)
def test_what_is_no_number_is_told_in_words(
    flag: str, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(Outer, ["run", flag, word], prog="fastgan outer")
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in said
    assert "literal" not in said


@pytest.mark.parametrize("asked", [["help"], ["help", "recipes"]])
def test_help_may_be_asked_for_as_a_command(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked) == 0
    assert capsys.readouterr().out.startswith("usage: fastgan ")


def test_a_path_without_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "dcgan-64", str(tmp_path), "--steps", "2"]) == 2
    expected = f"--data is missing: fastgan train dcgan-64 --data {tmp_path} --steps 2"
    assert expected in capsys.readouterr().err


def test_a_word_that_lacks_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sample"])
    assert stopped.value.code == 2
    assert "CHECKPOINT" in capsys.readouterr().err


def test_examples_stand_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(["train", "--help"], capsys).splitlines()
    assert "$ fastgan train digits --steps 500" in lines

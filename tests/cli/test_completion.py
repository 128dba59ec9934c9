"""What a shell offers, asked of the shell itself."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess

import pytest

from fastgan.cli import COMMANDS, main
from fastgan.cli.completion import words_of
from fastgan.recipes import list_recipes


def offered(script: str, *line: str) -> list[str]:
    """The words that bash offers at the end of ``line``."""
    words = " ".join(f"'{word}'" for word in line)
    asked = f"{script}\nCOMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _fastgan\n"
    asked += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def script() -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["completion", "bash"]) == 0
    return out.getvalue()


def test_commands_recipes_flags_and_values_are_offered(script):
    assert {*offered(script, "fastgan", "")} == {*COMMANDS, "--help", "--version"}
    assert offered(script, "fastgan", "train", "dcgan-6") == ["dcgan-64"]
    assert offered(script, "fastgan", "train", "--loa") == ["--loading"]
    assert offered(script, "fastgan", "train", "--loading", "") == ["auto", "resident", "stream"]
    assert {"--flip", "--no-flip"} <= {*offered(script, "fastgan", "train", "vae", "--")}
    assert "--kl-weight" in offered(script, "fastgan", "train", "vae", "--kl")
    assert offered(script, "fastgan", "picture", "ev") == ["evolution"]
    assert offered(script, "fastgan", "completion", "z") == ["zsh"]


def test_every_recipe_is_known():
    assert words_of("train")[""] == tuple(recipe.name for recipe in list_recipes())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_theirs(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert ("bashcompinit" in text) == (shell == "zsh")
    assert ("-l loading -x -a 'auto resident stream'" in text) == (shell == "fish")
    if shutil.which(shell):
        subprocess.run([shell, "-c", text], check=True, cwd=tmp_path)

"""fastgan completion SHELL"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import tyro

from fastgan.cli._common import parse
from fastgan.recipes import list_recipes

Words = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Arguments:
    """Print what completes commands, flags and their values in a shell.

    $ fastgan completion bash > ~/.local/share/bash-completion/completions/fastgan
    $ fastgan completion zsh > ~/.fastgan.zsh  # then `source ~/.fastgan.zsh` in ~/.zshrc
    $ fastgan completion fish > ~/.config/fish/completions/fastgan.fish"""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """Which shell's script."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan completion")
    known = {name: words_of(name) for name in _summaries()}
    print(_fish(known) if chosen.shell == "fish" else _bash(known, zsh=chosen.shell == "zsh"))
    return 0


def words_of(command: str) -> Words:
    """The flags of a command, each with the values that it takes where they have names; those of
    the argument that has no flag under ""."""
    module = import_module(f"fastgan.cli.{command.replace('-', '_')}")
    if hasattr(module, "arguments_of"):
        recipes = list_recipes()
        found: Words = {"": tuple(recipe.name for recipe in recipes)}
        for recipe in recipes:
            found = _fields(module.arguments_of(recipe)) | found
        return found
    return _fields(module.Arguments) if hasattr(module, "Arguments") else {}


def _fields(kind: type[Any]) -> Words:
    hints = typing.get_type_hints(kind, include_extras=True)
    found: Words = {}
    for field in dataclasses.fields(kind):
        marks = getattr(hints[field.name], "__metadata__", ())
        plain = typing.get_args(hints[field.name])[0] if marks else hints[field.name]
        flag = f"--{field.name.replace('_', '-')}"
        values = typing.get_args(plain) if typing.get_origin(plain) is Literal else ()
        if dataclasses.is_dataclass(plain):
            found |= _fields(typing.cast("type[Any]", plain))
        elif tyro.conf.Positional in marks:
            found[""] = (*found.get("", ()), *map(str, values))
        elif plain is bool:
            found |= {flag: (), flag.replace("--", "--no-", 1): ()}
        else:
            found[flag] = tuple(map(str, values))
    return found


def _bash(known: dict[str, Words], *, zsh: bool) -> str:
    cases, values = [], []
    for command, words in known.items():
        offered = [flag for flag in words if flag] + [*words.get("", ())]
        cases.append(f'    {command}) words="{" ".join(["--help", "--verbose", *offered])}" ;;')
        values += [
            f'    "{command} {flag}") words="{" ".join(choices)}" ;;'
            for flag, choices in words.items()
            if flag and choices
        ]
    lines = [
        *(["autoload -Uz bashcompinit && bashcompinit"] if zsh else []),
        "_fastgan() {",
        '  local words="" cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"',
        '  case "${COMP_WORDS[1]}" in',
        *cases,
        "  esac",
        '  case "${COMP_WORDS[1]} $prev" in',
        *values,
        "  esac",
        f'  [ "$COMP_CWORD" -eq 1 ] && words="{" ".join(known)} --help --version"',
        '  COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "}",
        "complete -o default -F _fastgan fastgan",
    ]
    return "\n".join(lines)


def _fish(known: dict[str, Words]) -> str:
    lines = ["complete -c fastgan -l help", "complete -c fastgan -l verbose"]
    lines += [
        f"complete -c fastgan -n __fish_use_subcommand -a {command} -d {_quoted(summary)}"
        for command, summary in _summaries().items()
    ]
    for command, words in known.items():
        start = f"complete -c fastgan -n '__fish_seen_subcommand_from {command}'"
        for flag, choices in words.items():
            if flag:
                given = f" -x -a '{' '.join(choices)}'" if choices else ""
                lines.append(f"{start} -l {flag[2:]}{given}")
            elif choices:
                lines.append(f"{start} -a '{' '.join(choices)}'")
    return "\n".join(lines)


def _summaries() -> dict[str, str]:
    from fastgan.cli import COMMANDS

    return {name: summary.partition(":")[0] for name, summary in COMMANDS.items()}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"

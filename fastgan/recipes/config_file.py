"""A run in a file: YAML, TOML, or the ``run.json`` that a run has written."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml

from fastgan.checks import unknown
from fastgan.engine import records
from fastgan.engine.config import BOUNDS
from fastgan.engine.objectives import OBJECTIVES
from fastgan.recipes.recipe import Recipe, get_recipe, list_recipes, sections_of
from fastgan.recipes.run import as_described, override

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WIDTH = 96
SCHEMA = Path(__file__).with_name("run.schema.json")
"""The JSON schema of such a file, for editors."""


def load_recipe(path: str | Path, recipe: Recipe | None = None) -> Recipe:
    """The recipe of a configuration file, to be given to ``fastgan.train``.

    The file is flat: ``recipe: dcgan-64``, and settings of ``fastgan train`` by name, such as
    ``lr_g: 1e-4``. A ``run.json`` gives all that its run was trained with.

    Args:
        recipe: what the settings change, in place of the recipe that the file names; the two must
            have one name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML, TOML or JSON, has a key that no setting has, or a value of
            another type or out of range. Names the file and the key.
    """
    path = Path(path)
    values = _read(path)
    if path.suffix == ".json" and "config" in values:
        described = as_described(get_recipe(_recipe_of(values, path, recipe)), values, path)
        return described if recipe is None else override(recipe, **_settings(described))
    name = _recipe_of(values, path, recipe)
    base = recipe or get_recipe(name)
    values.pop("recipe", None)
    values.pop("$schema", None)
    checks = {
        k: c for kind in sections_of(base).values() for k, c in records.fields_of(kind).items()
    }
    for key, value in values.items():
        if key not in checks:
            raise ValueError(f"{path}: {unknown('key', key, [*checks, 'recipe'])}{_hint(key)}")
        try:
            checks[key](value, key)
        except records.RecordError as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        return override(base, **values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def as_text(recipe: Recipe, form: Literal["yaml", "toml"] = "yaml") -> str:
    """All settings of a recipe, each with what it does, as a file that ``load_recipe`` reads."""
    sign = ": " if form == "yaml" else " = "
    lines = [f"# fastgan train --config FILE: {recipe.summary}"]
    if form == "yaml":
        lines.insert(0, f"# yaml-language-server: $schema={SCHEMA}")
    lines += ["", f"recipe{sign}{json.dumps(recipe.name)}"]
    for section, kind in sections_of(recipe).items():
        own, docs = getattr(recipe, section), field_docs(kind)
        for name, field_type in _hints_of(kind).items():
            lines.append("")
            lines += textwrap.wrap(
                docs[name] + _choices(field_type),
                _WIDTH,
                initial_indent="# ",
                subsequent_indent="# ",
            )
            value = getattr(own, name)
            none = value is None and form == "toml"  # which has no such value
            lines.append(f"# {name} is not set" if none else f"{name}{sign}{_scalar(value)}")
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration file."""
    properties: dict[str, Any] = {
        "$schema": {"type": "string"},
        "recipe": {"enum": [r.name for r in list_recipes()], "description": "A named run."},
    }
    kinds = {k: None for r in list_recipes() for s, k in sections_of(r).items() if s != "objective"}
    for kind in [*OBJECTIVES.values(), *kinds]:
        docs = field_docs(kind)
        for name, hint in _hints_of(kind).items():
            if name in properties:  # of an objective, or of images, which come first
                continue
            found = _type_of(hint) | {"description": docs[name]}
            if name in BOUNDS:
                found |= dict(zip(("minimum", "maximum"), BOUNDS[name], strict=True))
            if name == "objective":
                found["enum"] = sorted(OBJECTIVES)
            properties[name] = found
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of fastgan",
        "type": "object",
        "properties": properties,
        "required": ["recipe"],
        "additionalProperties": False,
    }


def _hints_of(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def field_docs(kind: type[Any]) -> dict[str, str]:
    """What is written below each field of a dataclass, in one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for base in kind.__bases__:
        docs |= field_docs(base) if dataclasses.is_dataclass(base) else {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return docs


def _read(path: Path) -> dict[str, Any]:
    content = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".toml":
            values: Any = tomllib.loads(content)
        elif path.suffix in (".yaml", ".yml"):
            values = yaml.load(content, _Loader)  # a SafeLoader
        elif path.suffix == ".json":
            values = records.parse(content)
        else:
            raise ValueError("a configuration file is .yaml, .yml, .toml or .json")
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path}: expected settings by name, got {type(values).__name__}")
    return values


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, where 1e-4 is a number and off a word; a key stands once."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        pairs = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in pairs if pairs.count(key) > 1]
        if twice:
            raise ValueError(f"key {twice[0]} stands twice")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def _recipe_of(values: dict[str, Any], path: Path, recipe: Recipe | None) -> str:
    name = values.get("recipe", recipe and recipe.name)
    if not isinstance(name, str):
        raise ValueError(f"{path}: key recipe must name a recipe, got {name!r}")
    if recipe is not None and name != recipe.name:
        raise ValueError(f"{path}: is of recipe {name!r}, and {recipe.name!r} was asked for")
    try:
        return get_recipe(name).name if recipe is None else name
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {k: v for s in sections_of(recipe) for k, v in vars(getattr(recipe, s)).items()}


def _hint(key: str) -> str:
    if key in ("out", "resume", "force", "config"):
        return f" ({key} is said on the command line)"
    others = [n for n, kind in OBJECTIVES.items() if key in field_docs(kind)]
    return f" ({key} belongs to the objective {' or '.join(others)})" if others else ""


def _choices(hint: Any) -> str:
    if typing.get_origin(hint) is not Literal:
        return ""
    return f" One of {', '.join(map(str, typing.get_args(hint)))}."


def _scalar(value: Any) -> str:
    """The same in YAML and TOML: JSON's, with a point in every number that is not whole."""
    text = json.dumps(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def _type_of(hint: Any) -> dict[str, Any]:
    if typing.get_origin(hint) is Literal:
        return {"enum": list(typing.get_args(hint))}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arms = [_type_of(arm)["type"] for arm in typing.get_args(hint)]
        return {"type": arms}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return {"type": names[hint]}

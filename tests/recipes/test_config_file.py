"""Runs described in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastgan.cli import main
from fastgan.recipes import get_recipe, list_recipes, load_recipe, override
from fastgan.recipes.config_file import SCHEMA, as_text, field_docs, schema

SHORT = ["--steps=1", "--batch-size=4", "--limit=16", "--sample-count=4", "--device=cpu"]


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["yaml", "toml"])
@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_the_printed_file_is_the_recipe(recipe, form, tmp_path):
    text = as_text(recipe, form)
    assert load_recipe(written(tmp_path, text, f"run.{form}")) == recipe
    keys = [line for line in text.splitlines() if line and not line.startswith("#")]
    documented = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(documented) > len(keys)


def test_a_file_says_less_and_yaml_is_that_of_today(tmp_path):
    path = written(tmp_path, "recipe: vae\nlr_g: 1e-4\ncapture: off\nkl_warmup: 7\nreg_weight: ~\n")
    recipe = load_recipe(path)
    expected = override(get_recipe("vae"), lr_g=1e-4, capture="off", kl_warmup=7)
    assert recipe == expected
    toml = 'recipe = "vae"\nlr_g = 1e-4\ncapture = "off"\nkl_warmup = 7'
    assert load_recipe(written(tmp_path, toml, "run.toml")) == expected


BAD = {
    "unknown": ("recipe: digits\nstep: 5", r"unknown key 'step'; did you mean 'steps'"),
    "type": ("recipe: digits\nsteps: many", r"field steps must be a whole number .*got 'many'"),
    "flag": ("recipe: digits\nflip: maybe", r"field flip must be true or false, got 'maybe'"),
    "range": ("recipe: digits\nsteps: 0", r"steps must be at least 1, got 0"),
    "choice": ("recipe: digits\nresize: shrink", r"field resize must be one of center-crop"),
    "objective": ("recipe: digits\nkl_weight: 2", r"kl_weight belongs to the objective vae or vae"),
    "out": ("recipe: digits\nout: runs/x", r"out is said on the command line"),
    "recipe": ("recipe: digit", r"unknown recipe 'digit'; did you mean 'digits'"),
    "none": ("steps: 5", r"key recipe must name a recipe, got None"),
    "twice": ("recipe: digits\nsteps: 5\nsteps: 6", r"key steps stands twice"),
    "list": ("- recipe: digits", r"expected settings by name, got list"),
    "broken": ("recipe: [digits", r"expected"),
    "python": ("recipe: !!python/object/apply:os.getcwd []", r"could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_mistakes_are_told_with_file_and_key(text, message, tmp_path, capsys):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as raised:
        load_recipe(path)
    assert str(raised.value).startswith(str(path))
    assert main(["train", "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_suffix_and_another_recipe_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"run.ini: a configuration file is .yaml"):
        load_recipe(written(tmp_path, "", "run.ini"))
    with pytest.raises(ValueError, match=r"is of recipe 'vae', and 'digits' was asked for"):
        load_recipe(written(tmp_path, "recipe: vae"), get_recipe("digits"))


def test_flags_override_a_file_and_a_runs_own_description_is_one(tmp_path, capsys):
    path = written(tmp_path, "recipe: mlp-gan\nseed: 5\nlr_g: 3e-4\nsteps: 9\n")
    out = tmp_path / "run"
    assert main(["train", "--config", str(path), f"--out={out}", *SHORT]) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["recipe"] == "mlp-gan"
    assert [run["config"][k] for k in ("seed", "lr_g", "steps")] == [5, 3e-4, 1]
    again = load_recipe(out / "run.json")
    assert (again.train.seed, again.train.lr_g, again.data.limit) == (5, 3e-4, 16)
    # A resume is held to the file as to flags.
    assert (
        main(["train", f"--config={out / 'run.json'}", f"--out={out}", "--resume", "--steps=2"])
        == 0
    )
    other = written(tmp_path, "recipe: mlp-gan\nseed: 6\n", "other.yaml")
    line = ["train", "mlp-gan", f"--config={other}", f"--out={out}", "--resume", "--steps=3"]
    assert main(line) == 2
    assert "seed: 5 in the checkpoint, 6 now" in capsys.readouterr().err


def test_a_run_of_before_objectives_had_their_own_settings_goes_on(tmp_path, capsys):
    out = tmp_path / "run"
    line = ["train", "vae", f"--out={out}", *SHORT, "--kl-weight=2", "--objective=vae"]
    assert main(line) == 0
    paths = [out / "run.json", *out.glob("checkpoints/*/checkpoint.json")]
    for path in paths:
        facts = json.loads(path.read_text())
        facts["config"] |= {"feature_weight": 1e-3, "update_rule": "alternating"}
        facts["config"] |= facts.pop("objective")
        facts.pop("sha256", None)
        facts |= {"format": 1} if "format" in facts else {}
        path.write_text(json.dumps(facts))
    assert load_recipe(out / "run.json").objective.kl_weight == 2
    assert main(["train", "vae", f"--out={out}", "--resume", "--steps=2"]) == 0
    line = ["train", "vae", f"--out={out}", "--resume", "--steps=3", "--kl-weight=3"]
    assert main(line) == 2
    assert "kl_weight: 2" in capsys.readouterr().err


def test_the_schema_that_ships_is_that_of_the_settings(capsys):
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema(), (
        "fastgan config --schema > fastgan/recipes/run.schema.json"
    )
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert schema()["properties"]["steps"]["minimum"] == 1
    assert set(schema()["properties"]["objective"]["enum"]) >= {"gan", "vae"}


def test_every_setting_says_what_it_does():
    for recipe in list_recipes():
        for section in (recipe.data, recipe.train, recipe.start, recipe.objective):
            assert field_docs(type(section)).keys() == vars(section).keys()


def test_the_command_prints_a_file(tmp_path, capsys):
    assert main(["config", "vae", "--format=toml"]) == 0
    path = written(tmp_path, capsys.readouterr().out, "run.toml")
    assert load_recipe(path) == get_recipe("vae")

"""docs/recipes.md shows what docs/recipes.json holds, and all of it."""

from __future__ import annotations

import json

from fastgan.recipes import list_recipes
from tools.recipe_report import page
from tools.recipe_report.__main__ import CHECKS

RESULTS = json.loads(page.RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_results():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renew(text, RESULTS) == text


def test_the_pages_of_applications_are_too():
    for name, found in RESULTS.items():
        if (table := page.table_of(found)) is not None:
            text = (page.APPLICATIONS / f"{name}.md").read_text(encoding="utf-8")
            assert page.renew_table(text, table) == text


def test_every_result_has_its_picture():
    pictured = {name for name, found in RESULTS.items() if "samples" not in found}
    assert {p.stem for p in page.PICTURES.glob("*.png")} >= pictured


def test_results_are_of_the_settings_that_are_trained():
    checks = {check.recipe: check for check in CHECKS}
    assert checks.keys() <= {recipe.name for recipe in list_recipes()}
    for name, found in RESULTS.items():
        assert found["flags"] == list(checks[name].flags), name
        assert found.get("before", {}).get("flags", []) == list(checks[name].before), name
        assert found["goals"].keys() == dict(checks[name].goals).keys(), name

"""docs/recipes.md shows what docs/recipes.json holds, and all of it."""

from __future__ import annotations

import json

from fastgan.recipes import list_recipes
from tools.recipe_report import page
from tools.recipe_report.__main__ import CHECKS

FOUND = {"steps": 9, "batch_size": 4, "minutes": 6, "threads": 1, "setting": {"reals": 377}}
RESULTS = json.loads(page.RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_results():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renew(text, RESULTS) == text


def test_the_pages_of_applications_are_too():
    for name, found in RESULTS.items():
        if (path := page.application(name)).exists():
            text = path.read_text(encoding="utf-8")
            assert page.table_of(found) in text, name
            assert page.renew_table(text, name, found) == text, name


def test_every_result_has_its_picture():
    pictured = {name for name, found in RESULTS.items() if "samples" not in found}
    assert {p.stem for p in page.PICTURES.glob("*.png")} >= pictured


def test_results_are_of_the_settings_that_are_trained():
    checks = {check.recipe: check for check in CHECKS}
    assert checks.keys() <= {recipe.name for recipe in list_recipes()}
    for name, found in RESULTS.items():
        assert found["flags"] == list(checks[name].flags), name
        before = found.get("before", {})
        assert before.get("flags", []) == list(checks[name].before), name
        assert before.get("recipe", "") == checks[name].before_of, name
        asked = dict(checks[name].goals) | dict(checks[name].limits)
        assert {n: g.get("least", g.get("most")) for n, g in found["goals"].items()} == asked, name


def test_scores_stand_beside_those_that_they_are_compared_with():
    scores = {"kl2": 0.5, "kl2_floor": 0.25, "copied": 0.0, "kl2_in_order": 1234.0}
    table = page.table_of({**FOUND, "before": {"steps": 1000}, "threads": 2, "scores": scores})
    assert table.splitlines() == [
        "After 1,000 + 9 updates of batch 4, 6 minutes of 2 CPU threads:",
        "",
        "|  | generated | `_floor` | `_in_order` |",
        "| --- | --- | --- | --- |",
        "| `kl2` | 0.5 | 0.25 | 1234 |",
        "| `copied` | 0 |  |  |",
    ]


def test_a_training_that_starts_from_another_recipes_is_told_as_two_commands():
    before = {"steps": 5, "flags": ["--lr-g", "1e-3"], "recipe": "super-resolution"}
    found = {"data": "photos", "flags": ["--held-out", "0.1"], "before": before, "goals": {}}
    text = page.render({"srgan": {**FOUND, **found, "scores": {"psnr": 20.0}}})
    shared, out = "--data photos --steps", "runs/srgan-before"
    start = f"--init-from {out} --init-networks generator"
    assert [line.strip() for line in text.splitlines() if "fastgan train" in line] == [
        f"fastgan train super-resolution {shared} 5 --held-out 0.1 --lr-g 1e-3 --out {out}",
        f"fastgan train srgan {shared} 9 --held-out 0.1 {start}",
    ]


def test_a_style_is_told_beside_the_image_and_the_picture():
    kinds = {"content": 0.05, "style": 0.2}
    ways = {"": 1, "_unchanged": 2, "_picture": 3}
    scores = {f"{kind}{way}": n * v for kind, v in kinds.items() for way, n in ways.items()}
    table = page.table_of({**FOUND, "scores": scores})
    assert "After 9 updates of batch 4, 6 minutes of one CPU thread, 377 held-out" in table
    assert "| the image as it is | 0.1000 | 0.4000 |" in table
    assert "| the picture | 0.1500 | 0.6000 |" in table


def test_goals_stand_beside_what_was_reached():
    kid, recall = {"most": 0.05, "reached": False}, {"least": 0.2, "reached": True}
    found = FOUND | {
        "scores": {"kid": 0.06, "recall": 0.25, "precision": 0.5},
        "goals": {"kid": kid, "recall": recall},
        "setting": {"fakes": 900, "reals": 377},
    }
    assert page.table_of(found).splitlines() == [
        "After 9 updates of batch 4, 6 minutes of one CPU thread, 900 samples against 377 images:",
        "",
        "|  | reached | goal |",
        "| --- | --- | --- |",
        "| `kid` | 0.06 | ≤ 0.05: missed |",
        "| `recall` | 0.25 | ≥ 0.2 |",
        "| `precision` | 0.5 |  |",
    ]

"""The README shows what is committed, and is short."""

from __future__ import annotations

from PIL import Image, ImageChops

from bench.harness.page import committed
from tools import readme


def test_the_readme_is_made_from_the_results():
    text = readme.README.read_text(encoding="utf-8")
    assert readme.made(text) == text, "make readme"
    assert len(text.splitlines()) < 130
    assert "<!-- made: measured -->\n\n| times as fast" in text


def test_a_machine_that_timed_neither_benchmark_has_no_column():
    runs = committed()
    other = runs[0]._replace(folder="another-machine", module="quality")
    assert readme.measured([*runs, other]) == readme.measured(runs)


def test_the_picture_is_cut_from_the_recipes_samples():
    with Image.open(readme.PICTURE) as picture:
        found = picture.convert("RGB")
    assert ImageChops.difference(found, readme.picture()).getbbox() is None, "make readme"
    assert found.getextrema()[0] == (0, 255)

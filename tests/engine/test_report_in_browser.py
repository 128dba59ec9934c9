"""Reports in a real browser: on a phone and on a desk, light and dark, and by keys alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CUT, DESKTOP, PALE, PHONE, WIDER, Page, started

from fastgan.cli import main
from fastgan.engine.report import write_report

from .test_report import fid, folder, line

# Texts of a chart that reach out of it.
OUTSIDE = """[...document.querySelectorAll("svg text")].filter((t) => {
  const own = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
  return own.left < all.left - 0.5 || own.right > all.right + 0.5;
}).map((t) => t.textContent)"""
# Words of a table that are broken within.
BROKEN = """[...document.querySelectorAll(".cells td, .cells th")].filter((cell) => {
  const text = cell.firstChild;
  return text && [...text.data.matchAll(/[^\\s/]+/g)].some((word) => {
    const range = document.createRange();
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    return word[0].length < 12 && range.getClientRects().length > 1;
  });
}).map((cell) => cell.textContent)"""
FOCUS = "document.activeElement.tagName"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser.page()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and a comparison that have every part, with long names and small numbers."""
    top = tmp_path_factory.mktemp("runs")
    seen = {"grad_g": 3e-5, "grad_d": 2e-5, "copied": 0.0, "memory": 2.5e9}
    lines = [line(step, **seen) for step in range(1000, 12001, 1000)]
    told = ["the samples of step 9 are alike. A lower lr_g may help"]
    load = {"data": "/a/path/" + "without-any-blank" * 6}
    one = folder(top / "one", lines, {4000: fid(123.4), 8000: fid(223.4)}, warnings=told, load=load)
    two = folder(top / "of my garden, in the summer", lines[:4], {4000: fid(63.4)}, grids=(30,))
    both = top / "both.html"
    assert main(["compare", str(one), str(two), "-o", str(both)]) == 0
    return {"report": write_report(one), "comparison": both}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_it_is_read_on_a_phone_and_a_desk_light_and_dark(page, pages, name, size, scheme):
    page.show(pages[name], size, scheme)
    for details in range(page.value("document.querySelectorAll('details').length")):
        page.value(f"document.querySelectorAll('details')[{details}].open = true")
    for fault in (WIDER, PALE, CUT, OUTSIDE, BROKEN):
        assert page.value(fault) == []
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert (int(ground[4:].split(",")[0]) < 128) is (scheme == "dark")
    assert (page.errors, page.asked) == ([], [])


def test_keys_alone_move_through_it(page, pages):
    page.show(pages["report"], DESKTOP, "light")
    page.press("Tab")
    assert page.value(FOCUS) == "INPUT"
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    shown = "document.querySelector('.scrub img:not([hidden])').alt"
    told = "document.activeElement.getAttribute('aria-valuetext')"
    assert page.value(shown).endswith("step 20")
    for key, step in (("ArrowLeft", 10), ("ArrowRight", 20), ("Home", 10), ("End", 20)):
        page.press(key)
        assert page.value(shown).endswith(f"step {step}")
        assert page.value(told) == f"step {step}"
    page.press("Tab")
    assert page.value(FOCUS) == "SUMMARY"
    opened = page.value("document.activeElement.parentElement.open")
    page.press("Enter")
    assert page.value("document.activeElement.parentElement.open") is not opened

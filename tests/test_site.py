"""The site of the documentation builds without a warning, broken links and anchors among them, and
is read in a real browser, on a phone and a desk, in light and dark."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CUT, DESKTOP, PALE, PHONE, WIDER, Page, started

ROOT = Path(__file__).resolve().parent.parent


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the site needs pip install 'fastgan[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    out, heard = tmp_path_factory.mktemp("site"), Heard()
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=False)
    config.plugins.pop("material/search")  # a sixth of the time
    logging.getLogger("mkdocs").addHandler(heard)
    try:
        build(config)
    finally:
        logging.getLogger("mkdocs").removeHandler(heard)
    return out, heard.texts


def test_it_builds_without_a_warning(site):
    assert site[1] == []


def test_it_has_the_docstrings_and_the_files_that_pages_link_to(site):
    out, _ = site
    assert "conv_transpose_norm_act" in (out / "api" / "ops.html").read_text(encoding="utf-8")
    layers = (out / "api" / "nn.html").read_text(encoding="utf-8")
    assert "num_features" in layers  # a class comes with its arguments
    assert "<blockquote>" not in layers  # and an example as code
    assert (out / "source" / "CONTRIBUTING.html").is_file()
    assert "source/examples/own_loop.py.html" in (out / "training.html").read_text(encoding="utf-8")
    assert "gan_step" in (out / "source/examples/own_loop.py.html").read_text(encoding="utf-8")
    assert (out / "source/bench/reports/kernels.json").is_file()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser.page()


def test_no_page_is_wider_than_a_phone(site, page):
    for path in sorted(site[0].rglob("*.html")):
        page.show(path, PHONE, "light")
        assert [path.name, page.value(WIDER), page.value(CUT)] == [path.name, [], []]
    assert (page.errors, page.asked) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["quickstart", "fuse", "cli", "api/nn", "internals/fusion"])
def test_pages_are_read_in_light_and_dark(site, page, name, scheme):
    page.show(site[0] / f"{name}.html", DESKTOP, scheme)
    assert page.value(PALE) == []
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert (int(ground[4:].split(",")[0]) < 128) is (scheme == "dark")

"""Hooks of mkdocs: files outside of docs/ that a page links to become part of the site.

In the repository `../examples/own_loop.py` leads to the file; on the site it leads to a page that
shows it. Examples in docstrings, lines that begin with >>>, are shown as code.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)(?=(?:#[^)\s]*)?\))")
OUTSIDE = "source/"
EXAMPLE = re.compile(r"^>>> .*(?:\n(?:>>>|\.\.\.) ?.*)*", re.MULTILINE)


class Examples(Extension):
    """Fences the examples in docstrings, which Markdown would take for quotations."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"```python\n\g<0>\n```", obj.docstring.value)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of the files outside of docs/, and of those that these link to."""
    found = list(files.documentation_pages())
    for page in found:  # which grows
        for target in LINK.findall(page.content_string):
            path = _in_repository(page.src_uri, target)
            uri = _page_of(path)
            if not uri.startswith(OUTSIDE) or files.get_file_from_path(uri):
                continue
            if not uri.endswith(".md"):
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
                continue
            file = File.generated(config, uri, content=_shown(ROOT / path))
            files.append(file)
            found.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links lead to these pages."""
    here = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        uri = _page_of(_in_repository(here, match[1]))
        outside = uri.startswith(OUTSIDE) or here.startswith(OUTSIDE)
        return posixpath.relpath(uri, posixpath.dirname(here)) if outside else match[1]

    return LINK.sub(led, markdown)


def _in_repository(page: str, target: str) -> str:
    """The path of a link's target, from the repository's root."""
    at = page.removeprefix(OUTSIDE) if page.startswith(OUTSIDE) else f"docs/{page}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(at), target))


def _page_of(path: str) -> str:
    """Where the site shows a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return OUTSIDE + (f"{path}.md" if path.endswith(".py") else path)


def _shown(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    return text if file.suffix == ".md" else f"# {file.name}\n\n```python\n{text}\n```\n"

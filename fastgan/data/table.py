"""dataset.json, in which StyleGAN's tools keep the labels of a set beside its images.

Format: {"labels": [["00000/img00000000.png", 6], ...]}, names relative to the file's own folder, or
{"labels": null}. The folders of such a set are chunks of a thousand images, not classes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

from fastgan.data.dataset import MAX_LABEL
from fastgan.data.files import read_up_to
from fastgan.data.source import DataError

TABLE = "dataset.json"
MAX_TABLE_BYTES = 512 * 1024**2


def by_table(
    stream: BinaryIO, names: Sequence[str], where: str
) -> tuple[list[int] | None, None] | None:
    """Return the labels of the files `names` and None for their names, as `by_folder` does.

    None in place of both where the file is another tool's; of that, and of vectors in place of
    classes, a warning tells.

    Raises:
        DataError: it is too large, no JSON, or has no label or another than a class for a file.
    """
    content = read_up_to(stream, MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise DataError(f"{where}: more than {MAX_TABLE_BYTES} bytes: refused")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no JSON, so the labels cannot be read: {error}") from error
    rows = found.get("labels", 0) if isinstance(found, dict) else 0
    if rows is None:
        return None, None
    if not isinstance(rows, list):
        warnings.warn(
            f"{where} is not StyleGAN's (it has no list of labels): ignored", stacklevel=2
        )
        return None
    table = _table(rows, where)
    if names and all(isinstance(table.get(name), list) for name in names):
        warnings.warn(
            f"{where}: its labels are vectors, not classes: the set has no labels", stacklevel=2
        )
        return None, None
    missing = [name for name in names if name not in table]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{where}: no label for {missing[0]!r}{more}: expected one for each image")
    return [_class(table[name], name, where) for name in names], None


def _table(rows: list[Any], where: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str):
            raise DataError(f"{where}: expected pairs [name, label], got {repr(row)[:99]}")
        name, label = row
        if table.setdefault(name, label) != label:
            raise DataError(f"{where}: {name!r} has two labels, {table[name]} and {label}")
    return table


def _class(label: Any, name: str, where: str) -> int:
    if type(label) is int and 0 <= label <= MAX_LABEL:
        return label
    raise DataError(
        f"{where}: the label of {name!r} must be a whole number from 0 to {MAX_LABEL}, "
        f"got {repr(label)[:99]}"
    )

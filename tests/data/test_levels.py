"""Sokoban levels as one-hot maps."""

from __future__ import annotations

import re

import pytest
import torch

from fastgan.data import DataError, open_levels
from fastgan.data.levels import TILES, level_text, one_hot

LEVEL = "  ####\n###  #\n#@$ .#\n######"
CLOSED = "######\n###  #\n#@$ .#\n######"


def written(folder, text: str, name: str = "a.sok"):
    path = folder / name
    path.write_bytes(text.encode("latin-1"))
    return path


def test_a_level_comes_back_in_all_its_forms(tmp_path):
    path = written(tmp_path, f"Title: \xe9\n\n{LEVEL}\nAuthor: somebody\n")
    data = open_levels(str(path), 8)
    assert data.shape == (8, 7, 8, 8)
    assert (data.images.sum(1) == 1).all()
    texts = [level_text(tiles) for tiles in data.images.argmax(1)]
    # What lies outside of the walls is wall, and a wall around it is cut off again.
    assert texts[0] == CLOSED
    assert texts[1] == "\n".join(row[::-1] for row in CLOSED.split("\n"))
    assert len(set(texts)) == 8
    assert len({level_text(t) for t in open_levels(str(path), (8, 6)).images.argmax(1)}) == 4


def test_files_of_a_folder_come_in_order_and_large_levels_are_told(tmp_path):
    written(tmp_path, "#####\n#@$.#\n#####", "b.txt")
    written(tmp_path, "######\n#@-$.#\n######\n\n#######\n#@  $.#\n#######", "a.sok")
    written(tmp_path, "no levels at all", "c.md")
    data = open_levels(str(tmp_path), (3, 6))
    assert data.name == f"{tmp_path} without 1 larger than 3x6"
    first = [level_text(tiles) for tiles in data.images.argmax(1)]
    assert [first[0], first[4]] == ["######\n#@ $.#\n######", "#####\n#@$.#\n#####"]
    assert open_levels(str(tmp_path), 8, limit=1).shape[0] == 8


def test_those_that_ship_are_whole():
    data = open_levels("sokoban")
    assert data.shape == (8 * 173, 7, 16, 16)
    counts = data.images[:, 5:].sum((1, 2, 3))
    assert (counts == 1).all()  # players


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#####\n#@?.#\n#####", r"a.sok, line 2: unknown tile '\?': a level is made of '#'"),
        ("#####\n#@$.\n#####", r"a.sok, line 1: the level is open"),
        ("nothing", r"no levels: rows of tiles begin with a wall"),
        ("", r"no levels"),
        ("#" * 20, r"none of its 1 levels fits into 8x8"),
    ],
)
def test_what_is_no_level_is_told(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        open_levels(str(written(tmp_path, text)), 8)


def test_a_place_without_levels_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the ones that ship are 'sokoban'"):
        open_levels(str(tmp_path / "none"))


def test_text_of_walls_alone_is_one_wall():
    assert level_text(torch.zeros(4, 4, dtype=torch.int64)) == "##\n##"
    assert re.fullmatch(r"[#\n]+", level_text(torch.zeros(2, 2)))
    assert one_hot(torch.arange(len(TILES)).view(1, 1, -1))[0, :, 0].equal(
        torch.eye(len(TILES), dtype=torch.uint8)
    )

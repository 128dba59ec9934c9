"""Whether a level can be played, against levels whose answer is known."""

from __future__ import annotations

import pytest

from fastgan.metrics import playable

CASES = {
    "one push": ("#####\n#@$.#\n#####", "solved"),
    "round the box": ("######\n#.$@ #\n#    #\n######", "solved"),
    "two boxes": ("#######\n#.$ $.#\n#  @  #\n#######", "solved"),
    "one is there": ("#######\n#*  @ #\n# $ . #\n#     #\n#######", "solved"),
    "in a corner": ("######\n#$  .#\n#  @ #\n######", "unsolvable"),
    "behind the box": ("########\n#@ # $.#\n########", "unsolvable"),
    "along a wall": ("######\n# $@ #\n#  . #\n######", "unsolvable"),
    "no room to turn": ("#######\n#. $@ #\n#######", "solved"),
    "done": ("#####\n#@ *#\n#####", "broken"),
    "no player": ("#####\n# $.#\n#####", "broken"),
    "two players": ("######\n#@$.@#\n######", "broken"),
    "a goal too many": ("######\n#@$..#\n######", "broken"),
    "no box": ("####\n#@ #\n####", "broken"),
    "walls": ("####\n####", "broken"),
}


@pytest.mark.parametrize(("text", "outcome"), CASES.values(), ids=CASES.keys())
def test_outcomes(text, outcome):
    assert playable(text.split("\n")) == outcome


def test_a_search_ends_at_its_limit():
    text = ["########", "#@     #", "# $$$  #", "#   ...#", "#      #", "########"]
    assert playable(text) == "solved"
    assert playable(text, states=3) == "unknown"


def test_what_lies_outside_is_wall():
    assert playable(["@$."]) == "solved"
    assert playable(["@ $"]) == "broken"

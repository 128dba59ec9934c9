"""Can a Sokoban level be played? Its rules, and a search for a solution."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Literal

Outcome = Literal["solved", "unsolvable", "unknown", "broken"]
"""solved, a solution was found; unsolvable, there is none; unknown, the search met its limit;
broken, it is no level: not one player, no box, other numbers of boxes and goals, or done."""
Cell = tuple[int, int]
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def playable(rows: Sequence[str], states: int = 20_000) -> Outcome:
    """What a best-first search of so many states finds, of a level of rows of `# $.*@+`.

    A state is where the boxes are and what the player can reach; the next one is taken by the
    pushes that the boxes need to their nearest goals, at least, and those made. Boxes are not
    pushed to where no goal can be reached from. What lies outside of the rows is wall.
    """
    cells = {(y, x): tile for y, row in enumerate(rows) for x, tile in enumerate(row)}
    players = [at for at, tile in cells.items() if tile in "@+"]
    boxes = frozenset(at for at, tile in cells.items() if tile in "$*")
    goals = frozenset(at for at, tile in cells.items() if tile in ".*+")
    if len(players) != 1 or not boxes or len(boxes) != len(goals) or boxes == goals:
        return "broken"
    free = {at for at, tile in cells.items() if tile != "#"}
    pushes = _pushes_to_goal(free, goals)
    if not boxes <= pushes.keys():
        return "unsolvable"
    reach = _reach(free - boxes, players[0])
    queue: list[tuple[int, int, int, frozenset[Cell], set[Cell]]] = [(0, 0, 0, boxes, reach)]
    seen = {(boxes, min(reach))}
    while queue:
        _, _, made, boxes, reach = heappop(queue)
        for box in boxes:
            for dy, dx in _STEPS:
                to = box[0] + dy, box[1] + dx
                if (box[0] - dy, box[1] - dx) not in reach or to not in pushes or to in boxes:
                    continue
                moved = boxes - {box} | {to}
                if moved == goals:
                    return "solved"
                around = _reach(free - moved, box)
                state = moved, min(around)
                if state in seen:
                    continue
                if len(seen) >= states:
                    return "unknown"
                seen.add(state)
                least = sum(pushes[at] for at in moved)
                # The count breaks ties, so that sets are not compared.
                heappush(queue, (2 * least + made + 1, len(seen), made + 1, moved, around))
    return "unsolvable"


def _reach(free: set[Cell], start: Cell) -> set[Cell]:
    """The cells of `free` that a walk from `start` reaches."""
    found, edge = {start}, [start]
    while edge:
        y, x = edge.pop()
        for dy, dx in _STEPS:
            at = y + dy, x + dx
            if at in free and at not in found:
                found.add(at)
                edge.append(at)
    return found


def _pushes_to_goal(free: set[Cell], goals: frozenset[Cell]) -> dict[Cell, int]:
    """The pushes that bring a single box from a cell to its nearest goal, where any do."""
    found, edge = dict.fromkeys(goals, 0), sorted(goals)
    for y, x in edge:  # grows as it is walked: breadth first, backwards
        for dy, dx in _STEPS:
            box, player = (y - dy, x - dx), (y - 2 * dy, x - 2 * dx)
            if box in free and player in free and box not in found:
                found[box] = found[y, x] + 1
                edge.append(box)
    return found

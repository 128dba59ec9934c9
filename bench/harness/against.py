"""This tree against another commit: python -m bench.harness.against [COMMIT], by default main.

The commit is checked out and built in a temporary work tree. Two processes, one on each tree's
`fastgan` and both on this tree's cases, then take turns case by case and round by round, so that
the ratio of their times is taken within seconds. The process that waits does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.harness.machine import ROOT
from bench.paired import geometric_mean, interleave, own_clock, ratio_interval

ROUNDS, CALLS = 15, 3


def serve(tree: Path) -> None:
    """Answer requests {"case": name} on stdin with the seconds of our implementation."""
    # `fastgan` of the tree that is asked for, `bench` of this one.
    sys.path.insert(0, str(tree))
    import fastgan

    sys.path.remove(str(tree))
    assert fastgan.__file__ is not None
    assert Path(fastgan.__file__).parent.parent == tree, fastgan.__file__
    import torch

    from bench.harness.history import CASES, own_runner
    from bench.paired import host_clock

    torch.set_num_threads(1)
    runners = {name: own_runner(name) for name in CASES}
    turn = 0
    for line in sys.stdin:
        name = json.loads(line)["case"]
        times = []
        for _ in range(CALLS):
            times.append(host_clock(runners[name].ready(turn)))
            turn += 1
        print(json.dumps(min(times)), flush=True)


class Server:
    """A process that times our implementations on one tree."""

    def __init__(self, tree: Path) -> None:
        command = [sys.executable, "-m", "bench.harness.against", "--serve", str(tree)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, case: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"case": case}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{case}: the process on the other tree ended")
        return float(json.loads(answer))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A commit's tree, built. RuntimeError where git or the build fails."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        _run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), commit])
        try:
            _run([sys.executable, "setup.py", "-q", "build_native", "--inplace"], tree)
            yield tree
        finally:
            _run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)])


def _run(command: list[str], folder: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def compare(tree: Path, rounds: int = ROUNDS) -> dict[str, tuple[float, float, float]]:
    """The other tree's time over this one's, with its interval, by case."""
    from bench.harness.history import CASES

    servers = {"this": Server(ROOT), "other": Server(tree)}
    found = {}
    try:
        for case in CASES:
            runs: dict[str, Callable[[], object]] = {
                name: partial(server.seconds, case) for name, server in servers.items()
            }
            times = interleave(runs, rounds, warm_up=1, clock=own_clock)
            found[case] = tuple(ratio_interval(times["other"], times["this"]))
    finally:
        for server in servers.values():
            server.close()
    return found  # type: ignore[return-value]


def main() -> int:
    parser = argparse.ArgumentParser(prog="fastgan bench --against-main")
    parser.add_argument("commit", nargs="?", default="main")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve is not None:
        serve(chosen.serve)
        return 0
    try:
        with checked_out(chosen.commit) as tree:
            found = compare(tree)
    except RuntimeError as error:
        print(f"fastgan bench: error: {error}", file=sys.stderr)
        return 2
    for case, (value, low, high) in found.items():
        print(f"{case:22} {value:.2f}× the speed of {chosen.commit} [{low:.2f}, {high:.2f}]")
    mean = geometric_mean(value for value, _, _ in found.values())
    print(f"geometric mean {mean:.2f}×; one thread")
    return 0


if __name__ == "__main__":
    sys.exit(main())

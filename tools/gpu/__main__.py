"""The command line of `make gpu`: chooses the stages, shares out the time, tells how each went."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.harness.source import source_hash

from . import __doc__ as summary
from .stage import NOT_BEGUN, ROOT, SKIPPED, STAGE_SECONDS, Stage, in_words
from .stages import STAGES, why_not

WORTH_BEGINNING = 20.0  # seconds: with less, a stage is left for the next call
TAKE_MORE = ("test", "bench", "sweep")


@dataclass
class Plan:
    """What a call is to do: which stages, where to, and how long."""

    names: list[str]
    results: Path
    more: list[str]
    stage_seconds: float = STAGE_SECONDS
    ends: float = float("inf")  # of time.monotonic()
    go_on: bool = False


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    chosen = _parser().parse_args(given[:split])
    if unknown := [name for name in chosen.stages if name not in STAGES]:
        _parser().error(f"unknown stage {unknown[0]!r}: there are {', '.join(STAGES)}")
    for option in ("seconds", "stage_seconds"):
        value = getattr(chosen, option)
        if value is not None and not value > 0:
            name = option.replace("_", "-")
            _parser().error(f"--{name} must be a number of seconds above 0, got {value:g}")
    if (reason := why_not()) is not None:
        print(reason)
        return 1
    results = (chosen.results or ROOT / "bench" / "results" / gpu_slug()).resolve()
    results.mkdir(parents=True, exist_ok=True)
    names = chosen.stages or list(STAGES)
    plan = Plan(names, results, given[split + 1 :], chosen.stage_seconds, go_on=chosen.go_on)
    if chosen.seconds is not None:
        plan.ends = time.monotonic() + chosen.seconds
    return run_stages(plan)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.gpu",
        description=(summary or "").partition("\n")[0],
        epilog="After `--`: further arguments for pytest, in the stages test, bench and sweep.",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    folder = "read with --continue, and written; default: bench/results/GPU"
    parser.add_argument("--results", type=Path, metavar="DIR", help=folder)
    limit = "of this call; what does not fit is left for one with --continue"
    parser.add_argument("--seconds", type=float, help=limit)
    parser.add_argument(
        "--stage-seconds",
        type=float,
        default=STAGE_SECONDS,
        help="of a stage; default: %(default)g",
    )
    keep = "leave out what passed on the same code, as the folder of results tells"
    parser.add_argument("--continue", dest="go_on", action="store_true", help=keep)
    return parser


def run_stages(plan: Plan) -> int:
    """Every stage, whatever becomes of the ones before; 1 if any failed or is left."""
    rows: dict[str, tuple[int, float]] = {}
    for name in plan.names:
        left = plan.ends - time.monotonic()
        if plan.go_on and passed_before(plan.results, name):
            print(f"== {name}: passed on this code", flush=True)
            continue
        if left < min(WORTH_BEGINNING, plan.stage_seconds):
            rows[name] = NOT_BEGUN, 0.0
            continue
        print(f"== {name}", flush=True)
        started = time.monotonic()
        ends = started + min(plan.stage_seconds, left)
        more = plan.more if name in TAKE_MORE else []
        stage = Stage(name, plan.results, more, ends, plan.go_on)
        if not plan.go_on:
            stage.log.unlink(missing_ok=True)
        try:
            code = STAGES[name].run(stage)
        except Exception as error:  # whatever it is, the next stage is told of and run
            stage.say(f"{type(error).__name__}: {error}")
            code = 1
        rows[name] = code, time.monotonic() - started
        _keep(plan, name, *rows[name])
    print("\nstage        status       seconds")
    for name, (code, seconds) in rows.items():
        print(f"{name:12} {in_words(code):12} {seconds:7.1f}")
    done = all(code in (0, SKIPPED) for code, _ in rows.values())
    if not done:
        print(f"to go on: python3 -m tools.gpu --continue --results {plan.results}")
    return int(not done)


def passed_before(results: Path, name: str) -> bool:
    """Whether a stage went well in an earlier call, on the code that is here."""
    of = STAGES[name].of
    row = _known(results).get(name, {})
    return bool(of) and row.get("status") == "ok" and row.get("source") == source_hash(of)


def gpu_slug() -> str:
    import torch

    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def _known(results: Path) -> dict[str, dict[str, object]]:
    path = results / "stages.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _keep(plan: Plan, name: str, code: int, seconds: float) -> None:
    """How a stage went, beside the results; those that did not run now keep their line."""
    row: dict[str, object] = {"status": in_words(code), "seconds": round(seconds, 1)}
    if plan.more:
        row["arguments"] = plan.more  # a part of the tests says nothing of the whole
        row["status"] = f"{row['status']}, of a part" if name in TAKE_MORE else row["status"]
    row["source"] = source_hash(STAGES[name].of)
    known = _known(plan.results) | {name: row}
    ordered = {stage: known[stage] for stage in STAGES if stage in known}
    (plan.results / "stages.json").write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())

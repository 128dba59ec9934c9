"""``python -m tools.kernel_report [--check] [--all] [--only PATTERN] [--targets sm_90,...]``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

from . import beside, compare, digests

PARTS = ("triton", "cuda")
REPORT = Path(__file__).resolve().parents[2] / "bench" / "reports" / "kernels.json"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.kernel_report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare; write nothing")
    parser.add_argument("--all", action="store_true", help="compile what the digests know, too")
    parser.add_argument("--only", default="", metavar="PATTERN", help="kernels to compile (regex)")
    parser.add_argument("--targets", default="", help="comma-separated, such as sm_90,gfx942")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: triton, cuda")
    parser.add_argument("--report", type=Path, default=REPORT, help="the JSON file")
    told = "another report, of another compiler: the page holds both side by side"
    parser.add_argument("--beside", type=Path, metavar="REPORT", help=told)
    options = parser.parse_args(arguments)
    select = compare.Select(options.only, tuple(filter(None, options.targets.split(","))))
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: unknown {unknown}, expected some of {list(PARTS)}")
    committed = compare.load(options.report)
    made = collect(names, committed, select, options.all)
    fresh = {name: part.section for name, part in made.items()}
    if options.check:
        return check(committed, made, select)
    report = committed | {
        name: compare.merged(committed.get(name), section, select)
        for name, section in fresh.items()
    }
    other = compare.load(options.beside) if options.beside else {}
    page = "\n".join(beside.page(report[n], other[n]) for n in report if n in other) or None
    compare.write(options.report, report, page)
    return exit_code([line for part in fresh.values() for line in compare.unfit(part.rows)])


def collect(
    names: list[str], committed: dict[str, compare.Section], select: compare.Select, every: bool
) -> dict[str, digests.Made]:
    """What the parts that can compile on this machine made; says so of those that cannot."""
    made = {}
    for name in names:
        module = f"{__package__}.{name}_part"
        if importlib.util.find_spec(module) is None:
            continue
        part = importlib.import_module(module)
        if reason := part.unavailable():
            print(f"{name}: not compiled: {reason}")
            continue
        made[name] = digests.collect(part, committed.get(name), select, every)
        print(f"{name}: {made[name]}")
    return made


def check(
    committed: dict[str, compare.Section],
    made: dict[str, digests.Made],
    select: compare.Select,
) -> int:
    problems = []
    for name, (section, stale, *_) in made.items():
        problems += compare.unfit(section.rows)
        if not section.rows:
            problems.append(f"{name}: nothing was compiled: no kernel matches")
        elif name not in committed:
            problems.append(f"{name}: not in the report; run make kernel-report")
        elif committed[name].toolchain != section.toolchain:
            print(
                f"{name}: not compared: the report is of {committed[name].toolchain}, "
                f"this is {section.toolchain}; spills and limits were checked"
            )
        else:
            problems += compare.differences(committed[name], section, select)
            if stale:
                print(f"{name}: make kernel-report, committed, spares the next check those {stale}")
    if not made:
        problems.append("nothing was compiled")
    return exit_code(problems)


def exit_code(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problems in the kernel report", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

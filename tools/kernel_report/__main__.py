"""``python -m tools.kernel_report [--check] [--only PATTERN] [--targets sm_90,...]``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

from . import compare

PARTS = ("triton", "cuda")
REPORT = Path(__file__).resolve().parents[2] / "bench" / "reports" / "kernels.json"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.kernel_report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare; write nothing")
    parser.add_argument("--only", default="", metavar="PATTERN", help="kernels to compile (regex)")
    parser.add_argument("--targets", default="", help="comma-separated, such as sm_90,gfx942")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: triton, cuda")
    parser.add_argument("--report", type=Path, default=REPORT, help="the JSON file")
    options = parser.parse_args(arguments)
    select = compare.Select(options.only, tuple(filter(None, options.targets.split(","))))
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: unknown {unknown}, expected some of {list(PARTS)}")
    committed = compare.load(options.report)
    fresh = collect(names, select)
    if options.check:
        return check(committed, fresh, select)
    report = committed | {
        name: compare.merged(committed.get(name), section, select)
        for name, section in fresh.items()
    }
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(compare.dump(report))
    options.report.with_suffix(".md").write_text(compare.markdown(report))
    return verdict([line for part in fresh.values() for line in compare.unfit(part.rows)])


def collect(names: list[str], select: compare.Select) -> dict[str, compare.Section]:
    """Sections of the parts that can compile on this machine; says so of those that cannot."""
    sections = {}
    for name in names:
        module = f"{__package__}.{name}_part"
        if importlib.util.find_spec(module) is None:
            continue
        part = importlib.import_module(module)
        if reason := part.unavailable():
            print(f"{name}: not compiled: {reason}")
            continue
        sections[name] = part.collect(select)
        print(
            f"{name}: compiled {len(sections[name].rows)} kernels with {sections[name].toolchain}"
        )
    return sections


def check(
    committed: dict[str, compare.Section],
    fresh: dict[str, compare.Section],
    select: compare.Select,
) -> int:
    problems = []
    for name, section in fresh.items():
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
    if not fresh:
        problems.append("nothing was compiled")
    return verdict(problems)


def verdict(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problems in the kernel report", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

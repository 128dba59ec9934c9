"""The workflows of GitHub Actions call what is there, and try what is said to be supported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def jobs_of(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_jobs_are_whole(file):
    jobs = jobs_of(file)
    for name, job in jobs.items():
        assert {"runs-on", "timeout-minutes", "steps"} <= job.keys(), name
        needs = job.get("needs", [])
        assert {needs} if isinstance(needs, str) else set(needs) <= jobs.keys()
        for step in job["steps"]:
            assert len(step.keys() & {"uses", "run"}) == 1, step
            assert re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step.get("uses", "a/b@v1")), step


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_they_call_is_there(file):
    for job in jobs_of(file).values():
        for command in (step["run"] for step in job["steps"] if "run" in step):
            for target in re.findall(r"\bmake ([a-z-]+)", command):
                assert re.search(rf"^{target}:", MAKEFILE, re.M), command
            if command.startswith("."):
                assert (ROOT / command.split()[0]).stat().st_mode & 0o111, command


def test_the_oldest_python_and_torch_are_tried():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    python = re.findall(r'requires-python = ">=([\d.]+)"', project)[0]
    torch = re.findall(r'"torch>=([\d.]+)"', project)[0]
    tests, wheels = (jobs_of(ROOT / f".github/workflows/{n}.yml") for n in ("tests", "wheels"))
    assert python == tests["ci"]["strategy"]["matrix"]["python"][0]
    matrix = wheels["install"]["strategy"]["matrix"]
    assert (python, f"{torch}.0") == (matrix["python"][0], matrix["torch"][0])

"""`pytest --benchmark` and `fastgan bench`: what runs, and where the suite is found."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan
from fastgan.cli import _checkout, bench, main

ROOT = Path(__file__).resolve().parents[2]


def collected(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_option_means_the_suite():
    found = collected("--benchmark", "-k", "norm_act")
    assert "bench/test_norm_act.py::" in found
    assert "tests/ops" not in found


def test_a_checkout_that_is_not_built_stops_at_once(tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "--benchmark", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"fastgan is not built in {tmp_path}" in done.stderr
    assert "pip install --editable ." in done.stderr


def test_a_path_given_with_the_option_is_kept():
    found = collected("--benchmark", "tests/bench/test_paired.py")
    assert "tests/bench/test_paired.py::" in found
    assert "bench/test_norm_act.py::" not in found.replace("tests/bench/", "")


def test_the_suite_is_that_of_the_checkout():
    assert _checkout.find_suite() == ROOT


def test_a_name_that_no_benchmark_has_is_told(monkeypatch, capsys):
    monkeypatch.setattr(
        bench, "in_checkout", lambda *_, **__: int(pytest.ExitCode.NO_TESTS_COLLECTED)
    )
    assert main(["bench", "--only", "norm_akt"]) == 2
    assert "the name of no benchmark matches 'norm_akt'" in capsys.readouterr().err


def test_an_installed_package_says_that_it_has_no_suite(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fastgan, "__file__", str(tmp_path / "lib" / "fastgan" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--quick"]) == 2
    assert "run it in a checkout" in capsys.readouterr().err
    monkeypatch.chdir(ROOT)
    assert _checkout.find_suite() == ROOT


def test_flags_become_options_of_pytest(monkeypatch):
    ran: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        bench, "in_checkout", lambda *given, **threads: ran.append((given, threads))
    )
    bench.run(["--quick", "--only", "norm_act", "--threads", "1"])
    assert {"bench", "--benchmark", "--quick", "norm_act"} <= set(ran[0][0])
    assert ran[0][1] == {"threads": 1}


def test_no_threads_is_an_error():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        bench.run(["--threads", "0"])


@pytest.mark.parametrize("to", ["both", "the command alone"])
def test_a_signal_waits_until_the_suite_has_kept_what_it_has(tmp_path, to):
    """`subprocess.run` kills what it runs a quarter of a second after Ctrl-C."""
    suite = tmp_path / "bench" / "harness"
    suite.mkdir(parents=True)
    (suite / "__init__.py").touch()
    (tmp_path / "slow.py").write_text(
        "import time\ntry:\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(1)\n    print('kept', flush=True)\n"
    )
    code = "from fastgan.cli import _checkout as c; from pathlib import Path\n"
    code += f"c.find_suite = lambda: Path({str(tmp_path)!r})\nc.in_checkout('slow')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        if to == "both":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == "kept\n"

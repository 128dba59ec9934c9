from __future__ import annotations

import io
import json

from rich.console import Console

from fastgan.engine.log import BarReporter, LineReporter, MetricsLog, default_reporter

VALUES = {"loss_d": 1.25, "loss_g": 0.5, "img_per_s": 321.0}
VALUES |= {"real_logit": 1.5, "fake_logit": -2.0, "memory": 2.5e9}


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_after_the_resumed_step_and_torn_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    log = MetricsLog(path, resume_step=2)
    log.write({"step": 3, "loss_d": 0.5})
    log.close()
    assert steps(path) == [1, 2, 3]
    assert path.read_text().splitlines()[2] == '{"step": 3, "loss_d": 0.5}'


def test_a_new_run_starts_a_new_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsLog(path).close()
    assert path.read_text() == ""


def test_plain_lines_tell_rate_losses_and_time_left(capsys):
    reporter = LineReporter()
    reporter.start(100, 0)
    reporter.update(10, None)
    reporter.update(20, VALUES)
    reporter.stop()
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "step 20/100  321 img/s  D 1.250  G 0.500  D(real) +1.50  D(fake) -2.00  2.5 GB  ETA 0:00:"
    )


def test_the_live_bar_tells_the_same():
    out = io.StringIO()
    reporter = BarReporter(Console(file=out, force_terminal=True, width=120))
    reporter.start(100, 0)
    reporter.update(10, None)
    reporter.update(20, VALUES)
    reporter.note("a note")
    reporter.stop()
    assert "20/100" in out.getvalue()
    assert "321 img/s" in out.getvalue()
    assert "a note" in out.getvalue()


def test_not_a_terminal_gets_plain_lines():
    assert isinstance(default_reporter(), LineReporter)

"""A run on one page: what it is, how it went, and what to try."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from fastgan.data.dataset import spread
from fastgan.engine.config import TrainConfig
from fastgan.engine.report.advice import advise
from fastgan.engine.report.curves import WATCHED, chart, number
from fastgan.engine.report.page import (
    as_text,
    facts,
    folded,
    scrubber,
    section,
    table,
    whole_page,
)
from fastgan.engine.report.record import RunRecord, read_record
from fastgan.engine.run_folder import REPORT_FILE
from fastgan.metrics import LOWER_IS_BETTER
from fastgan.system import whole_file

# Of a run with thousands of grids: evenly spaced, the last one always.
_MAX_PICTURES = 24
_PICTURES = {"step": "Samples from the same noise", "reconstructions": "Reconstructions"}


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of the run in the folder ``run``, also of one that goes on; returns its path.

    Args:
        out: the file; by default ``report.html`` in the run's folder.

    Raises:
        FileNotFoundError: no run stands there.
        ValueError: its ``run.json`` is damaged.
        OSError: the file cannot be written.
    """
    out = Path(out) if out is not None else Path(run) / REPORT_FILE
    page = report_of(read_record(run))
    with whole_file(out) as file:
        file.write(page.encode())
    return out


def report_of(record: RunRecord) -> str:
    """The page as HTML."""
    name = record.name
    kind = record.facts.get("recipe") or "networks of one's own"
    body = [
        f'<header><p class="soft">fastgan · {escape(str(kind))}</p><h1>{escape(name)}</h1>'
        f"<p>{escape(status_of(record))}</p></header>",
        facts(_key_numbers(record)),
        section("Worth knowing", *_warnings(record)),
        section("Samples", *_scrubbers(record)),
        section("Quality", *score_charts(record), kind="charts"),
        section("Training", *_training_charts(record), kind="charts"),
        section("Stability", *_watched_charts(record), kind="charts"),
        section("Time and memory", _time(record), *_speed_charts(record)),
        section("What was run", *_settings(record)),
    ]
    return whole_page(f"{name} · fastgan", body)


def status_of(record: RunRecord) -> str:
    """Where a run stands, in a sentence."""
    steps = record.config.get("steps", 0)
    if not record.lines:
        return "Nothing is recorded yet."
    if not record.finished:
        return (
            f"At step {record.step:,} of {steps:,}: it goes on, or was stopped; "
            f"fastgan train … --out {record.path} --resume continues it."
        )
    early = f" of {steps:,}, where nothing got better" if record.step < steps else ""
    return f"Finished after {record.step:,} steps{early}."


def duration(seconds: float) -> str:
    """Such as 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def score_charts(record: RunRecord) -> list[str]:
    """A chart a metric, with the best evaluation marked."""
    charts = []
    for metric, evaluations in record.scores().items():
        points = [(float(step), score.value) for step, score in evaluations]
        best = record.best(metric)
        way = "lower" if metric in LOWER_IS_BETTER else "higher"
        title = f"{metric} ({way} is better)"
        charts.append(chart(title, {metric: points}, mark=best[0] if best else None))
    return charts


def _key_numbers(record: RunRecord) -> dict[str, str]:
    values = {"steps": f"{record.step:,}"}
    for metric in list(record.scores())[:1]:
        if (best := record.best(metric)) is not None:
            values[f"best {metric}, step {best[0]:,}"] = number(best[1].value)
    if record.lines:
        values["time"] = duration(record.seconds())
    if rates := [rate for _, rate in record.series("img_per_s") if math.isfinite(rate)]:
        values["images a second"] = number(median(rates))
    if peak := max((v for _, v in record.series("memory") if math.isfinite(v)), default=0):
        values["memory"] = f"{peak / 1e9:.1f} GB"
    return values


def _warnings(record: RunRecord) -> list[str]:
    return [
        f'<div class="warn"><p>{escape(seen)}</p><p>{escape(hint)}</p></div>'
        for seen, hint in advise(record)
    ]


def _scrubbers(record: RunRecord) -> list[str]:
    parts = []
    for kind, label in _PICTURES.items():
        if pictures := record.pictures.get(kind):
            chosen = [pictures[i] for i in spread(len(pictures), _MAX_PICTURES - 1)]
            chosen += pictures[-1:] if chosen[-1] != pictures[-1] else []
            parts.append(scrubber(f"scrub-{kind}", label, chosen))
    return parts or ['<p class="soft">No grids were drawn yet, or the data are no pictures.</p>']


def _training_charts(record: RunRecord) -> list[str]:
    losses = {n.removeprefix("loss_"): record.series(n) for n in record.names("loss_")}
    logits = {"real images": "real_logit", "generated": "fake_logit"}
    diversity = record.series("diversity")
    return [
        chart("Losses", losses),
        chart("The discriminator's mean logits", {k: record.series(n) for k, n in logits.items()}),
        chart("Diversity (1: as far apart as real images)", {"diversity": diversity}),
    ]


def _watched_charts(record: RunRecord) -> list[str]:
    return [
        chart(title, {label: record.series(name) for label, name in lines.items()})
        for title, lines in WATCHED.items()
    ]


def _speed_charts(record: RunRecord) -> list[str]:
    memory = [(step, value / 1e9) for step, value in record.series("memory")]
    charts = [
        chart("Images a second", {"img/s": record.series("img_per_s")}),
        chart("Memory in GB", {"memory": memory}),
    ]
    return [f'<div class="charts">{"".join(charts)}</div>'] if any(charts) else []


def _time(record: RunRecord) -> str:
    spent = record.spent()
    total = sum(spent.values())
    if total <= 0:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{duration(seconds)}</td>'
        f'<td>{seconds / total:.0%}</td><td class="share"><div class="bar" '
        f'style="width:{max(100 * seconds / total, 0.5):.1f}%"></div></td></tr>'
        for name, seconds in sorted(spent.items(), key=lambda part: -part[1])
    )
    return f'<div class="box wide"><table>{rows}</table></div><br>'


def _settings(record: RunRecord) -> list[str]:
    defaults = TrainConfig().as_dict()
    config = record.config
    changed = {k: v for k, v in config.items() if v != defaults.get(k)}
    rest = {k: v for k, v in config.items() if k not in changed}
    data = {"data": record.facts.get("load", {}).get("data"), **record.facts.get("data", {})}
    networks = {k: _model(record.facts.get(k)) for k in ("generator", "discriminator")}
    objective = record.facts.get("objective", {})
    return [
        folded("Settings that are not the default", _rows(changed), opened=True),
        folded("All other settings", _rows(rest)),
        folded("Data, networks, objective", _rows(data | networks | objective)),
        folded("Environment", _rows(record.facts.get("environment", {}))),
    ]


def _model(spec: Any) -> str:
    if not isinstance(spec, dict):
        return "a module of one's own" if spec is None else as_text(spec)
    return f"{spec.get('name')}: {as_text(spec.get('arguments', {}))}"


def _rows(values: dict[str, Any]) -> str:
    return table((name, as_text(value)) for name, value in values.items())

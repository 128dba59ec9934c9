"""Runs side by side; numbers that are not of one setting are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

from fastgan.engine.config import OF_SCORES, RESUMABLE_FIELDS
from fastgan.engine.report import duration, status_of
from fastgan.engine.report.curves import WATCHED, chart, number
from fastgan.engine.report.page import as_text, embedded, section, table, whole_page
from fastgan.engine.report.record import RunRecord
from fastgan.metrics import Score, difference

# They change nothing of what is trained.
_OWN = (RESUMABLE_FIELDS | OF_SCORES) - {"steps"}

Rows = list[tuple[str, ...]]


def comparison(runs: Sequence[RunRecord]) -> dict[str, Rows]:
    """What differs between runs, as tables: a row begins with its name and has a cell a run.

    "Results" has the best evaluation of each metric with its step, "Settings" what the runs were
    trained with where that differs.

    Raises:
        ValueError: fewer than two runs, or a metric that two of them have in other settings (other
            features, data, counts); names the runs and what differs.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least two runs, got {len(runs)}")
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.scores()))
    for metric in metrics:
        _require_alike(metric, runs)
    rows: Rows = [("steps", *(f"{run.step:,}" for run in runs))]
    rows += [(metric, *(_best(run, metric) for run in runs)) for metric in metrics]
    rows.append(("images a second", *(_rate(run) for run in runs)))
    rows.append(("time", *(duration(run.seconds()) for run in runs)))
    rows.append(("warnings", *(_warnings(run) for run in runs)))
    flat = [_flat(run) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    settings = [(name, *(as_text(s.get(name)) for s in flat)) for name in names]
    return {"Results": rows, "Settings": [row for row in settings if len({*row[1:]}) > 1]}


def comparison_page(runs: Sequence[RunRecord]) -> str:
    """:func:`comparison` as a page, with curves in one chart a quantity and the newest grids."""
    tables, labels = comparison(runs), labels_of(runs)
    grids = []
    for run, label in zip(runs, labels, strict=True):
        if pictures := run.pictures.get("step"):
            step, path = pictures[-1]
            text = f"{label}, step {step:,}"
            grids.append(
                f'<figure class="scrub"><figcaption>{escape(text)}</figcaption>'
                f'<img src="{embedded(path)}" alt="{escape(text)}"></figure>'
            )
    body = [
        "<header><h1>Runs side by side</h1></header>",
        table([(label, status_of(r)) for label, r in zip(labels, runs, strict=True)]),
        *(section(name, table(rows, ("", *labels))) for name, rows in tables.items() if rows),
        section("Newest samples", *grids, kind="charts"),
        section("Curves", *_charts(runs, labels), kind="charts"),
    ]
    return whole_page(f"{' · '.join(labels)} · fastgan", body)


def labels_of(runs: Sequence[RunRecord]) -> list[str]:
    """The runs' names, or their paths where two have one name."""
    names = [run.name for run in runs]
    return names if len({*names}) == len(names) else [str(run.path) for run in runs]


def _charts(runs: Sequence[RunRecord], labels: list[str]) -> list[str]:
    charts = []
    for metric in dict.fromkeys(metric for run in runs for metric in run.scores()):
        lines = {
            label: [(float(step), score.value) for step, score in run.scores().get(metric, [])]
            for label, run in zip(labels, runs, strict=True)
        }
        charts.append(chart(metric, lines))
    names = dict.fromkeys(name for run in runs for name in run.names("loss_"))
    titles = {name: f"Loss {name.removeprefix('loss_')}" for name in names}
    titles |= {"diversity": "Diversity", "img_per_s": "Images a second"}
    titles |= {n: f"{t}: {k}" for t, lines in WATCHED.items() for k, n in lines.items()}
    for name, title in titles.items():
        lines = {label: run.series(name) for label, run in zip(labels, runs, strict=True)}
        charts.append(chart(title, lines))
    return charts


def _require_alike(metric: str, runs: Sequence[RunRecord]) -> None:
    measured: list[tuple[RunRecord, Score]] = []
    for run in runs:
        measured += [(run, evaluation[1]) for evaluation in run.scores().get(metric, [])[-1:]]
    for run, score in measured[1:]:
        first, reference = measured[0]
        try:
            difference(score, reference)
        except ValueError as error:
            raise ValueError(f"{metric} of {run.path} and of {first.path}: {error}") from error


def _best(run: RunRecord, metric: str) -> str:
    best = run.best(metric)
    return "—" if best is None else f"{number(best[1].value)} (step {best[0]:,})"


def _warnings(run: RunRecord) -> str:
    told = [text.partition(". ")[0] for text in run.facts.get("warnings", [])]
    return "; ".join(told) or "none"


def _rate(run: RunRecord) -> str:
    rates = [rate for _, rate in run.series("img_per_s") if math.isfinite(rate)]
    return number(median(rates)) if rates else "—"


def _flat(run: RunRecord) -> dict[str, Any]:
    facts = run.facts
    settings = {"recipe": facts.get("recipe"), **facts.get("load", {})}
    settings |= {k: v for k, v in run.config.items() if k not in _OWN}
    settings |= facts.get("objective", {})
    for network in ("generator", "discriminator"):
        spec = facts.get(network)
        settings[network] = spec.get("name") if isinstance(spec, dict) else spec
        arguments = spec.get("arguments", {}) if isinstance(spec, dict) else {}
        settings |= {f"{network} {k}": v for k, v in arguments.items()}
    environment = facts.get("environment", {})
    return settings | {k: environment.get(k) for k in ("device", "processes", "torch", "fastgan")}

"""The page of a run, and runs side by side, made of folders as runs leave them."""

from __future__ import annotations

import base64
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.cli import main
from fastgan.engine import TrainConfig
from fastgan.engine.report import report_of, write_report
from fastgan.engine.report.advice import advise
from fastgan.engine.report.comparing import comparison, comparison_page
from fastgan.engine.report.curves import chart
from fastgan.engine.report.record import read_record
from fastgan.metrics import Score
from fastgan.system import to_json

from .conftest import tiny_trainer

_VOID = {"meta", "img", "input", "br", "line"}


class Page(HTMLParser):
    """Holds a page to what every page must be, as it is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.named: list[str] = []
        self.pictures: list[bytes] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []
        assert len({*self.ids}) == len(self.ids)
        assert {*self.named} <= {*self.ids}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs)
        if tag not in _VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.named += [given["for"]] if "for" in given else []
        assert "href" not in given or given["href"].startswith("#")
        if tag == "img":
            assert given["alt"]
            head, _, content = given["src"].partition(",")
            assert head in ("data:image/png;base64", "data:image/jpeg;base64")
            self.pictures.append(base64.b64decode(content))
        else:
            assert "src" not in given

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def line(step: int, **values: Any) -> dict[str, Any]:
    made = {"step": step, "seconds": step / 2, "seconds_data": 0.1, "seconds_step": 4.0}
    made |= {"loss_d": 1.0 / step, "loss_g": 2.0, "real_logit": 1.0, "fake_logit": -1.0}
    return made | {"skipped": 0.0, "img_per_s": 100.0, "memory": 2e9, **values}


def fid(value: float, **setting: Any) -> list[Score]:
    return [Score("fid", value, None, {"features": "lenet", "fakes": 100, **setting})]


def folder(
    path: Path,
    lines: list[dict[str, Any]],
    scores: dict[int, list[Score]] | None = None,
    grids: tuple[int, ...] = (10, 20),
    **facts: Any,
) -> Path:
    """A run's folder that has these files."""
    (path / "samples").mkdir(parents=True)
    config = TrainConfig(steps=100).as_dict() | facts.pop("config", {})
    (path / "run.json").write_text(json.dumps({"config": config, "finished": True, **facts}))
    (path / "metrics.jsonl").write_text("".join(to_json(entry) + "\n" for entry in lines))
    entries = [
        {"step": step, "scores": [score.as_dict() for score in found]}
        for step, found in (scores or {}).items()
    ]
    (path / "scores.jsonl").write_text("".join(to_json(entry) + "\n" for entry in entries))
    for step in grids:
        Image.new("L", (30, 30), step).save(path / "samples" / f"step-{step:08d}.png")
    return path


def page_of(path: Path) -> Page:
    return Page(report_of(read_record(path)))


def test_a_run_stands_on_one_page(tmp_path):
    lines = [line(step) for step in range(10, 101, 10)]
    run = folder(tmp_path / "run", lines, {50: fid(30.0), 100: fid(20.0)}, recipe="digits")
    page = page_of(run)
    assert "Finished after 100 steps." in page.words
    for text in ("best fid, step 100", "Losses", "Images a second", "step 20", "batch_size"):
        assert text in page.words
    assert page.open == []
    with Image.open(io.BytesIO(page.pictures[-1])) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((30, 30), 20)
    assert "Worth knowing" not in page.words


def test_large_pictures_are_shrunk_and_many_are_thinned(tmp_path):
    run = folder(tmp_path / "run", [line(1)], grids=tuple(range(1, 100)))
    Image.effect_noise((1500, 1500), 90).save(run / "samples" / "step-00000099.png")
    pictures = page_of(run).pictures
    assert len(pictures) <= 24
    with Image.open(io.BytesIO(pictures[-1])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))


def test_names_are_text_and_nothing_else(tmp_path):
    name = '<script>alert("&")'
    run = folder(tmp_path / name, [line(1)], recipe="<b>", warnings=["<i>bad. <u>do"])
    page = page_of(run)
    for text in (name, "<b>", "<i>bad", "<u>do"):
        assert text in page.words
    assert Page(comparison_page([read_record(run)] * 2)).words.count(name) > 2


@pytest.mark.parametrize(
    ("lines", "facts", "told"),
    [
        ([], {"finished": False}, "Nothing is recorded yet."),
        ([line(40)], {"finished": False}, "At step 40 of 100: it goes on, or was stopped; fastgan"),
        ([line(40)], {}, "Finished after 40 steps of 100, where nothing got better."),
    ],
)
def test_runs_in_every_state_have_a_page(tmp_path, lines, facts, told):
    page = page_of(folder(tmp_path / "run", lines, grids=(), **facts))
    assert told in page.words
    assert "No grids were drawn yet" in page.words
    assert page.pictures == []


def test_losses_that_are_not_finite_leave_a_gap_and_are_told(tmp_path):
    lines = [line(step, loss_d=math.nan if step == 30 else 1.0) for step in (10, 20, 30, 40, 50)]
    run = folder(tmp_path / "run", [*lines, line(60, skipped=3.0)])
    (run / "metrics.jsonl").open("a").write('{"step": 7')
    assert "A loss is not a finite number, first at step 30" in page_of(run).words
    assert "3 updates were not made" in page_of(run).words
    drawn = chart("Losses", {"d": read_record(run).series("loss_d")})
    assert drawn.split('class="line')[1].split('"/>')[0].count("M") == 2
    assert chart("None", {"d": [(1.0, math.nan)]}) == ""
    assert "nan" not in drawn


@pytest.mark.parametrize(
    ("lines", "scores", "seen"),
    [
        ([line(8, seconds_data=3.0)], {}, "of the time goes into reading data"),
        ([line(8, seconds_grids=3.0)], {}, "of the time goes into grids"),
        ([line(s, img_per_s=100 if s < 9 else 30) for s in range(1, 13)], {}, "from 100 to 30"),
        ([line(8)], {4: fid(10.0), 8: fid(20.0)}, "fid was 10 at step 4 and is 20 at step 8"),
        ([line(8)], {4: fid(10.0), 8: fid(math.nan)}, "fid was 10 at step 4 and is nan"),
    ],
)
def test_what_goes_wrong_is_said_with_what_to_try(tmp_path, lines, scores, seen):
    (advice,) = advise(read_record(folder(tmp_path / "run", lines, scores)))
    assert seen in advice.seen
    assert advice.hint


def test_axes_begin_at_zero_where_nothing_is_below_and_hold_their_labels():
    drawn = chart("norms", {"g": [(1, 2e-5), (2, 4e-5)]})
    assert ">-" not in drawn
    assert ">2e-05</text>" in drawn
    assert ">-0.5</text>" not in chart("copied", {"share": [(1, 0.0), (2, 0.0)]})
    assert ">-1</text>" in chart("logits", {"real": [(1, -1.0), (2, 1.0)]})


def test_what_goes_well_is_left_alone(tmp_path):
    lines = [line(s, img_per_s=100 - s) for s in range(1, 13)]
    run = folder(tmp_path / "run", lines, {4: fid(10.0), 8: fid(10.5)})
    assert advise(read_record(run)) == []


def test_time_is_that_of_all_the_times_a_run_was_started(tmp_path):
    lines = [line(1, seconds=5.0), line(2, seconds=9.0), line(3, seconds=2.0)]
    record = read_record(folder(tmp_path / "run", lines))
    assert record.seconds() == 11.0
    assert record.spent() == pytest.approx({"data": 0.3, "step": 12.0})


def test_runs_are_compared_by_what_differs(tmp_path, capsys):
    one = folder(tmp_path / "one", [line(10)], {10: fid(30.0)}, config={"lr_g": 1e-4})
    two = folder(tmp_path / "two", [line(20)], {20: fid(20.0)}, config={"log_every": 9})
    tables = comparison([read_record(one), read_record(two)])
    assert ("fid", "30 (step 10)", "20 (step 20)") in tables["Results"]
    assert tables["Settings"] == [("lr_g", "0.0001", "0.0002")]
    out = tmp_path / "both.html"
    assert main(["compare", str(one), str(two), "-o", str(out)]) == 0
    assert "20 (step 20)" in capsys.readouterr().out
    assert len(Page(out.read_text()).pictures) == 2


def test_what_a_watched_run_measured_stands_in_reports_and_comparisons(tmp_path):
    seen = {"accuracy_real": 0.5, "accuracy_fake": 1.0, "grad_g": 3.0, "spread": 0.9, "copied": 0.1}
    lines = [line(10), line(20, **seen), line(30), line(40, **seen)]
    one = folder(tmp_path / "one", lines, warnings=["it copies. Try this"])
    two = folder(tmp_path / "two", [line(10)])
    words = page_of(one).words
    for text in ("Stability", "The discriminator's accuracy", "It copies", "Try this."):
        assert text in words
    assert "Largest spectral norms" not in words
    assert "Stability" not in page_of(two).words
    records = [read_record(one), read_record(two)]
    assert ("warnings", "it copies", "none") in comparison(records)["Results"]
    assert "Norms of gradients: generator" in Page(comparison_page(records)).words


def test_unlike_metrics_are_refused(tmp_path, capsys):
    one = folder(tmp_path / "one", [line(10)], {10: fid(30.0)})
    two = folder(tmp_path / "two", [line(20)], {20: fid(20.0, fakes=50)})
    assert main(["compare", str(one), str(two)]) == 2
    told = capsys.readouterr().err
    assert f"fid of {two} and of {one}" in told
    assert "they differ in fakes: 50, 100" in told
    assert main(["compare", str(one)]) == 2
    assert "a comparison needs at least two runs, got 1" in capsys.readouterr().err


def test_the_command_writes_into_the_run_and_refuses_what_is_no_run(tmp_path, capsys):
    run = folder(tmp_path / "run", [line(10)])
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(tmp_path)]) == 2
    assert f"no run at {tmp_path}: it has no run.json" in capsys.readouterr().err
    assert main(["report", str(run), "-o", str(run / "run.json"), "--force"]) == 2
    assert "belongs to the run" in capsys.readouterr().err


def test_a_run_writes_its_page_as_it_goes_on(tmp_path, recorder, monkeypatch):
    written = []

    def write(path):
        written.append(len((path / "metrics.jsonl").read_text().splitlines()))
        return write_report(path)

    monkeypatch.setattr("fastgan.engine.loop.write_report", write)
    trainer = tiny_trainer(steps=6, log_every=1, report_every=2, sample_every=2)
    trainer.fit(tmp_path / "run", reporter=recorder)
    assert len(written) == 4
    assert written[-1] == 6
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "Finished after 6 steps." in page.words
    assert "torch" in page.words
    assert len(page.pictures) == 3

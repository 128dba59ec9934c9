"""Numbers and their settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastgan.metrics import Score, difference, load_scores, save_scores

SETTING = {"features": "lenet", "features_sha256": "ab" * 32, "fakes": 500, "seed": 0}
SCORE = Score("fid", 12.5, None, SETTING)


def test_a_score_prints_what_it_depends_on():
    text = str(replace(SCORE, spread=0.25, note="biased"))
    assert text.startswith("fid 12.5000 ± 0.2500  (features lenet, features_sha256 abababababab,")
    assert "fakes 500, seed 0)" in text
    assert text.endswith("\n  biased")


def test_like_is_compared_with_like():
    assert difference(SCORE, replace(SCORE, value=10.0)) == 2.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": SETTING | {"features": "inception"}}, "features: lenet, inception"),
        ({"setting": SETTING | {"fakes": 5000}}, "fakes: 500, 5000"),
        ({"setting": SETTING | {"resize": "28x28"}}, "resize: None, 28x28"),
        ({"metric": "kid"}, "metric: fid, kid"),
    ],
)
def test_unlike_numbers_are_not_compared(change, message):
    with pytest.raises(ValueError, match=f"cannot be compared; they differ in {message}"):
        difference(SCORE, replace(SCORE, **change))


def test_scores_are_kept_as_json(tmp_path):
    path = tmp_path / "scores.json"
    save_scores([SCORE, replace(SCORE, metric="kid", spread=0.5)], path)
    assert load_scores(path) == [SCORE, replace(SCORE, metric="kid", spread=0.5)]
    for content in ("{", '[{"value": 1, "colour": 2}]', "[3]"):
        path.write_text(content)
        with pytest.raises(ValueError, match="holds no scores"):
            load_scores(path)

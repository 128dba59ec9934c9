from __future__ import annotations

from fastgan.engine import Callback, Trainer
from fastgan.engine.checkpoint import list_checkpoints, prune_checkpoints, save_checkpoint

from .conftest import tiny_trainer


class Diary(Callback):
    """Scores checkpoints by a list, and writes down what is called."""

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores = scores
        self.entries: list[str] = []

    def on_step(self, trainer: Trainer) -> None:
        self.entries.append(f"step {trainer.step}")

    def on_log(self, trainer: Trainer, values: dict[str, float]) -> None:
        values["doubled"] = 2 * values["loss_d"]
        self.entries.append("log")

    def score(self, trainer: Trainer) -> float | None:
        return self.scores.get(trainer.step)

    def on_checkpoint(self, trainer: Trainer, path) -> None:
        assert (path / "checkpoint.json").exists()
        self.entries.append(path.name)

    def on_end(self, trainer: Trainer, result) -> None:
        self.entries.append(f"end {result.step}")


def test_callbacks_are_called_in_order_and_may_add_to_the_log(tmp_path, recorder):
    diary = Diary({})
    trainer = tiny_trainer(steps=3, parts={"callbacks": [diary]})
    trainer.fit(tmp_path / "run", reporter=recorder)
    # A checkpoint is told of once it is written, which is beside the steps.
    written = [entry for entry in diary.entries if entry.startswith("step-")]
    assert written == ["step-00000002", "step-00000003"]
    assert diary.entries.index("step-00000002") > diary.entries.index("step 2")
    assert [entry for entry in diary.entries if entry not in written] == [
        "step 1",
        "step 2",
        "log",
        "step 3",
        "log",
        "end 3",
    ]
    assert diary.entries[-2:] == ["step-00000003", "end 3"]
    assert recorder.values[0][1]["doubled"] == 2 * recorder.values[0][1]["loss_d"]


def names(folder) -> list[str]:
    return sorted(int(path.name.removeprefix("step-")) for path in list_checkpoints(folder))


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path, recorder):
    diary = Diary({1: -5.0, 2: 0.0, 3: -1.0, 4: float("nan"), 5: -9.0, 6: -8.0})
    settings = {"checkpoint_every": 1, "keep_last": 2, "keep_best": 2}
    tiny_trainer(parts={"callbacks": [diary]}, **settings).fit(tmp_path / "run", reporter=recorder)
    assert names(tmp_path / "run" / "checkpoints") == [2, 3, 5, 6]
    assert not list((tmp_path / "run" / "checkpoints").glob(".partial*"))


def test_without_a_number_all_are_kept_and_a_torn_one_is_no_hindrance(tmp_path):
    for step in range(3):
        save_checkpoint(tmp_path, step, {}, {})
    prune_checkpoints(tmp_path, keep_last=0)
    assert names(tmp_path) == [0, 1, 2]
    (tmp_path / "step-00000001" / "checkpoint.json").write_text("{")
    prune_checkpoints(tmp_path, keep_last=1, keep_best=1)
    assert names(tmp_path) == [2]

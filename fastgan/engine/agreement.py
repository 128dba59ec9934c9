"""When the processes of a run stop: together, after the same step."""

from __future__ import annotations

from fastgan.engine.heartbeat import LostRankError
from fastgan.engine.signals import StopOnSignal
from fastgan.engine.train_state import TrainState
from fastgan.system import first_line


class Agreement:
    """What the processes agree on between two steps; a single one agrees with itself."""

    def __init__(self, trainer: TrainState, signals: StopOnSignal) -> None:
        self._trainer, self._signals = trainer, signals
        self.together = False
        """Whether an error was met where every rank is where this one is."""

    def signal(self, at_log_point: bool) -> int | None:
        """The signal that ends the run after this step, the same for all ranks.

        Ranks agree where they meet anyway, or at every step where meeting is cheap. There they also
        learn of data that one of them cannot read, while the state is still whole on all.

        Raises:
            LostRankError: another rank cannot read the data of the next step.
        """
        trainer, received = self._trainer, self._signals.received
        if trainer.group.size == 1:
            return received
        on_cpu = trainer.device.type == "cpu"
        if not (on_cpu or at_log_point):
            return None
        failure = self._unreadable() if on_cpu else None
        answers = trainer.group.collect((received or 0, first_line(failure) if failure else ""))
        if told := next((told for _, told in answers if told), ""):
            self.together = True
            raise failure or LostRankError(
                "another process of this run could not read its part of the data of step "
                f"{trainer.step + 1}: {told}"
            )
        return max(signal for signal, _ in answers) or None

    def _unreadable(self) -> Exception | None:
        """Why the data of the next step cannot be read."""
        if self._trainer.step < self._trainer.config.steps:
            try:
                self._trainer.fetch()
            except Exception as error:
                return error
        return None

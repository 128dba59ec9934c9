"""The trainer: a state, its callbacks and the loop around the step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from fastgan.engine.callbacks import Callback
from fastgan.engine.checkpoint import Checkpoint
from fastgan.engine.config import TrainResult
from fastgan.engine.log import Reporter
from fastgan.engine.loop import Loop
from fastgan.engine.state import load_state, moved, save_state
from fastgan.engine.train_state import TrainState


class Trainer(TrainState):
    """Trains any generator against any discriminator.

    In a run of several processes (see docs/distributed.md) each of them makes the same trainer; the
    networks start as the first one's.

    Args:
        generator: takes noise ``[N, latent_dim]``, gives images ``[N, C, H, W]`` in [-1, 1], or
            whatever the items of the data are: ``[N, C, L]``, ``[N, C, D, H, W]``.
        discriminator: takes images, gives logits (one an image, of any shape ``[N, ...]``), or
            logits and class logits ``[N, classes]``. With ``config.conditional`` both take the
            data's conditions ``[N, ...]`` (labels: int64 ``[N]``) as a second argument. None where
            ``objective`` has no use for it.
        dataset: the real images, in memory or streamed (``fastgan.data.load``, ``stream``); or a
            tensor, a torch dataset or ``DataLoader`` (see ``fastgan.data.from_torch``), or an
            object of your own (``fastgan.data.Source``).
        config: how to train; by default with a ``DataLoader``'s own batch size.
        latent_dim: the noise's width; by default ``generator.latent_dim``.
        loss: in place of the one that ``config.loss`` names, or another name.
        penalties: regularisers of the discriminator (see :class:`fastgan.engine.gan.Penalty`),
            beside the one that ``config.regularizer`` names.
        augment: applied to all images that the discriminator sees, in place of the one that
            ``config.augment`` names, or another name; a :class:`fastgan.augment.Augmentation` is
            also shown the logits of the real images after each discriminator update.
        callbacks: called as the run goes on.
        objective: what is minimised (:mod:`fastgan.engine.objectives`): by default a GAN's.
        step: one step, in place of the one that ``objective`` names
            (:func:`fastgan.engine.gan_step`); a module's buffers are part of checkpoints.
            Loss, penalties, augment and step are written down with their settings (see
            :mod:`fastgan.engine.parts`), and a resume with others is refused.
        optimizers: of the generator and of the discriminator, any of ``torch.optim`` with all the
            parameters that are trained, in place of the one that ``config.optimizer`` names; None
            leaves that one. Their learning rates are their own.
        schedulers: torch's, of these optimizers; each is stepped after every step.
        description: JSON-ready facts that are saved with the run and its checkpoints, such as how
            to build the models again.
        settings: fields of ``config`` with other values, by their names: ``steps=5000``.

    Raises:
        ValueError: ``config`` does not fit the data, the models or the device; a setting that is
            none of its fields.
    """

    callbacks: list[Callback]

    def fit(
        self,
        out: str | Path,
        *,
        resume: bool = False,
        force: bool = False,
        reporter: Reporter | None = None,
    ) -> TrainResult:
        """Train until ``config.steps`` updates are made or a signal asks to stop.

        SIGINT and SIGTERM end the run after the current step, with a checkpoint. An error ends it
        too; what was trained is saved before, unless the error struck in the middle of a step.

        Args:
            out: the run's folder (see :mod:`fastgan.engine.run_folder`).
            resume: go on from the newest whole checkpoint in ``out``; the weights after any step
                are then those of an uninterrupted run, bit for bit, on the same machine and number
                of threads and processes; on a GPU with ``config.deterministic``. Without a
                checkpoint there the run starts anew.
            force: clear a run that stands in ``out``.
            reporter: who is told of progress; by default a live bar or plain lines.

        Raises:
            NonFiniteError: gradients were not finite, and ``config.nan_policy`` says to stop.
            LostRankError: another process of the run has ended.
        """
        try:
            return Loop(self, self.callbacks, Path(out), reporter).fit(resume=resume, force=force)
        finally:
            self.release()

    def save(self, folder: Path, **info: Any) -> Path:
        """Write a checkpoint of everything the run's future depends on; see ``save_checkpoint``."""
        return save_state(self, folder, **info)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go back to where ``checkpoint`` was written; warns where another kind of device did.

        Raises:
            CheckpointError: it is of other models, other data or another configuration.
        """
        load_state(self, checkpoint)
        if (told := moved(self, checkpoint)) is not None:
            warnings.warn(told, stacklevel=2)

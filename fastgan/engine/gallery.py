"""The pictures of a run: drawn between two steps, written beside those that follow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from fastgan.engine.callbacks import Callback
from fastgan.engine.grid import as_pictures, samples_path, save_samples
from fastgan.engine.pictures import reconstructions
from fastgan.engine.texts import save_texts, text_lines
from fastgan.engine.train_state import TrainState
from fastgan.engine.writer import Writer


class Gallery:
    """Sample grids and reconstructions in ``folder``, encoded and written by ``writer``'s thread.

    A callback's own ``draw`` is called in the thread of the steps, for it may use the networks.
    """

    def __init__(
        self, trainer: TrainState, callbacks: Sequence[Callback], folder: Path, writer: Writer
    ) -> None:
        self._trainer, self._callbacks, self._folder = trainer, callbacks, folder
        self._writer = writer
        self._written: deque[tuple[int, str, Path]] = deque()

    def draw(self) -> tuple[Path, Tensor]:
        """Where the samples of this step are going to stand, and the samples."""
        trainer, step = self._trainer, self._trainer.step
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = self._folder / f"step-{step:08d}"
        images = trainer.sample(trainer.fixed_noise, trainer.fixed_labels).cpu()
        drawn = (callback.draw(trainer, images, stem) for callback in self._callbacks)
        path = next((path for path in drawn if path is not None), None)
        if path is None:
            path = self._write_samples(images, stem)
        else:
            self._written.append((step, "samples", path))
        if (found := reconstructions(trainer)) is not None:
            pairs, columns = found
            stem = self._folder / f"reconstructions-{step:08d}"
            self._write_grid("reconstructions", pairs, stem, columns)
        return path, images

    def written(self) -> Iterator[tuple[int, str, Path]]:
        """Step, name and file of pictures that have been written since the last call."""
        while self._written:
            yield self._written.popleft()

    def _write_samples(self, samples: Tensor, stem: Path) -> Path:
        """As texts, of a generator of characters, else as pictures or numbers."""
        generator = self._trainer.generator
        characters = getattr(generator, "characters", None)
        if not isinstance(characters, str):
            return self._write_grid("samples", as_pictures(generator, samples), stem)
        path = stem.with_suffix(".txt")
        return self._write(
            "samples", path, partial(save_texts, text_lines(samples, characters), path)
        )

    def _write_grid(
        self, name: str, images: Tensor, stem: Path, columns: int | None = None
    ) -> Path:
        save = partial(save_samples, images, stem, columns)
        return self._write(name, samples_path(images, stem), save)

    def _write(self, name: str, path: Path, save: Callable[[], object]) -> Path:
        step = self._trainer.step

        def job() -> None:
            save()
            self._written.append((step, name, path))

        self._writer.submit(job)
        return path

"""From measures to words: what goes wrong, and what may help. Each is said once a run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from statistics import median

from fastgan.engine.health import ALIKE, WON, Health

# Shares and factors at which something is wrong, and for how many looks in a row.
_KNOWN, _KNOWN_LOOKS = 0.99, 5
_ALIKE, _ALIKE_LOOKS = 0.25, 3
_GROWN, _GROWN_LOOKS = 100.0, 2
_SHRUNK, _SHRUNK_LOOKS = 1e-3, 3
_COPIED, _COPIED_LOOKS = 0.2, 2
# Looks whose median a gradient is compared with, at least.
_BEFORE = 5
_NETWORKS = {"grad_g": "generator", "grad_d": "discriminator"}


class Signs:
    """Warnings of what a run's looks have measured.

    Gradients are compared with the median of those since the run was started or resumed.

    Args:
        copied: the share that real images themselves have; see `Likeness.copied`.
    """

    def __init__(self, health: Health, copied: float = 0.0) -> None:
        self._health, self._copied = health, copied
        self._in_a_row: Counter[str] = Counter()
        self._before: defaultdict[str, list[float]] = defaultdict(list)

    def of(self, step: int, values: Mapping[str, float]) -> list[str]:
        """What to tell a person after a look, if there is anything new."""
        told = [
            self._health.warn(f"{seen}. {hint}", once=once)
            for seen, hint, once in self._seen(step, values)
        ]
        return [text for text in told if text is not None]

    def _seen(self, step: int, values: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
        """What is seen, what may help, and the words by which it is known that it was told."""
        sides = [values[n] for n in ("accuracy_real", "accuracy_fake") if n in values]
        if self._lasts("won", len(sides) == 2 and min(sides) >= _KNOWN, _KNOWN_LOOKS):
            seen = (
                f"{WON} by step {step}: it knows {sides[0]:.0%} of real and {sides[1]:.0%} of "
                "generated images for what they are"
            )
            yield seen, self._health.won_hint(), WON
        spread = values.get("spread", math.nan)
        if self._lasts("alike", spread < _ALIKE, _ALIKE_LOOKS):
            seen = (
                f"the samples of step {step} {ALIKE}: two of them are {spread:.2g} times as far "
                "apart as two real images"
            )
            hint = (
                "The generator may have collapsed to a few pictures: a regularizer (r1), a lower "
                "lr_g or loss hinge may help, and an earlier checkpoint (init_from) to start from"
            )
            yield seen, hint, ALIKE
        for name, network in _NETWORKS.items():
            if name in values:
                yield from self._gradients(step, name, network, values[name])
        copied = values.get("copied", 0.0)
        if self._lasts("copied", copied - self._copied >= _COPIED, _COPIED_LOOKS):
            once = "copies of the data"
            seen = f"{copied:.0%} of the samples of step {step} are all but {once}"
            hint = (
                "fastgan picture nearest shows them beside the images. More images, augment ada or "
                "diffaugment, or an earlier checkpoint may help"
            )
            yield seen, hint, once

    def _gradients(
        self, step: int, name: str, network: str, norm: float
    ) -> Iterator[tuple[str, str, str]]:
        before = self._before[name]
        usual = median(before) if len(before) >= _BEFORE else math.nan
        finite = math.isfinite(norm)
        whose = f"the {network}'s gradients"
        if self._lasts(f"{name} grown", not finite or norm > _GROWN * usual, _GROWN_LOOKS):
            once = f"{whose} explode"
            how = f"{norm / usual:.3g} times as large as before" if finite else "not finite"
            hint = (
                "clip_grad 1, a lower learning rate or precision float32 may help; where the "
                "discriminator's weights grow, a regularizer (r1) or spectral norm does"
            )
            yield f"{once} by step {step}: they are {how}", hint, once
        if self._lasts(f"{name} shrunk", norm == 0 or norm < _SHRUNK * usual, _SHRUNK_LOOKS):
            once = f"{whose} vanish"
            how = "0" if norm == 0 else f"{norm / usual:.2g} times as large as before"
            hint = (
                "Nothing more is learnt so. loss non_saturating, hinge or lsgan, a lower lr_d and "
                "a regularizer (r1) keep a discriminator from leaving no slope"
            )
            yield f"{once} by step {step}: they are {how}", hint, once
        if finite:
            before.append(norm)

    def _lasts(self, kind: str, wrong: bool, looks: int) -> bool:
        self._in_a_row[kind] = self._in_a_row[kind] + 1 if wrong else 0
        return self._in_a_row[kind] >= looks

"""SWA: the mean of the weights over the last part of training is judged and kept."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Field, options
from regraft.regularizers.averaging import Averaging
from regraft.regularizers.regularizer import Scene


@options
class SwaOptions:
    """Which weights count."""

    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.75
    """Share of all updates after which weights count."""

    every: Annotated[int, Field(ge=1)] | None = None
    """Updates from one weight that counts to the next; an epoch, or a tenth of what is left if that is shorter."""


class Swa(Averaging):
    """Average weights of the last part of training, each with the same share: m <- (n m + w) / (n + 1).

    Izmailov et al. 2018, arXiv:1803.05407, algorithm 1. They take a constant or cyclical rate there: `schedule: constant` comes
    nearest.

    Args:
        options: An instance of `Options`.
    """

    Options = SwaOptions

    def begin(self, scene: Scene, total_steps: int, steps_per_epoch: int) -> None:
        """Lay down which updates count."""
        super().begin(scene, total_steps, steps_per_epoch)
        self._first = int(total_steps * self.options.start)
        self._every = self.options.every or max(1, min(steps_per_epoch, (total_steps - self._first) // 10))

    def share(self, step: int) -> float | None:
        """Return 1 / (n + 1) at the updates that count."""
        counts = step > self._first and (step - self._first) % self._every == 0
        return 1.0 / (self.averaged + 1) if counts else None

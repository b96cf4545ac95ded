"""EMA: an exponential moving average of the weights is judged and kept."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Field, options
from regraft.regularizers.averaging import Averaging


@options
class EmaOptions:
    """How long the average remembers."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Share of the average that stays at an update; about 1 / (1 - decay) updates count."""

    warmup: bool = True
    """Begin with a short memory: the decay after t updates is at most (1 + t) / (10 + t)."""


class Ema(Averaging):
    """Average weights with a memory that fades: m <- d m + (1 - d) w after each update.

    Polyak and Juditsky 1992; with d = min(decay, (1 + t) / (10 + t)) after t updates, as TensorFlow's
    `ExponentialMovingAverage(num_updates=t)` has it, so that the first weights are soon forgotten.

    Args:
        options: An instance of `Options`.
    """

    Options = EmaOptions

    def share(self, step: int) -> float | None:
        """Return 1 - d."""
        limit = (1 + step) / (10 + step) if self.options.warmup else 1.0
        return float(1.0 - min(self.options.decay, limit))

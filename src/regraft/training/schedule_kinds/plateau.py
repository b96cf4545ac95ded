"""A rate that is lowered when validations stop getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from regraft.options import JSON, Field, options
from regraft.training.schedules import Schedule


@options
class PlateauOptions:
    """When the rate is lowered, and by how much."""

    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """What the rate is multiplied by."""

    patience: Annotated[int, Field(ge=0)] = 2
    """Validations without an improvement that are borne; the next one lowers the rate."""

    min_change: Annotated[float, Field(ge=0.0)] = 0.0
    """Least change of the metric that counts as an improvement."""

    floor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.001
    """Least share of the peak rate."""


class Plateau(Schedule):
    """Stay at the rate while validations get better; lower it when they no longer do.

    As `torch.optim.lr_scheduler.ReduceLROnPlateau(threshold_mode="abs")` without a cooldown, after warm-up.

    Example:
        >>> plateau = Plateau(PlateauOptions(patience=0))
        >>> for value in (0.5, 0.7, 0.6):
        ...     plateau.judged(value)
        >>> plateau.multiplier(0.9)
        0.5
    """

    Options = PlateauOptions
    judges: ClassVar[bool] = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._best: float | None = None
        self._stale = 0
        self._share = 1.0

    def judged(self, value: float) -> None:
        """Count a validation without an improvement, and lower the rate after too many."""
        if value > (-math.inf if self._best is None else self._best + self.options.min_change):  # never true for NaN
            self._best, self._stale = value, 0
            return
        self._stale += 1
        if self._stale > self.options.patience:
            self._share, self._stale = max(self._share * self.options.factor, self.options.floor), 0

    def multiplier(self, progress: float) -> float:
        """Return what is left of the peak rate."""
        return self._share

    def state(self) -> dict[str, JSON]:
        """Return the best value, the validations since, and the share."""
        return {"best": self._best, "stale": self._stale, "share": self._share}

    def put_back(self, state: Mapping[str, JSON]) -> None:
        """Take what `state` gave."""
        self._best, self._stale, self._share = state["best"], int(state["stale"]), float(state["share"])

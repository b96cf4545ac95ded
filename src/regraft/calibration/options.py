"""What can be asked of calibration: when a model is fitted, and when it answers."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Among, Field, Pick, options

AUTO = "auto"


@options
class CalibrateOptions:
    """How probabilities are made to mean something, on the validation rows."""

    method: str = AUTO
    """Name of `regraft list calibrators`, none for none, or auto: of those that fit, the simplest that is as good as the best
    by the log-loss of validation rows that it did not learn from."""

    fewest_rows: Annotated[int, Field(ge=10)] = 50
    """Validation rows with a target below which nothing is calibrated, and no sets are offered."""

    score: Annotated[Pick, Among("regraft.calibration:SCORES", later=True)] = Pick("")
    """What sets and intervals are made by, a name of `regraft list scores`; aps for classes, cqr for quantiles, residual for
    numbers if no name is given."""

    per_class: bool = False
    """Whether each class is covered as often as wanted, and not only all rows together; takes many rows of every class."""

"""What makes probabilities mean something: calibrators, scores, thresholds. Answering with them takes numpy alone."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.calibration.calibrator import Calibrator
    from regraft.calibration.score import Score

CALIBRATORS: "Registry[type[Calibrator]]" = Registry(
    "calibrators",
    {
        # The simplest first: of methods that are equally good the first one is taken.
        "none": "regraft.calibration.none:Unchanged",
        "temperature": "regraft.calibration.temperature:Temperature",
        "vector": "regraft.calibration.vector:Vector",
        "beta": "regraft.calibration.beta:Beta",
        "isotonic": "regraft.calibration.isotonic:Isotonic",
        "shift": "regraft.calibration.shift:Shift",
    },
)

SCORES: "Registry[type[Score]]" = Registry(
    "scores",
    {
        "aps": "regraft.calibration.adaptive_sets:AdaptiveSets",
        "raps": "regraft.calibration.adaptive_sets:RegularisedSets",
        "residual": "regraft.calibration.intervals:Residual",
        "cqr": "regraft.calibration.intervals:QuantileResidual",
    },
)

__all__ = ["CALIBRATORS", "SCORES"]

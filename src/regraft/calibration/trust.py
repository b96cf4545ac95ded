"""What an artifact knows of how far it can be trusted: of each target a calibrator, scores, thresholds; JSON in its manifest.

    "calibration": {"": {"calibrator": {"name": "temperature", "temperatures": [1.7]}, "losses": {...}, "score": ...}}

An artifact that says nothing answers as the network does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from regraft.calibration import CALIBRATORS, SCORES
from regraft.calibration.abstain import Thresholds
from regraft.calibration.calibrator import Calibrator
from regraft.calibration.none import Unchanged
from regraft.calibration.score import Conformal, Ranked
from regraft.options import JSON, Pick


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far the answers to one target can be trusted.

    Args:
        calibrator: Changes evidence so that probabilities are what is seen.
        losses: Name of a calibrator -> mean loss of validation rows that it did not learn from; empty if none was tried.
        rows: Validation rows behind it.
        conformal: What sets or intervals are made by, if anything.
        score: The score as it was picked.
        thresholds: What confidences were worth, where answers are right or wrong.
    """

    calibrator: Calibrator = field(default_factory=Unchanged)
    losses: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    conformal: Conformal | None = None
    score: Pick | None = None
    thresholds: Thresholds | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return everything as JSON; floats keep every bit."""
        told: dict[str, JSON] = {"calibrator": {"name": self.calibrator.name, **self.calibrator.state()}, "rows": self.rows}
        if self.losses:
            told["losses"] = dict(self.losses)
        if self.conformal is not None and self.score is not None:
            told["score"] = {
                "name": self.score.name,
                "options": dict(self.score.options),
                "per_class": self.conformal.per_class,
                "ranked": [one.to_json() for one in self.conformal.ranked],
            }
        if self.thresholds is not None:
            told["thresholds"] = self.thresholds.to_json()
        return told

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> Trust:
        """Return what `to_json` wrote.

        Raises:
            UnknownNameError: A calibrator or a score is not registered here.
            KeyError: Something is missing.
            ValueError: A number cannot be.
        """
        told = dict(values["calibrator"])
        calibrator = CALIBRATORS.get(told.pop("name")).restore(told)
        conformal, pick = None, None
        if (said := values.get("score")) is not None:
            pick = Pick(said["name"], dict(said["options"]))
            score, options = pick.resolve(SCORES)
            ranked = tuple(Ranked.from_json(one) for one in said["ranked"])
            conformal = Conformal(score(options), ranked, bool(said["per_class"]))
        thresholds = Thresholds.from_json(values["thresholds"]) if "thresholds" in values else None
        losses = {str(name): float(loss) for name, loss in values.get("losses", {}).items()}
        return cls(
            calibrator=calibrator,
            losses=losses,
            rows=int(values["rows"]),
            conformal=conformal,
            score=pick,
            thresholds=thresholds,
        )


NOTHING = Trust()
"""Nothing is known: answers are what the network gives."""

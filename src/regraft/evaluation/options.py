"""How a model is judged."""

from __future__ import annotations

from typing import Annotated, Literal

from regraft.calibration.options import CalibrateOptions
from regraft.options import Field, PathText, options


@options
class JudgeOptions:
    """How a model is judged: intervals, tests and the baselines it is held against."""

    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Bootstrap resamples behind an interval."""

    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Confidence of every interval; a verdict other than "no evidence" needs a p-value under one minus this."""

    power: Annotated[float, Field(ge=0.5, le=0.999)] = 0.8
    """Chance of being seen that the smallest detectable difference is stated for."""

    probe_rows: Annotated[int, Field(ge=10)] = 20_000
    """Training rows that the baselines on frozen features learn from; beyond that a seeded sample, every class kept."""

    metric: str | None = None
    """Metric that models are compared by; the usual one of their kind of answers (accuracy, mean error) if not given."""

    group: str | None = None
    """Column that says which rows belong together (a speaker, a patient, a day): they are drawn and exchanged as one."""

    overlap: Literal["refuse", "leave-out", "keep"] = "refuse"
    """What `evaluate` and `compare` do with rows that an artifact learnt from."""

    id: str = "id"
    """Column that names rows, by which predictions made elsewhere find theirs."""

    rungs: tuple[str, ...] | None = None
    """Registered names of the baselines below the fitted model, weakest first; every one that fits the task if not given."""

    slices: tuple[str, ...] | None = None
    """Columns whose values are judged apart; every column of few values, and of dates, if not given."""

    weak_slices: bool = True
    """Whether groups of rows that are answered much worse than the rest are searched for."""

    fairness: str | None = None
    """Column of groups of people that are held against each other: how often each is given the positive answer."""

    positive: str | None = None
    """Label that is the positive answer for `fairness`; the one on which groups differ most if not given."""

    previous: PathText | None = None
    """Artifact that stood before, as a rung of the ladder: it answers the same rows."""


@options
class FitJudgeOptions(JudgeOptions):
    """How a fitted model is judged, and calibrated before that."""

    calibrate: CalibrateOptions = Field(default_factory=CalibrateOptions)
    """How its probabilities are made to mean something."""

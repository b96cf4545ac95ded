"""The report of `fit`, `evaluate` and `compare`: what was found, how sure it is, what was lost, what it cost.

As JSON (strict: None where a number is undefined, with a note saying why):

    kind              "fit", "evaluate" or "compare"
    n                 rows judged
    confidence        of every interval, 0.95
    metrics           name -> {value, low, high, n}; names in snake_case (accuracy, macro_f1, log_loss, roc_auc, ...)
    per_class         [{label, precision, recall, f1, support}], the three with {value, low, high, n}; empty for numbers
    confusion         {labels, counts}, counts[truth][predicted]; over 200 classes {labels, cells: [[truth, predicted, rows]]};
                      None where answers are not one class of several
    ladder            [{name, metrics, seconds, cost, note, against_previous}], weakest first; empty if nothing was compared;
                      cost: {seconds of learning, size_bytes and latency_ms of answering}, None where it is not known
    verdict           "better", "no evidence" or "worse": the last rung against the strongest below it; else None
    verdict_detail    {a, b, verdict, difference {value, low, high, n}, test, p_value, only_a_right, only_b_right,
                      smallest_detectable_difference, rows_needed}; None if nothing was compared. Where answers are not simply
                      right or wrong, "quantity" names the metric that the difference is of, and nearer_a, nearer_b count rows.
                      rows_needed: rows that would show the difference seen (power as for the smallest detectable one); None
                      where none was seen. "groups" counts the groups of rows that were exchanged whole, where rows belong
                      together. Where several comparisons are made at once (rungs of a ladder but for the one that is its
                      verdict, parts of an ablation, verdicts of several targets) "p_holm" is the corrected p-value, "family"
                      how many they are, and the verdict follows p_holm
    ablation          only where a row has several parts: [{name: "without PART", metrics, seconds, note, against_previous}],
                      the same model on the same rows as if that part were missing in all, against the model with all parts
    calibration       how honest probabilities are: {method, chosen_by, validation_rows, n, before, after, intervals,
                      reliability}; not there for answers without probabilities. chosen_by: calibrator -> loss of validation
                      rows that it did not learn from. before and after calibrating: {ece (equal mass, debiased), ece_plain,
                      rms_error, share_right, confidence, brier, brier_parts {reliability, resolution, uncertainty,
                      within_bins}, log_loss}; of quantiles {calibration_error, pinball}. intervals: before, after -> name ->
                      [low, high]. reliability: before, after -> [{low, high, confidence, share_right, n, share_low,
                      share_high}]; of quantiles [{level, share_below, n, share_low, share_high}]
    conformal         sets or intervals: {score, per_class, validation_rows, coverage_wanted, coverage_seen {value, low, high,
                      n}, mean_size, sizes, by_class [{label, value, low, high, n}], notes}; sizes: labels in a set -> rows, or
                      level -> quantile of the widths of intervals; not there without scores of validation rows
    abstain           what leaving out unsure answers gains and costs: {n, curve [{threshold, coverage, risk, risk_low,
                      risk_high, n}], promises [{precision, threshold, coverage, coverage_seen, precision_seen}], confidence,
                      validation_rows}; threshold is None where nothing can be promised; only where an answer is one label
    targets           only where there are several: target -> {n, metrics, per_class, confusion, ladder, verdict,
                      verdict_detail, ablation, calibration, conformal, abstain, slices, weak_slices, fairness, notes}, as
                      above and below, on the rows that have it; then "metrics" holds those of all of them as TARGET.METRIC,
                      and relative_loss, "ladder" is empty, "verdict" the weakest of theirs
    seeds             only where a contender is several fits that differ in their seed: contender -> {metric, seeds, values,
                      mean {value, low, high, n}, spread, variance {seeds, rows, both} of one fit's figure, shares of it};
                      metrics and ladder then hold means over seeds, and "verdict_detail" has "seeds": how many a and b have
    slices            only where there are any: groups of rows by columns, length, script, class, time, confidence
                      (`regraft.evaluation.slices`); in "targets" where there are several, as are the next two; none of the
                      three where the judged model is several fits
    weak_slices       only where they were looked for: groups that are much worse, found and tested
                      (`regraft.evaluation.weak_slices`)
    fairness          only where `judge.fairness` names groups of people (`regraft.evaluation.fairness`)
    ledger            reason -> {count, examples}
    fingerprint       of the data, as the data room gives it
    seconds           in all
    seconds_by_stage  stage -> seconds
    cost              rows and tokens a second, padding ratio, MFU, threads, memory (`regraft.training.cost.Cost`); may be {};
                      `predict_...` are figures of answering, in "compare" those of the last and `against_...` of the first
    notes             sentences a reader must know
    about             what was judged: whatever the verb states (artifact, base, task)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from regraft.errors import ArtifactError, Problem
from regraft.evaluation.answers import Answers
from regraft.evaluation.compare import Comparison
from regraft.evaluation.judge import ClassRow, Confusion, Judgement, judge, metrics_from_json
from regraft.evaluation.ladder import Ladder, Step
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.seeds import SeedStudy
from regraft.evaluation.slicing import Slicing
from regraft.options import JSON
from regraft.types import Ledger

TRUST = ("calibration", "conformal", "abstain")
"""Keys of what is said about how far answers can be trusted (`regraft.evaluation.trusted`)."""

_WEAKEST_FIRST = ("worse", "no evidence", "better")


@dataclass(frozen=True, kw_only=True)
class TargetReport:
    """What was found of one target.

    Args:
        judgement: Metrics, classes and confusion.
        ladder: What it was held against, if anything.
        ablation: Of rows with several parts, what the model is without each of them.
        seeds: Contender -> what its seeds and what the rows do, where it has several.
        trust: What is said under the keys of `TRUST`, JSON values.
        slicing: What was found of groups of rows.
    """

    judgement: Judgement
    ladder: Ladder | None = None
    ablation: Sequence[Step] = ()
    seeds: Mapping[str, SeedStudy] = field(default_factory=dict)
    trust: Mapping[str, JSON] = field(default_factory=dict)
    slicing: Slicing = field(default_factory=Slicing)

    @property
    def verdict(self) -> str | None:
        """The verdict in one word, or nothing if nothing was compared."""
        return self.ladder.verdict.verdict if self.ladder else None

    def to_json(self) -> dict[str, JSON]:
        """Return it as one JSON object; the form is described at the top of this file."""
        judged = self.judgement.to_json()
        return {
            "n": judged["n"],
            "metrics": judged["metrics"],
            "per_class": judged["per_class"],
            "confusion": judged["confusion"],
            "ladder": [step.to_json() for step in self.ladder.steps] if self.ladder else [],
            "verdict": self.verdict,
            "verdict_detail": self.ladder.verdict.to_json() if self.ladder else None,
            **({"ablation": [step.to_json() for step in self.ablation]} if self.ablation else {}),
            **({"seeds": {name: one.to_json() for name, one in self.seeds.items()}} if self.seeds else {}),
            **dict(self.trust),
            **self.slicing.to_json(),
            "notes": judged["notes"],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, JSON], confidence: float) -> TargetReport:
        """Return what `to_json` wrote."""
        judgement = dataclasses.replace(_judgement(values, confidence), notes=tuple(values["notes"]))
        return cls(
            judgement=judgement,
            ladder=_ladder(values),
            ablation=_ablation(values),
            seeds=_seeds(values),
            trust=_trust(values),
            slicing=Slicing.from_json(values),
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a verb found. The JSON form is described at the top of this file.

    Args:
        kind: The verb.
        judgement: Metrics, classes and confusion of the model that is reported on.
        ladder: What it was held against, if anything.
        ledger: What was lost on the way.
        fingerprint: Of the data, a JSON value.
        seconds: In all.
        seconds_by_stage: Stage -> seconds.
        cost: Throughput, share of the machine's peak, memory, JSON values by name.
        notes: Sentences a reader must know, beside those of the judgement.
        about: What was judged, JSON values by name.
        ablation: Of rows with several parts, what the model is without each of them.
        targets: Where there are several targets, what was found of each.
        seeds: Contender -> what its seeds and what the rows do, where it has several.
        trust: What is said under the keys of `TRUST`, JSON values.
        answers: The judged rows one by one, where they are still at hand; no part of the JSON form.
        slicing: What was found of groups of rows, where there is one target.
    """

    kind: str
    judgement: Judgement
    ladder: Ladder | None = None
    ledger: Ledger = field(default_factory=Ledger)
    fingerprint: JSON = None
    seconds: float = 0.0
    seconds_by_stage: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, JSON] = field(default_factory=dict)
    notes: Sequence[str] = ()
    about: Mapping[str, JSON] = field(default_factory=dict)
    ablation: Sequence[Step] = ()
    targets: Mapping[str, TargetReport] = field(default_factory=dict)
    seeds: Mapping[str, SeedStudy] = field(default_factory=dict)
    trust: Mapping[str, JSON] = field(default_factory=dict)
    answers: Answers | None = field(default=None, compare=False, repr=False)
    slicing: Slicing = field(default_factory=Slicing)

    @property
    def verdict(self) -> str | None:
        """The verdict in one word, of several targets the weakest; nothing if nothing was compared."""
        found = [one.verdict for one in self.targets.values()] or [self.ladder.verdict.verdict if self.ladder else None]
        known = [verdict for verdict in found if verdict is not None]
        return min(known, key=_WEAKEST_FIRST.index) if known else None

    def to_json(self) -> dict[str, JSON]:
        """Return the report as one JSON object without NaN or infinity."""
        judged = self.judgement.to_json()
        report = {
            "kind": self.kind,
            "n": judged["n"],
            "confidence": judged["confidence"],
            "metrics": judged["metrics"],
            "per_class": judged["per_class"],
            "confusion": judged["confusion"],
            "ladder": [step.to_json() for step in self.ladder.steps] if self.ladder else [],
            "verdict": self.verdict,
            "verdict_detail": self.ladder.verdict.to_json() if self.ladder else None,
            **({"ablation": [step.to_json() for step in self.ablation]} if self.ablation else {}),
            **self.slicing.to_json(),
            **({"targets": {name: one.to_json() for name, one in self.targets.items()}} if self.targets else {}),
            **({"seeds": {name: one.to_json() for name, one in self.seeds.items()}} if self.seeds else {}),
            **dict(self.trust),
            "ledger": self.ledger.to_json(),
            "fingerprint": self.fingerprint,
            "seconds": self.seconds,
            "seconds_by_stage": dict(self.seconds_by_stage),
            "cost": dict(self.cost),
            "notes": list(dict.fromkeys([*judged["notes"], *self.notes])),
            "about": dict(self.about),
        }
        return {name: _strict(value) for name, value in report.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> Report:
        """Return the report that `to_json` wrote; all notes are then the report's own.

        Raises:
            ArtifactError: It is not such a report.
        """
        try:
            return cls._read(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            got = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            problem = Problem(
                what="this is not a report that can be read",
                got=got,
                expected="a report as `regraft fit --json` writes it",
                fix="make the report again with this version",
            )
            raise ArtifactError(problem) from error

    @classmethod
    def _read(cls, values: Mapping[str, JSON]) -> Report:
        losses = values["ledger"].items()
        return cls(
            kind=values["kind"],
            judgement=_judgement(values, values["confidence"]),
            ladder=_ladder(values),
            ledger=Ledger({why: loss["count"] for why, loss in losses}, {why: list(loss["examples"]) for why, loss in losses}),
            fingerprint=values["fingerprint"],
            seconds=values["seconds"],
            seconds_by_stage=values["seconds_by_stage"],
            cost=dict(values.get("cost", {})),
            notes=tuple(values["notes"]),
            about=values["about"],
            ablation=_ablation(values),
            slicing=Slicing.from_json(values),
            targets={
                name: TargetReport.from_json(one, values["confidence"]) for name, one in values.get("targets", {}).items()
            },
            seeds=_seeds(values),
            trust=_trust(values),
        )


def _judgement(values: Mapping[str, JSON], confidence: float) -> Judgement:
    return Judgement(
        n=values["n"],
        metrics=metrics_from_json(values["metrics"]),
        per_class=tuple(ClassRow.from_json(row) for row in values["per_class"]),
        confusion=Confusion.from_json(values["confusion"]) if values["confusion"] is not None else None,
        confidence=confidence,
    )


def _ladder(values: Mapping[str, JSON]) -> Ladder | None:
    if not values["ladder"]:
        return None
    steps = tuple(Step.from_json(step) for step in values["ladder"])
    return Ladder(steps=steps, verdict=Comparison.from_json(values["verdict_detail"]))


def _ablation(values: Mapping[str, JSON]) -> tuple[Step, ...]:
    return tuple(Step.from_json(step) for step in values.get("ablation", ()))


def _seeds(values: Mapping[str, JSON]) -> dict[str, SeedStudy]:
    return {name: SeedStudy.from_json(one) for name, one in values.get("seeds", {}).items()}


def _trust(values: Mapping[str, JSON]) -> dict[str, JSON]:
    return {name: values[name] for name in TRUST if name in values}


def _strict(value: JSON) -> JSON:
    """Return the value with None for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["JudgeOptions", "Judgement", "Report", "TargetReport", "judge"]

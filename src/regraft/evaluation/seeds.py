"""One way to fit, several seeds: how good it is, how far one fit is from another, and whether another way is better than it.

A figure of one fit on one test set moves for two reasons: another seed would have given another network, and other rows would
have been easier or harder. With S seeds judged on the same N rows the two are told apart by the analysis of variance of a
two-way table (random effects without repetition; Searle, Casella & McCulloch 1992, "Variance components", section 4.3):

    score of seed s on row n = mean + seed_s + row_n + rest_sn

Two ways to fit are compared by the difference of their means over seeds and rows. Its variance is that of both means over seeds
and of the rows' differences, its degrees of freedom are Satterthwaite's (1946), and the test is Student's t: unlike a test on
rows alone it asks about the way to fit, not about the networks that happened to come out. The small part that a seed does to
single rows is counted in both, which keeps the test from finding too much where seeds are few.

Shapes: S seeds, N rows, U units (rows, or groups of rows), C columns of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regraft.evaluation import METRICS
from regraft.evaluation.answer_kind import AnswerKind, fitting_names
from regraft.evaluation.clusters import group_sums, relevant, units
from regraft.evaluation.compare import Comparison, Verdict
from regraft.evaluation.judge import Judgement, json_name, metric_from_json, metric_json
from regraft.evaluation.kinds_of_classes import Classes
from regraft.evaluation.ladder import Contender, Ladder, Step, with_family
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import compared_by, reconciled
from regraft.evaluation.shares import p_of_t, quantile_of_normal, quantile_of_t
from regraft.types import Array, FloatArray, Metric


@dataclass(frozen=True, kw_only=True)
class SeedStudy:
    """What several fits that differ only in their seed say of the way in which they were fitted.

    Args:
        metric: Registered name of the metric, a mean over rows.
        seeds: The seeds.
        values: The metric of each fit.
        mean: Their mean; its interval is of other seeds and other rows. NaN ends for one seed.
        spread: Standard deviation of the values.
        of_seeds: Variance of one fit's figure that comes from its seed.
        of_rows: That comes from which rows it was judged on.
        of_both: That comes from what a seed does to single rows, and nothing else explains.
    """

    metric: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: Metric
    spread: float
    of_seeds: float
    of_rows: float
    of_both: float

    @property
    def shares(self) -> dict[str, float]:
        """Share of the variance of one fit's figure by where it comes from; they add up to 1, or are all 0."""
        parts = {"seeds": self.of_seeds, "rows": self.of_rows, "both": self.of_both}
        total = sum(parts.values())
        return {name: part / total if total > 0 else 0.0 for name, part in parts.items()}

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "metric": json_name(self.metric),
            "seeds": list(self.seeds),
            "values": list(self.values),
            "mean": metric_json(self.mean),
            "spread": self.spread,
            "variance": {"seeds": self.of_seeds, "rows": self.of_rows, "both": self.of_both},
            "shares": self.shares,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SeedStudy:
        """Return what `to_json` wrote."""
        parts = values["variance"]
        return cls(
            metric=values["metric"].replace("_", "-"),
            seeds=tuple(values["seeds"]),
            values=tuple(values["values"]),
            mean=metric_from_json(values["mean"]),
            spread=values["spread"],
            of_seeds=parts["seeds"],
            of_rows=parts["rows"],
            of_both=parts["both"],
        )

    def sentence(self, name: str) -> str:
        """Say it in one sentence."""
        shares, mean = self.shares, self.mean
        told = f"{name}: {self.metric} {mean.value:.4g} [{mean.low:.4g}, {mean.high:.4g}] over {len(self.seeds)} seeds"
        parts = f"{shares['seeds']:.0%} of the variance of one fit come from its seed, {shares['rows']:.0%} from the rows"
        parts += f", {shares['both']:.0%} from what its seed does to single rows"
        return f"{told}, standard deviation {self.spread:.2g}; {parts}"


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """A contender with one fit or several.

    Args:
        name: What to call it.
        seeds: The seeds of its fits.
        outputs: For each fit what it gives for the judged rows (N, C).
        seconds: What answering took, the mean over fits.
        note: What else is to be said of it.
        size_bytes: What one fit takes to answer; None where it is not known.
        latency_ms: What one row takes one fit, the mean over fits; None where it was not measured.
    """

    name: str
    seeds: tuple[int, ...]
    outputs: tuple[FloatArray, ...]
    seconds: float = 0.0
    note: str = ""
    size_bytes: int | None = None
    latency_ms: float | None = None

    @classmethod
    def of(cls, contender: Contender) -> Seeded:
        """Return a contender of a ladder with all of its fits."""
        return cls(
            name=contender.name,
            seeds=contender.seeds or (0,),
            outputs=(contender.probabilities_NC, *contender.more),
            seconds=contender.seconds,
            note=contender.note,
            size_bytes=contender.size_bytes,
            latency_ms=contender.latency_ms,
        )


def study(
    name: str, scores_SN: FloatArray, seeds: Sequence[int], confidence: float, groups_N: Array | None = None
) -> SeedStudy:
    """Tell apart what seeds and what rows do to a mean over rows.

    Args:
        name: Registered name of the metric whose values of single rows these are.
        scores_SN: Value of each row by each fit.
        seeds: The seeds.
        confidence: Of the interval.
        groups_N: Which rows belong together; each by itself if not given.

    Example:
        >>> found = study("accuracy", np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]]), [0, 1], 0.95)
        >>> found.values, round(found.shares["rows"], 2)
        ((0.75, 0.5), 0.5)
    """
    values_S, table_SU = scores_SN.mean(axis=1), _by_unit(scores_SN, groups_N)
    fits, drawn = table_SU.shape
    mean = float(values_S.mean())
    ends, parts = (math.nan, math.nan), (0.0, 0.0, 0.0)
    if fits > 1 and drawn > 1:
        of_seeds, of_rows, rest = _mean_squares(table_SU)
        parts = max(0.0, of_seeds - rest) / drawn, max(0.0, of_rows - rest) / fits / drawn, rest / drawn
        both = of_seeds / (fits * drawn), of_rows / (fits * drawn)
        reach = _reach(zip(both, (fits - 1, drawn - 1), strict=True), confidence)
        ends = mean - reach, mean + reach
    return SeedStudy(
        metric=name,
        seeds=tuple(seeds),
        values=tuple(values_S.tolist()),
        mean=Metric(mean, *ends, scores_SN.shape[1]),
        spread=float(values_S.std(ddof=1)) if fits > 1 else 0.0,
        of_seeds=parts[0],
        of_rows=parts[1],
        of_both=parts[2],
    )


def compare_seeds(
    scores: tuple[FloatArray, FloatArray],
    quantity: tuple[str, bool],
    names: tuple[str, str],
    *,
    options: JudgeOptions,
    groups_N: Array | None = None,
) -> Comparison:
    """Compare two ways to fit, of which one at least has several seeds, on the same rows.

    Where one of them has a single fit, its seeds are taken to differ as the other's do.

    Args:
        scores: For A and for B the value of each row by each fit (S, N).
        quantity: Registered name of the metric, and whether more of it is better.
        names: What to call A and B.
        options: Confidence and power.
        groups_N: Which rows belong together; each by itself if not given.
    """
    a_SN, b_SN = scores
    alpha, rows = 1 - options.confidence, a_SN.shape[1]
    tables = [_by_unit(one, groups_N) for one in scores]
    moved_U = tables[1].mean(axis=0) - tables[0].mean(axis=0)
    value, drawn = float(b_SN.mean() - a_SN.mean()), len(moved_U)
    of_rows = float(moved_U.var(ddof=1)) / drawn if drawn > 1 else 0.0
    found = [float(table.mean(axis=1).var(ddof=1)) if len(table) > 1 else None for table in tables]
    shared = next(variance for variance in found if variance is not None)
    freedoms = [max(len(table) - 1, max(map(len, tables)) - 1 if len(table) == 1 else 0) for table in tables]
    of_seeds = [(shared if own is None else own) / len(table) for own, table in zip(found, tables, strict=True)]
    parts = [*zip(of_seeds, freedoms, strict=True), (of_rows, max(drawn - 1, 1))]
    error, freedom = math.sqrt(sum(part for part, _ in parts)), _freedom(parts)
    p_value = p_of_t(value / error, freedom) if error > 0 else float(value == 0)
    decided = p_value < alpha and value != 0
    verdict: Verdict = "no evidence"
    if decided:
        verdict = "better" if (value > 0) == quantity[1] else "worse"
    reach = _reach(parts, options.confidence)
    both = quantile_of_normal(1 - alpha / 2) + quantile_of_normal(options.power)
    left = (value / both) ** 2 - sum(of_seeds)
    costs = [(-1 if quantity[1] else 1) * one.mean(axis=0) for one in scores]
    return Comparison(
        a=names[0],
        b=names[1],
        difference=Metric(value, *reconciled(value - reach, value + reach, value, found=decided), rows),
        p_value=p_value,
        only_a_right=int((costs[0] < costs[1]).sum()),
        only_b_right=int((costs[1] < costs[0]).sum()),
        verdict=verdict,
        smallest_detectable=both * error,
        quantity=quantity[0],
        rows_needed=math.ceil(rows * of_rows / left) if value and left > 0 else None,
        groups=0 if groups_N is None else drawn,
        seeds=(len(a_SN), len(b_SN)),
    )


def climb_seeds(
    contenders: Sequence[Seeded],
    targets_N: Array,
    kind: AnswerKind,
    metrics: Sequence[str],
    *,
    options: JudgeOptions,
    seed: int = 0,
    groups_N: Array | None = None,
) -> tuple[Ladder, Judgement, dict[str, SeedStudy]]:
    """Judge contenders of which some have several seeds, each against the one before it, the last against the strongest.

    Args:
        contenders: At least two, in order.
        targets_N: What is true.
        kind: Kind of the answers.
        metrics: Registered names of the metrics.
        options: Resamples, confidence and power.
        seed: Seeds the resamples.
        groups_N: Which rows belong together; each by itself if not given.

    Returns:
        The ladder; the judgement of the last contender, with means over its seeds, and classes of the seed in the middle; what
        seeds and rows do to each that has several.
    """
    groups_N = relevant(groups_N)
    steps: list[Step] = []
    scores: list[FloatArray] = []
    studies: dict[str, SeedStudy] = {}
    judged: list[Judgement] = []
    quantity = ("", True)
    for contender in contenders:
        given = [kind.checked(targets_N, outputs_NC, contender.name) for outputs_NC in contender.outputs]
        targets_N = given[0][0]
        rows = [row_scores(kind, targets_N, outputs_NC, options) for _, outputs_NC in given]
        quantity = rows[0][:2]
        scores.append(np.stack([found for _, _, found in rows]))
        judged = [kind.judge(metrics, targets_N, out, options=options, seed=seed, groups_N=groups_N) for _, out in given]
        found = study(quantity[0], scores[-1], contender.seeds, options.confidence, groups_N)
        studies |= {contender.name: found} if len(contender.seeds) > 1 else {}
        by_seed = {name: [one.metrics[name] for one in judged] for name in judged[0].metrics}
        means = {name: mean_metric(name, values, options.confidence) for name, values in by_seed.items()}
        if len(contender.seeds) > 1 and quantity[0] in means:  # a mean over rows, of which the two are told apart exactly
            means[quantity[0]] = _within(quantity[0], found.mean)
        against = None
        if steps:
            against = _compared(kind, (scores[-2], scores[-1]), quantity, (steps[-1].name, contender.name), options, groups_N)
        steps.append(
            Step(
                name=contender.name,
                metrics=means,
                seconds=contender.seconds,
                note=contender.note,
                against_previous=against,
                size_bytes=contender.size_bytes,
                latency_ms=contender.latency_ms,
            )
        )
    sign = 1 if quantity[1] else -1
    strongest = max(range(len(steps) - 1), key=lambda place: (sign * float(scores[place].mean()), place))
    verdict = steps[-1].against_previous
    if verdict is None or strongest != len(steps) - 2:
        names = (steps[strongest].name, steps[-1].name)
        verdict = _compared(kind, (scores[strongest], scores[-1]), quantity, names, options, groups_N)
    ladder = Ladder(steps=with_family(steps, options.confidence, verdict), verdict=verdict)
    middle = int(np.argsort(scores[-1].mean(axis=1), kind="stable")[(len(judged) - 1) // 2])
    last = contenders[-1]
    notes = [f"classes and confusion are those of seed {last.seeds[middle]}, the one in the middle"] if len(judged) > 1 else []
    notes += [found.sentence(name) for name, found in studies.items()]
    whole = replace(judged[middle], metrics=steps[-1].metrics, notes=(*judged[middle].notes, *notes))
    return ladder, whole, studies


def row_scores(
    kind: AnswerKind, targets_N: Array, outputs_NC: FloatArray, options: JudgeOptions
) -> tuple[str, bool, FloatArray]:
    """Return the metric that ways to fit are compared by, whether more of it is better, and its value of each row (N,).

    It is `options.metric` or the usual one where that is a mean over rows, else the first metric of such answers that is.
    """
    name, measure = compared_by(kind, options)
    if measure is None and isinstance(kind, Classes) and name == Classes.compared_by:
        return name, True, (kind.decide(outputs_NC) == targets_N).astype(np.float64)
    for other in (name, *fitting_names(METRICS, kind.name)):
        ((other, measure),) = kind.measures([other]).items()
        found = measure.of_rows(targets_N, outputs_NC) if measure.higher_is_better is not None else None
        if found is not None:
            return other, bool(measure.higher_is_better), found
    return "cost", False, kind.costs(targets_N, outputs_NC)


def mean_metric(name: str, found: Sequence[Metric], confidence: float) -> Metric:
    """Return the mean of a metric over seeds; its interval is of other seeds and other rows.

    The variance of the values over the number of seeds, and that of the mean half width of their intervals, which are of rows;
    degrees of freedom as Satterthwaite's.

    Args:
        name: Registered name, for the bounds.
        found: The metric of each fit with its interval.
        confidence: Of these and of the new interval.
    """
    if len(found) == 1:
        return found[0]
    values = np.array([one.value for one in found])
    halves = np.array([(one.high - one.low) / 2 for one in found])
    if np.isnan(values).any() or np.isnan(halves).any():
        return Metric(float(values.mean()), math.nan, math.nan, found[0].n)
    of_seeds = float(values.var(ddof=1)) / len(values)
    of_rows = (float(halves.mean()) / quantile_of_normal(0.5 + confidence / 2)) ** 2
    reach = _reach([(of_seeds, len(values) - 1), (of_rows, math.inf)], confidence)
    mean = float(values.mean())
    return _within(name, Metric(mean, mean - reach, mean + reach, found[0].n))


def _within(name: str, metric: Metric) -> Metric:
    """Return a metric whose interval does not leave its bounds."""
    bottom, top = METRICS.get(name).bounds
    return replace(metric, low=max(bottom, metric.low), high=min(top, metric.high))


def _freedom(parts: Iterable[tuple[float, float]]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances, each with its own."""
    listed = list(parts)
    squares = sum(part**2 / free for part, free in listed)
    return sum(part for part, _ in listed) ** 2 / squares if squares > 0 else math.inf


def _reach(parts: Iterable[tuple[float, float]], confidence: float) -> float:
    """Return how far an interval reaches, from the variances it is made of and the degrees of freedom of each."""
    listed = list(parts)
    return quantile_of_t(0.5 + confidence / 2, _freedom(listed)) * math.sqrt(sum(part for part, _ in listed))


def _compared(
    kind: AnswerKind,
    scores: tuple[FloatArray, FloatArray],
    quantity: tuple[str, bool],
    names: tuple[str, str],
    options: JudgeOptions,
    groups_N: Array | None,
) -> Comparison:
    if max(map(len, scores)) > 1:
        plain = "" if quantity[0] == Classes.compared_by else quantity[0]
        return compare_seeds(scores, (plain, quantity[1]), names, options=options, groups_N=groups_N)
    from regraft.evaluation.compare import compare_right
    from regraft.evaluation.paired import Quantity, compare_sums, mean_of_rows

    if quantity[0] == Classes.compared_by and groups_N is None:
        return compare_right(scores[0][0] > 0, scores[1][0] > 0, names, options=options)
    parts = scores[0][0][:, None], scores[1][0][:, None]
    plain = "" if quantity[0] == Classes.compared_by else quantity[0]
    return compare_sums(parts, Quantity(plain, quantity[1], mean_of_rows), names, options=options, groups_N=groups_N)


def _by_unit(scores_SN: FloatArray, groups_N: Array | None) -> FloatArray:
    """Return scores of units (S, U) whose plain mean is that of the rows."""
    if groups_N is None:
        return scores_SN
    sums_SU: FloatArray = group_sums(scores_SN.T, groups_N).T
    return sums_SU * (units(len(groups_N), groups_N) / len(groups_N))


def _mean_squares(table_SU: FloatArray) -> tuple[float, float, float]:
    """Return the mean squares of seeds, of rows, and of what is left."""
    fits, drawn = table_SU.shape
    by_seed, by_row = table_SU.mean(axis=1), table_SU.mean(axis=0)
    rest_SU = table_SU - by_seed[:, None] - by_row + table_SU.mean()
    rest = float(np.square(rest_SU).sum()) / ((fits - 1) * (drawn - 1))
    return drawn * float(by_seed.var(ddof=1)), fits * float(by_row.var(ddof=1)), rest


__all__ = ["SeedStudy", "Seeded", "climb_seeds", "compare_seeds", "mean_metric", "row_scores", "study"]

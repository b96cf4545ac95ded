"""Where might a model be weak? Candidates for weak slices, found on some rows and to be tested on others.

Rules are made of conditions on what is known of a row: a value of a column, a number above or below a twentieth of its
distribution, the cluster that its features are in. Two ways lead to them: every condition and every pair of conditions is
looked at (two matrix products), and a shallow regression tree on the costs finds limits of its own, and rules of three
conditions.

Shapes: N rows, M conditions, D width of features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.evaluation.metadata import FEW_VALUES, Described, Metadata
from regraft.types import Array, FloatArray

SMALLEST_SHARE = 0.02
"""Share of the rows that a weak slice must have."""
SMALLEST_ROWS = 20
LARGEST_SHARE = 0.5
MATTERS = 0.2
"""Difference of mean costs that matters, in standard deviations of the costs: Cohen's (1988) small effect."""
MARGIN = 0.05
"""Difference that a slice is tested to exceed, in the same unit."""
MOST_CANDIDATES = 3
_CUTS = 20
_DEPTH = 3
_SIMPLER = 1.0
_ALIKE = 0.5
_MOST_CONDITIONS = 400
_MOST_SEARCHED = 20_000
_MOST_CLUSTERED = 5_000
_ROWS_A_CLUSTER = 100
_MOST_CLUSTERS = 20
_TOP_PAIRS = 200


@dataclass(frozen=True)
class Condition:
    """What a row must fulfil.

    Args:
        column: What it is about.
        sign: How ("=", "is not", ">", "<=").
        bound: Number of the limit; NaN for values.
        text: As people read it.
        inside_N: The rows that fulfil it, true or false.
    """

    column: str
    sign: str
    bound: float
    text: str
    inside_N: Array


@dataclass(frozen=True)
class Candidate:
    """Rows that may be answered worse than the rest.

    Args:
        conditions: All of them must hold.
        inside_N: The rows.
        score: How much worse they are where they were found, in standard errors.
    """

    conditions: tuple[Condition, ...]
    inside_N: Array
    score: float = 0.0

    @property
    def rule(self) -> str:
        """The rule as people read it ("country = IT and length > 180"); conditions in the order of their texts."""
        return " and ".join(sorted(condition.text for condition in self.conditions))

    @property
    def worth(self) -> float:
        """The score, less what each condition must be worth: of rules that are nearly as good the simpler one is read."""
        return self.score - _SIMPLER * len(self.conditions)


def fewest_rows(rows: int) -> int:
    """Return how many of so many rows a weak slice must have at least."""
    return max(SMALLEST_ROWS, math.ceil(SMALLEST_SHARE * rows))


def conditions_of(known: Metadata, seed: int) -> list[Condition]:
    """Return every condition; losses are not looked at.

    Args:
        known: What is known of the rows.
        seed: Seeds the clusters.
    """
    columns = [*known.columns, *known.computed]
    found = [condition for column in columns for condition in _of_column(column)]
    found += [] if known.features_ND is None else _of_clusters(known.features_ND, seed)
    rows = len(known.numbers_N)
    large = [condition for condition in found if fewest_rows(rows) <= condition.inside_N.sum() <= rows - fewest_rows(rows)]
    return large[:_MOST_CONDITIONS]


def _of_column(column: Described) -> Iterator[Condition]:
    missing_N = column.codes_N < 0
    if missing_N.any():
        yield Condition(column.name, "=", math.nan, f"{column.name} is missing", missing_N)
    if len(column.values) <= FEW_VALUES or column.scale_V is None:
        counts = np.bincount(column.codes_N[~missing_N], minlength=len(column.values))
        for place in np.argsort(-counts, kind="stable")[:FEW_VALUES].tolist():
            yield Condition(column.name, "=", math.nan, f"{column.name} = {column.values[place]}", column.codes_N == place)
    if column.scale_V is not None and len(column.values) > 2:
        numbers_N = column.numbers()
        cuts = np.quantile(numbers_N[~missing_N], np.arange(1, _CUTS) / _CUTS, method="lower")
        for cut in dict.fromkeys(rounded(cut, column) for cut in cuts.tolist()):
            yield bounded(column, ">", cut)
            yield bounded(column, "<=", cut)


def rounded(cut: float, column: Described) -> float:
    """Return a limit as it is shown, so that the rule that is read is the rule that is applied."""
    whole = column.scale_V is not None and bool((column.scale_V == np.floor(column.scale_V)).all())
    return math.floor(cut) if whole else float(f"{cut:.4g}")


def bounded(column: Described, sign: str, cut: float) -> Condition:
    """Return the condition that a number is above a limit (">") or not ("<="); rows without the number do not fulfil it."""
    with np.errstate(invalid="ignore"):
        inside_N = column.numbers() > cut if sign == ">" else column.numbers() <= cut
    return Condition(column.name, sign, cut, f"{column.name} {sign} {column.shown(cut)}", inside_N)


def _of_clusters(features_ND: FloatArray, seed: int) -> list[Condition]:
    """Return one condition a cluster of features (k-means, Lloyd 1982, on features of unit variance)."""
    try:
        from sklearn.cluster import KMeans
    except ModuleNotFoundError:
        return []
    from regraft.evaluation.rungs import Scaled

    rows = len(features_ND)
    clusters = min(_MOST_CLUSTERS, rows // _ROWS_A_CLUSTER)
    if clusters < 2:
        return []
    scaled_ND = Scaled(features_ND)(features_ND).astype(np.float32)
    learnt_ND = scaled_ND[np.random.default_rng(seed).permutation(rows)[:_MOST_CLUSTERED]]
    model = KMeans(n_clusters=min(clusters, len(np.unique(learnt_ND, axis=0))), n_init=1, random_state=seed % 2**32)
    nearest_N = model.fit(learnt_ND).predict(scaled_ND)
    return [
        Condition("features", "=", math.nan, f"features in cluster {place + 1}", nearest_N == place)
        for place in range(model.n_clusters)
    ]


def candidates_of(
    conditions: Sequence[Condition], known: Metadata, costs_N: FloatArray, rows: Array, seed: int
) -> list[Candidate]:
    """Return the rules under which some rows are answered worst, the worst first.

    Args:
        conditions: What rules are made of.
        known: What is known of all rows, for thresholds that a tree finds.
        costs_N: How bad the answer to each row is.
        rows: Positions of the rows to search on; nothing else is looked at.
        seed: Seeds the tree.
    """
    rows = rows[:_MOST_SEARCHED]
    spread, smallest = float(costs_N[rows].std()), fewest_rows(len(rows))
    if not spread or not conditions:
        return []
    given: list[tuple[Condition, ...]] = [(condition,) for condition in conditions]
    given += _pairs(conditions, costs_N, rows, spread)
    given += _branches(conditions, known, costs_N, rows, seed)
    scored = []
    for rule in given:
        inside_N = np.logical_and.reduce([condition.inside_N for condition in rule])
        inside = inside_N[rows]
        count = int(inside.sum())
        if not smallest <= count <= LARGEST_SHARE * len(rows):
            continue
        costs = costs_N[rows]
        worse = float(costs[inside].mean() - costs[~inside].mean()) / spread
        if worse >= MATTERS:
            scored.append(Candidate(rule, inside_N, _score(worse, count, len(rows))))
    scored.sort(key=lambda one: (-one.worth, one.rule))
    return _different(scored, rows)


def _score(worse: float, count: int, rows: int) -> float:
    """Return by how many standard errors a difference is beyond the margin."""
    return (worse - MARGIN) / math.sqrt(1 / count + 1 / (rows - count))


def _different(scored: Sequence[Candidate], rows: Array) -> list[Candidate]:
    """Return the best candidates that are not nearly the same rows as a better one."""
    chosen: list[Candidate] = []
    for candidate in scored:
        inside = candidate.inside_N[rows]
        if all(overlap(inside, other.inside_N[rows]) <= _ALIKE for other in chosen):
            chosen.append(candidate)
        if len(chosen) == MOST_CANDIDATES:
            break
    return chosen


def overlap(one_N: Array, other_N: Array) -> float:
    """Return the rows in both groups over the rows in either (Jaccard 1912)."""
    either = int((one_N | other_N).sum())
    return int((one_N & other_N).sum()) / either if either else 0.0


def _pairs(conditions: Sequence[Condition], costs_N: FloatArray, rows: Array, spread: float) -> list[tuple[Condition, ...]]:
    """Return the pairs of conditions whose rows are worst."""
    inside_MN = np.stack([condition.inside_N[rows] for condition in conditions]).astype(np.float32)
    costs_n = (costs_N[rows] - costs_N[rows].mean()) / spread  # the mean of all is 0
    counts_MM = (inside_MN @ inside_MN.T).astype(np.float64)
    sums_MM = ((inside_MN * costs_n.astype(np.float32)) @ inside_MN.T).astype(np.float64)
    outside_MM = np.maximum(len(rows) - counts_MM, 1.0)
    counts_MM = np.where(np.triu(np.ones_like(counts_MM), 1) > 0, counts_MM, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        worse_MM = sums_MM / counts_MM + sums_MM / outside_MM
        scores_MM = (worse_MM - MARGIN) / np.sqrt(1 / counts_MM + 1 / outside_MM)
    scores_MM[counts_MM < fewest_rows(len(rows))] = -np.inf
    best = np.argsort(-scores_MM, axis=None, kind="stable")[:_TOP_PAIRS]
    places = [(int(place) // len(conditions), int(place) % len(conditions)) for place in best]
    return [(conditions[one], conditions[other]) for one, other in places if np.isfinite(scores_MM[one, other])]


def _branches(
    conditions: Sequence[Condition], known: Metadata, costs_N: FloatArray, rows: Array, seed: int
) -> list[tuple[Condition, ...]]:
    """Return the ways to every node of a shallow regression tree (Breiman et al. 1984); none without scikit-learn."""
    try:
        from sklearn.tree import DecisionTreeRegressor
    except ModuleNotFoundError:
        return []
    numbers = [column for column in (*known.columns, *known.computed) if column.scale_V is not None and len(column.values) > 2]
    values = [condition for condition in conditions if math.isnan(condition.bound)]
    below = -1e30  # a number that is missing stands apart from all others; no rule of it holds for such a row
    table = [np.nan_to_num(column.numbers()[rows], nan=below).clip(below, -below) for column in numbers]
    table_NM = np.stack([*table, *(condition.inside_N[rows].astype(np.float64) for condition in values)], axis=1)
    model = DecisionTreeRegressor(max_depth=_DEPTH, min_samples_leaf=fewest_rows(len(rows)), random_state=seed % 2**32)
    tree = model.fit(table_NM, costs_N[rows]).tree_

    def step(feature: int, cut: float, *, above: bool) -> Condition:
        if feature < len(numbers):
            column = numbers[feature]
            return bounded(column, ">" if above else "<=", rounded(cut, column))
        value = values[feature - len(numbers)]
        return value if above else _opposite(value)

    return list(_ways(tree, step))


def _ways(tree: Any, step: Any) -> Iterator[tuple[Condition, ...]]:
    """Yield the conditions on the way to each node but the root, without those that a later one makes needless."""
    waiting: list[tuple[int, tuple[Condition, ...]]] = [(0, ())]
    while waiting:
        node, way = waiting.pop()
        if way:
            yield way
        if tree.children_left[node] < 0:
            continue
        for child, above in ((tree.children_left[node], False), (tree.children_right[node], True)):
            added = step(int(tree.feature[node]), float(tree.threshold[node]), above=above)
            kept = tuple(c for c in way if math.isnan(c.bound) or (c.column, c.sign) != (added.column, added.sign))
            waiting.append((int(child), (*kept, added)))


def _opposite(condition: Condition) -> Condition:
    text = condition.text.replace(" = ", " is not ", 1).replace(" is missing", " is there", 1).replace(" in ", " not in ", 1)
    return Condition(condition.column, "is not", math.nan, text, ~condition.inside_N)


__all__ = ["Candidate", "Condition", "candidates_of", "conditions_of", "fewest_rows", "overlap"]

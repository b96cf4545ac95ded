"""Answers to several targets at once, and the one number that says how good all of them are.

Each target is judged by its own kind (`regraft.evaluation.by_target`); here is what needs all of them together: choosing the
best weights while a network learns, drawing rows, comparing as a whole.

Shapes: N rows, C columns of what is judged of all targets, K targets, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from regraft.errors import DataError, OptionsError, Problem, did_you_mean
from regraft.evaluation import METRICS, RUNGS
from regraft.evaluation.answer_kind import AnswerKind, fitting_names, kind_for
from regraft.evaluation.compare import Comparison
from regraft.evaluation.measure import Measure, ratio
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, compare_sums
from regraft.evaluation.rows import size_problems
from regraft.evaluation.rung import Rung
from regraft.options import JSON
from regraft.tasks.task import Part, Task
from regraft.types import Array, FloatArray


class Targets(AnswerKind):
    """Several targets a row: targets (N, W) with NaN where a row lacks one, outputs (N, C), each target's side by side."""

    name: ClassVar[str] = "targets"
    constant_name: ClassVar[str] = "constant"
    compared_by: ClassVar[str] = "relative-loss"
    ordered: ClassVar[bool] = True

    def __init__(self, columns: Sequence[Any] = (), task: Task | None = None) -> None:
        super().__init__(columns)
        self._task = task

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the kind for the answers of a task of several targets."""
        return cls(task.names, task)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The targets."""
        return self._task.parts if self._task else ()

    def kinds(self) -> dict[str, AnswerKind]:
        """Return target -> the kind of its answers."""
        return {part.name: kind_for(part.task) for part in self.parts}

    def relative(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return for each target how bad each row's output is (N, K), over the mean of the best constant output on these rows.

        NaN where a row lacks the target, and where all rows have the same target so that a constant is perfect.
        """
        found_NK = np.full((len(targets_N), len(self.parts)), np.nan)
        for place, part in enumerate(self.parts):
            kind, rows = kind_for(part.task), part.rows(targets_N)
            if not len(rows):
                continue
            own = part.own(targets_N, rows)
            same = np.tile(kind.constant(own), (len(rows), 1))
            against = float(kind.costs(own, same).mean())
            if against > 0:
                found_NK[rows, place] = kind.costs(own, outputs_NC[rows, part.judged]) / against
        return found_NK

    def costs(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the mean of a row's relative costs over the targets it has (N,); 0 where it has none that says anything."""
        relative_NK = self.relative(targets_N, outputs_NC)
        there_NK = ~np.isnan(relative_NK)
        costs_N: FloatArray = np.nansum(relative_NK, axis=1) / np.maximum(there_NK.sum(axis=1), 1)
        return costs_N

    def checked(self, targets_N: Array, outputs_NC: FloatArray, who: str = "the model") -> tuple[Array, FloatArray]:
        """Return targets and outputs as float64, each target's as its own kind has it; see `AnswerKind.checked`."""
        targets_N, outputs_NC = np.asarray(targets_N), np.asarray(outputs_NC)
        last = self.parts[-1]
        width = last.targets.stop if last.targets else 0
        problems = size_problems(targets_N, outputs_NC, who, (last.judged.stop,), (width,))
        for part in self.parts if not problems else ():
            rows = part.rows(targets_N)
            try:
                if len(rows):
                    kind_for(part.task).checked(part.own(targets_N, rows), outputs_NC[rows, part.judged], f"{who}, {part.name}")
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(problems)
        return targets_N.astype(np.float64, copy=False), outputs_NC.astype(np.float64, copy=False)

    def compare(
        self,
        targets_N: Array,
        outputs: tuple[FloatArray, FloatArray],
        names: tuple[str, str],
        *,
        options: JudgeOptions,
        seed: int = 0,
        groups_N: Array | None = None,
    ) -> Comparison:
        """Compare the mean over targets of the relative costs; see `AnswerKind.compare`."""
        both = [self.relative(targets_N, outputs_NC) for outputs_NC in outputs]
        there_NK = ~np.isnan(both[0])
        sums = [np.concatenate([np.nan_to_num(one_NK), there_NK], axis=1) for one_NK in both]
        costs = [np.nansum(one_NK, axis=1) for one_NK in both]
        quantity = Quantity(self.compared_by, False, _mean_of_means)
        return compare_sums(
            (sums[0], sums[1]), quantity, names, costs=(costs[0], costs[1]), options=options, seed=seed, groups_N=groups_N
        )

    def goodness(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return the relative loss, negative."""
        return -RelativeLoss.of(self).value(targets_N, outputs_NC)

    def truths(self, targets_N: Array) -> list[JSON]:
        """Return target -> what is true of each row; None for a target that a row lacks."""
        return self._of_parts(targets_N, lambda kind, part, rows: kind.truths(part.own(targets_N, rows)))

    def targets_of(self, truths: Sequence[JSON]) -> Array:
        """Return the targets of rows, each target's side by side, NaN where a row lacks one (N, W)."""
        last = self.parts[-1]
        found_NW = np.full((len(truths), last.targets.stop if last.targets else 0), np.nan)
        for part in self.parts:
            rows = [row for row, values in enumerate(truths) if values[part.name] is not None]
            own = kind_for(part.task).targets_of([truths[row][part.name] for row in rows])
            found_NW[rows, part.targets or slice(None)] = own.reshape(len(rows), -1)
        return found_NW

    def values(self, outputs_NC: FloatArray) -> list[JSON]:
        """Return target -> the answer of each row."""
        every = np.zeros((len(outputs_NC), self.parts[-1].targets.stop if self.parts[-1].targets else 0))
        return self._of_parts(every, lambda kind, part, rows: kind.values(outputs_NC[rows, part.judged]))

    def wrong(self, targets_N: Array, outputs_NC: FloatArray) -> Array:
        """Return which rows are wrong in a target that they have (N,)."""
        found_N = np.zeros(len(targets_N), dtype=bool)
        for part in self.parts:
            rows = part.rows(targets_N)
            if len(rows):
                found_N[rows] |= kind_for(part.task).wrong(part.own(targets_N, rows), outputs_NC[rows, part.judged])
        return found_N

    def _of_parts(self, targets_N: Array, of: Callable[[AnswerKind, Part, Array], list[JSON]]) -> list[JSON]:
        found: list[dict[str, JSON]] = [dict.fromkeys([part.name for part in self.parts]) for _ in range(len(targets_N))]
        for part in self.parts:
            rows = part.rows(targets_N)
            for row, value in zip(rows.tolist(), of(kind_for(part.task), part, rows) if len(rows) else (), strict=True):
                found[row][part.name] = value
        return list(found)

    def groups(self, targets_N: Array) -> Array:
        """Return the group of each row by the first target that it has, of each target other numbers."""
        groups_N, next_number = np.full(len(targets_N), -1, dtype=np.int64), 0
        for part in self.parts:
            rows = part.rows(targets_N)
            rows = rows[groups_N[rows] < 0]
            if len(rows):
                own = kind_for(part.task).groups(part.own(targets_N, rows))
                groups_N[rows] = own + next_number
                next_number = int(groups_N.max()) + 1
        return np.where(groups_N < 0, next_number, groups_N)

    def constant(self, targets_N: Array) -> FloatArray:
        """Return the best constants of all targets, side by side (C,); NaN for a target that no row has."""
        found = []
        for part in self.parts:
            own = part.own(targets_N)
            width = part.judged.stop - part.judged.start
            found.append(kind_for(part.task).constant(own) if len(own) else np.full(width, np.nan))
        return np.concatenate(found)

    def target_problems(self, targets_N: Array, where: str) -> list[Problem]:
        """Return the problems of all targets."""
        named = [(kind_for(part.task), part) for part in self.parts]
        return [p for kind, part in named for p in kind.target_problems(part.own(targets_N), f"{where}, {part.name}")]

    def learning_problems(self, targets_N: Array) -> list[Problem]:
        """Return the problems of all targets."""
        return [p for part in self.parts for p in kind_for(part.task).learning_problems(part.own(targets_N))]

    def measures(self, names: Sequence[str]) -> dict[str, Measure]:
        """Return metrics of all targets, or of one, named as TARGET.METRIC.

        Raises:
            OptionsError: A metric is not registered, or is none of such answers.
        """
        found: dict[str, Measure] = {}
        kinds = self.kinds()
        for name in names:
            target, sign, metric = name.rpartition(".")
            if sign and target in kinds:
                part = next(part for part in self.parts if part.name == target)
                ((own, measure),) = kinds[target].measures([metric]).items()
                found[f"{target}.{own}"] = OfTarget(part, measure)
                continue
            known = [*fitting_names(METRICS, self.name), *_of_targets(kinds)]
            if name not in known:
                what, fix = f"'{name}' is no metric of several targets", did_you_mean(name, known)
                raise OptionsError(Problem(what=what, expected=", ".join(known), fix=fix))
            found |= super().measures([name])
        return found

    def rungs(self, names: Sequence[str] | None) -> dict[str, type[Rung]]:
        """Return the baselines of all targets; those that are named must be for one of them at least.

        Raises:
            OptionsError: A rung is not registered, or is for none of the targets.
        """
        able = {name for kind in self.kinds().values() for name in fitting_names(RUNGS, kind.name)}
        strange = [name for name in names or () if RUNGS.canonical(name) not in able]
        if strange:
            what = f"'{strange[0]}' is no baseline of any of the targets"
            raise OptionsError(Problem(what=what, expected=", ".join(sorted(able)), fix=did_you_mean(strange[0], sorted(able))))
        return {RUNGS.canonical(name): RUNGS.get(name) for name in (names or sorted(able))}


class RelativeLoss(Measure):
    """Mean over the targets of their mean loss, over that of the best answer that is the same for all of these rows.

    Of classes and label sets the log-loss, of numbers the absolute error, of quantiles the pinball loss. 1 is what a constant
    answer that knows these targets reaches; targets of any unit count alike. Targets that no row has are left out.
    """

    judges: ClassVar[frozenset[str]] = frozenset({"targets"})
    higher_is_better: ClassVar[bool | None] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, np.inf)
    kind: Targets

    @classmethod
    def of(cls, kind: AnswerKind) -> Self:
        """Return the metric for several targets."""
        made = super().of(kind)
        if not isinstance(kind, Targets):
            raise TypeError(f"'{kind.name}' are no answers to several targets")
        made.kind = kind
        return made

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the metric under each weighting; see `Measure.values`."""
        relative_NK = self.kind.relative(targets_N, outputs_NC)
        weights = np.ones((len(targets_N), 1)) if weights_NR is None else weights_NR.astype(np.float64, copy=False)
        there_NK = ~np.isnan(relative_NK)
        sums_RJ = weights.T @ np.concatenate([np.nan_to_num(relative_NK), there_NK], axis=1)
        return _mean_of_means(sums_RJ, len(targets_N))


class OfTarget(Measure):
    """A metric of one of several targets, on the rows that have it.

    Args:
        part: The target.
        measure: Its metric.
    """

    def __init__(self, part: Part, measure: Measure) -> None:
        super().__init__(measure.columns, measure.tally)
        self.part, self.measure = part, measure
        self.higher_is_better = measure.higher_is_better  # type: ignore[misc]
        self.bounds = measure.bounds  # type: ignore[misc]
        self.in_units = measure.in_units  # type: ignore[misc]

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the metric under each weighting; see `Measure.values`."""
        rows = self.part.rows(targets_N)
        if not len(rows):
            return np.full(1 if weights_NR is None else weights_NR.shape[1], np.nan)
        own_NC = outputs_NC[rows, self.part.judged]
        return self.measure.values(self.part.own(targets_N, rows), own_NC, None if weights_NR is None else weights_NR[rows])


def _mean_of_means(sums_RJ: FloatArray, rows: int) -> FloatArray:
    """Return the mean over targets of sums over rows (R, K) over counts of rows (R, K) that stand after them."""
    targets = sums_RJ.shape[1] // 2
    means_RK = ratio(sums_RJ[:, :targets], sums_RJ[:, targets:])
    there_RK = ~np.isnan(means_RK)
    return ratio(np.nansum(means_RK, axis=1), there_RK.sum(axis=1))


def _of_targets(kinds: Mapping[str, AnswerKind]) -> list[str]:
    return [f"{target}.{name}" for target, kind in kinds.items() for name in fitting_names(METRICS, kind.name)]

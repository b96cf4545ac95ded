"""What a kind of answers is: which arrays can be judged, how two models are compared on them, how rows are drawn from them.

A task names the kind of its answers (`Task.answers`); metrics and rungs name the kinds that they are for (`judges`). Whatever
follows from the kind of an answer stands behind this contract, one class a kind, one line each in the table `ANSWERS`.

Shapes: N rows, C columns (classes, labels, levels; 1 for a plain number).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regraft.errors import OptionsError, Problem, did_you_mean
from regraft.evaluation import ANSWERS, METRICS, RUNGS
from regraft.evaluation.compare import Comparison
from regraft.evaluation.intervals import measure_by_rows
from regraft.evaluation.judge import Judgement, notes_of
from regraft.evaluation.measure import Measure, Tally, count_classes
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, mean_of_rows
from regraft.evaluation.reliability import Honesty
from regraft.evaluation.rung import Rung
from regraft.options import JSON
from regraft.registry import Registry
from regraft.types import Array, FloatArray, Label

if TYPE_CHECKING:
    from regraft.tasks.task import Task


class AnswerKind(ABC):
    """Judge answers of one kind.

    Args:
        columns: Names of the columns of the outputs: classes, labels, levels; empty where they have none.
    """

    name: ClassVar[str]
    constant_name: ClassVar[str]
    """What the contender is called that gives every row the same answer."""
    compared_by: ClassVar[str]
    """Registered name of the metric that two models are compared by, if no other is named."""
    ordered: ClassVar[bool] = False
    """Whether another order of the columns means something else."""

    def __init__(self, columns: Sequence[Label] = ()) -> None:
        self.columns = tuple(columns)

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the kind for the answers of a task."""
        return cls(task.names)

    @abstractmethod
    def costs(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return how bad each row's output is (N,), 0 at best, by a measure that is smallest on average for honest outputs."""

    @abstractmethod
    def checked(self, targets_N: Array, outputs_NC: FloatArray, who: str = "the model") -> tuple[Array, FloatArray]:
        """Return targets and outputs in the types that they are judged in.

        Args:
            targets_N: What is true, one entry a row.
            outputs_NC: What `Task.probabilities` returned.
            who: Whose outputs they are, for messages.

        Raises:
            DataError: There are no rows, the shapes do not fit, or values are out of range; all problems at once.
        """

    @abstractmethod
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
        """Compare two models on the same rows by a paired test; "better" means that the second is better.

        Args:
            targets_N: As `checked` returned them.
            outputs: What the two gave, as `checked` returned it.
            names: What to call them.
            options: Resamples, confidence and power.
            seed: Seeds the resamples.
            groups_N: Which rows belong together, numbered without gaps (`clusters.relevant`); each by itself if not given.
        """

    @abstractmethod
    def goodness(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return one number by which the strongest of several models is found, higher is better."""

    @abstractmethod
    def truths(self, targets_N: Array) -> list[JSON]:
        """Return what is true as a JSON value a row: the name of a class, the names of labels, a number."""

    @abstractmethod
    def targets_of(self, truths: Sequence[JSON]) -> Array:
        """Return the targets whose `truths` these are."""

    def values(self, outputs_NC: FloatArray) -> list[JSON]:
        """Return the answer of each row as a JSON value, in the form of `truths`; None where a row by itself has none."""
        return [None] * len(outputs_NC)

    def wrong(self, targets_N: Array, outputs_NC: FloatArray) -> Array:
        """Return which rows are not answered as they should be (N,)."""
        found_N: Array = self.costs(targets_N, outputs_NC) > 0
        return found_N

    @abstractmethod
    def groups(self, targets_N: Array) -> Array:
        """Return a small whole number a row (N,): rows of each number are drawn in proportion, and spread over golden rows."""

    @abstractmethod
    def constant(self, targets_N: Array) -> FloatArray:
        """Return the best answer (C,) that is the same for every row, knowing these targets."""

    @abstractmethod
    def target_problems(self, targets_N: Array, where: str) -> list[Problem]:
        """Return what keeps targets from being learnt from or judged; `where` is what messages call them."""

    @abstractmethod
    def learning_problems(self, targets_N: Array) -> list[Problem]:
        """Return what keeps baselines from learning from sound training targets."""

    def judge(
        self,
        names: Sequence[str],
        targets_N: Array,
        outputs_NC: FloatArray,
        *,
        options: JudgeOptions,
        seed: int = 0,
        groups_N: Array | None = None,
    ) -> Judgement:
        """Return every metric with its interval.

        Args:
            names: Registered names of the metrics, the most important first.
            targets_N: As `checked` returned them.
            outputs_NC: As `checked` returned them.
            options: Resamples and confidence.
            seed: Seeds the resamples.
            groups_N: Which rows belong together, as for `compare`.

        Raises:
            OptionsError: A metric is not registered, or is none of such answers.
        """
        measures = self.measures(names)
        rng = np.random.default_rng(seed)
        found = measure_by_rows(measures, targets_N, outputs_NC, options=options, rng=rng, groups_N=groups_N)
        notes = [
            note
            for name, measure in measures.items()
            for note in notes_of(name, found[name], measure.note(targets_N, self.columns))
        ]
        metrics = {name: found[name] for name in measures}
        return Judgement(n=len(targets_N), metrics=metrics, confidence=options.confidence, notes=tuple(dict.fromkeys(notes)))

    def honesty(self, targets_N: Array, outputs_NC: FloatArray, *, confidence: float = 0.95) -> Honesty | None:
        """Return how honest probabilities or quantiles are, or nothing where answers have none; arrays as `checked` gives."""
        return None

    def decided(self, outputs_NC: FloatArray) -> Array:
        """Return the column that each row is given (N,), where an answer is one of them."""
        return np.asarray(outputs_NC.argmax(axis=1))

    def scored(self, targets_N: Array, outputs_NC: FloatArray) -> tuple[Quantity, FloatArray]:
        """Return what groups of rows are compared by, and what each row adds to its sums (N, K).

        As it stands here, the mean of the `costs`.
        """
        return Quantity("cost", False, mean_of_rows), self.costs(targets_N, outputs_NC)[:, None]

    def confidence(self, outputs_NC: FloatArray) -> FloatArray | None:
        """Return how sure each answer is of itself (N,), from 0 to 1; None where answers do not say."""
        return None

    def members(self, targets_N: Array) -> dict[str, Array]:
        """Return the rows (N,), true or false, that have each class or label, by its name; empty where there are none."""
        return {}

    def decided_for(self, outputs_NC: FloatArray, column: int) -> Array | None:
        """Return whether each row is given a class or label (N,); None where answers are neither.

        Args:
            outputs_NC: As `checked` returned it.
            column: Which class or label.
        """
        return None

    def group_names(self, targets_N: Array) -> list[str]:
        """Return what to call the group of each row."""
        return [str(group) for group in self.groups(targets_N).tolist()]

    def class_counts(self, targets_N: Array) -> Array:
        """Return how many rows have each class or label (C,); empty where there are none."""
        return np.empty(0, dtype=np.int64)

    @property
    def tally(self) -> Tally:
        """How decisions are counted."""
        return count_classes

    def measures(self, names: Sequence[str]) -> dict[str, Measure]:
        """Return the metrics by their canonical names.

        Raises:
            OptionsError: A metric is not registered, or is none of such answers.
        """
        return {name: cls.of(self) for name, cls in _fitting(METRICS, names, self.name).items()}

    def rungs(self, names: Sequence[str] | None) -> dict[str, type[Rung]]:
        """Return the baselines by their canonical names; every one that gives such answers if none are named.

        Raises:
            OptionsError: A rung is not registered, or gives other answers.
        """
        return _fitting(RUNGS, fitting_names(RUNGS, self.name) if names is None else names, self.name)


def kind_for(task: Task) -> AnswerKind:
    """Return the kind of answers that a task gives, knowing its columns."""
    return ANSWERS.get(task.answers).of(task)


def kind_of(name: str, columns: Sequence[Label] = ()) -> AnswerKind:
    """Return a kind of answers by its registered name, for columns of these names."""
    return ANSWERS.get(name)(columns)


def fitting_names(registry: Registry[Any], kind: str) -> list[str]:
    """Return the names of the metrics or rungs that are for a kind of answers.

    Example:
        >>> fitting_names(METRICS, "numbers")
        ['mae', 'rmse', 'r2']
    """
    return [name for name in registry.names() if kind in registry.get(name).judges]


def _fitting(registry: Registry[Any], names: Sequence[str], kind: str) -> dict[str, Any]:
    able = fitting_names(registry, kind)
    problems = [replace(registry.unknown(name), fix=did_you_mean(name, able)) for name in names if name not in registry]
    for name in names:
        if name in registry and kind not in registry.get(name).judges:
            what = f"'{name}' ({registry.family}) is for {_listed(registry.get(name).judges)}, not for {_spoken(kind)}"
            problems.append(Problem(what=what, expected=", ".join(able), fix=f"choose another one; {did_you_mean(name, able)}"))
    if problems:
        raise OptionsError(problems)
    return {registry.canonical(name): registry.get(name) for name in names}


def _listed(kinds: frozenset[str]) -> str:
    return " or ".join(_spoken(kind) for kind in sorted(kinds))


def _spoken(kind: str) -> str:
    return kind.replace("-", " ")

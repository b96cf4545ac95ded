"""What a task is. A task knows no modality by name: it sees `Features` and target values."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from regraft.calibration.links import Link
from regraft.calibration.trust import NOTHING, Trust
from regraft.options import JSON
from regraft.types import Array, FloatArray, Ledger, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn


class Loss(NamedTuple):
    """A loss that can be averaged over any grouping of rows: mean = sum of totals / sum of weights.

    Args:
        total: Scalar tensor, the weighted sum over rows, differentiable.
        weight: Scalar tensor, the sum of the weights.
    """

    total: torch.Tensor
    weight: torch.Tensor


class ByGradients(NamedTuple):
    """Targets whose losses are weighed by the gradients that they send into what the targets share.

    Args:
        names: Names of the targets.
        alpha: How strongly targets that learn slowly are helped.
    """

    names: tuple[str, ...]
    alpha: float


@dataclass(frozen=True)
class Part:
    """One target: its task, and which columns are its own in the arrays of a task that has several targets.

    Args:
        name: Its column; empty where it is the only target.
        task: What is predicted there.
        targets: Its columns of the targets; None where all of them, of any shape, are its own.
        outputs: Its columns of the outputs of the heads.
        judged: Its columns of what is judged (`Task.probabilities`).
    """

    name: str
    task: Task
    targets: slice | None = None
    outputs: slice = field(default_factory=lambda: slice(None))
    judged: slice = field(default_factory=lambda: slice(None))

    def rows(self, targets: Array) -> Array:
        """Return the positions of the rows that have this target."""
        if self.targets is None:
            return np.arange(len(targets))
        return np.flatnonzero(~np.isnan(targets[:, self.targets]).any(axis=1))

    def own(self, targets: Array, rows: Array | None = None) -> Array:
        """Return the targets of rows that have this target, as its own task gives them.

        Args:
            targets: Those of all targets.
            rows: Which rows; all that have it if not given.
        """
        rows = self.rows(targets) if rows is None else rows
        if self.targets is None:
            return targets[rows]
        like = self.task.targets([])
        found: Array = targets[rows, self.targets].astype(like.dtype).reshape(len(rows), *like.shape[1:])
        return found


def decided(probabilities: Mapping[str, float], near: float) -> bool:
    """Return whether the first class is so far ahead that moves of `near` cannot change the answer.

    Example:
        >>> decided({"ham": 0.9, "spam": 0.1}, 1e-5), decided({"ham": 0.5, "spam": 0.5}, 1e-5)
        (True, False)
    """
    first, *rest = sorted(probabilities.values(), reverse=True) or [0.0]
    return bool(rest) and first - rest[0] > 2 * near


class Task(ABC):
    """Turn target values into tensors, features into an output, and an output into predictions.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """What the backbone must provide ("pooled", "sequence", ...)."""
    answers: str = "classes"
    """Registered name of the kind of its answers (`regraft.evaluation.ANSWERS`): how they are judged and compared."""
    metrics: tuple[str, ...]
    """Registered names of the metrics to report, the most important first."""
    validation_metric: str
    """Registered name of the metric that early stopping watches by default."""
    several: ClassVar[bool] = False
    """Whether a target is a mapping from column to value: then its `parts` say what is predicted in each column."""
    example_options: ClassVar[Mapping[str, JSON]] = {}
    """Options under which `example` can be learnt, where the defaults are not enough."""
    paired: ClassVar[bool] = False
    """Whether a target says which rows belong together, and not what a row is. Then rows of one target are never split, every
    part of a row must be there, and the loss is of the rows of a batch together: a batch goes through the network whole."""
    parts_style: ClassVar[str] = ""
    """How the parts of a row are joined for it, a name of `models.joinings.JOININGS`; empty where any will do."""
    one_label: ClassVar[bool] = False
    """Whether an answer is one of its `labels`, whose probabilities stand in their order."""
    hub_problem: ClassVar[str] = ""
    """What the hub's classes for sequences call this task (`problem_type`); empty where none of them does it."""

    trust: Trust = NOTHING
    """What is known of how far its answers can be trusted (`regraft.calibration`); of several targets each part has its own."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def link(self) -> Link | None:
        """What its evidence means to a calibrator; None where there is nothing to calibrate."""
        return None

    def evidence(self, output: FloatArray) -> FloatArray:
        """Return what a calibrator works on (B, C), float64: logits, or numbers on the scale of the loss."""
        return np.asarray(output, dtype=np.float64)

    def known(self, targets: Array) -> Array:
        """Return targets as the link takes them, on the scale of the evidence."""
        return targets

    def calibrated(self, evidence: FloatArray) -> FloatArray:
        """Return evidence changed by the calibrator; `probabilities` are made of it. Rows that are not finite become NaN."""
        link = self.link
        if link is None or self.trust is NOTHING:
            return evidence
        with np.errstate(invalid="ignore"):
            changed = self.trust.calibrator.apply(evidence, link)
        return np.where(np.isfinite(evidence).all(axis=1, keepdims=True), changed, np.nan)

    def judged(self, evidence: FloatArray) -> FloatArray:
        """Return what metrics are computed on (B, C) for evidence that is taken as it is, calibrated or not."""
        return self.bare().probabilities(evidence)

    def bare(self) -> Self:
        """Return the same task as if nothing had been calibrated."""
        made = copy.copy(self)
        made.trust = NOTHING
        return made

    @property
    def steepness(self) -> float:
        """By what factor calibrating lets a move of an output grow at most."""
        return max([1.0, *(part.task.trust.calibrator.steepness for part in self.parts)])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `probabilities`, in order; empty where a task has none."""
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read together as one target, a mapping from column to value; empty where it is one column."""
        return ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The targets, each with its own task; a task of one target is its own only part."""
        return (Part("", self),)

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers a row that the head gives, and columns of `probabilities`."""
        columns = len(self.names) or 1
        return columns, columns

    @property
    def likelihood_factor(self) -> float:
        """What the loss is multiplied by to be, up to a constant and a variance of 1, a negative logarithm of a likelihood."""
        return 1.0

    @property
    def by_gradients(self) -> ByGradients | None:
        """The targets whose `losses` an objective weighs by their gradients; None where the task weighs them itself."""
        return None

    @property
    def fewest_rows(self) -> int:
        """Fewest rows that every different target must stand in, over all splits; 1 where targets are no classes."""
        return 1

    @abstractmethod
    def learn(self, values: Sequence[Any], ledger: Ledger) -> None:
        """Take in what must be known from the training targets (labels, weights, scales).

        Args:
            values: The target of every training row, none missing.
            ledger: Counts what is odd but bearable.

        Raises:
            DataError: The values cannot be a target of this task (one class only, mixed types, too many classes).
            OptionsError: The options speak of something the values do not have (a weight for an unknown label).
        """

    def joins(self, parts: Sequence[str]) -> None:  # noqa: B027 - most do not care
        """Take in the names of the parts of a row, in order; called after `learn`.

        Args:
            parts: None where a row is read as one.

        Raises:
            DataError: The task needs rows of other parts.
        """

    @abstractmethod
    def state(self) -> dict[str, JSON]:
        """Return what `learn` took in, as JSON."""

    @classmethod
    @abstractmethod
    def restore(cls, options: Any, state: dict[str, JSON]) -> Self:
        """Return a task that has learnt `state`."""

    @abstractmethod
    def target_problem(self, value: object) -> str:
        """Return why a value cannot be a target (a label that the training rows do not have), or an empty string."""

    @abstractmethod
    def targets(self, values: Sequence[Any]) -> Array:
        """Return targets (B, ...) for values that have no `target_problem`.

        Raises:
            DataError: A value has a `target_problem`.
        """

    @abstractmethod
    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return the head: a module called with `Features`, giving the output (B, ...).

        Args:
            width: Width of the backbone's features.
            dropout: Share of features dropped in training.
            seed: Draws the initial weights; the caller's random state is left as it was.
        """

    @abstractmethod
    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> Loss:
        """Return the loss of a batch."""

    def scaled_loss(self, output: torch.Tensor, targets: torch.Tensor, scales: Array | None) -> Loss:
        """Return the loss of rows that may be a part of an update, for all of which `scales` are."""
        return self.loss(output, targets)

    def losses(self, output: torch.Tensor, targets: torch.Tensor, scales: Array | None) -> dict[str, torch.Tensor]:
        """Return the loss of each target that rows of the update have, not weighed against the others, by its name.

        Args:
            output: As for `scaled_loss`.
            targets: Targets of some rows of an update.
            scales: What `scales` gave for all of them.
        """
        return {part.name: self.scaled_loss(output, targets, scales).total for part in self.parts}

    def weight(self, targets: Array) -> float:
        """Return the weight of the loss of rows with these targets, as `loss` gives it."""
        return float(len(targets))

    def row_weights(self, targets: Array) -> FloatArray:
        """Return the part that each row (B,) has in `weight`."""
        return np.ones(len(targets))

    def divergence(self, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return how far what another output says is from what an output says, for each row (B,); 0 where they agree.

        As it stands here, the mean of the squared differences, which suits numbers. For what has probabilities it is their
        Kullback-Leibler divergence KL(output || other), on the scale of the loss.

        Args:
            output: Of a head (B, ...).
            other: Of the same shape.
        """
        return (output - other).square().flatten(1).mean(dim=1)

    def scales(self, targets: Array) -> Array | None:
        """Return what `scaled_loss` must know of all rows of an update, whose targets these are; None where nothing."""
        return None

    def balance(self, targets: Array) -> FloatArray:
        """Return how often to draw each row (B,), up to a factor, so that whatever is told apart comes equally often."""
        return np.ones(len(targets))

    @abstractmethod
    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return what the metrics are computed on: for classes the probabilities (B, C), for numbers (B, 1) in the unit of the
        target; float64. Numpy only.
        """

    def mixed(self, outputs_PBC: torch.Tensor, weights_BP: torch.Tensor) -> torch.Tensor:
        """Return one output (B, C) for those of several heads, whose `probabilities` are the weighted mean of theirs.

        As it stands here, the weighted mean of the outputs: that is the same where numbers are linear in the output.

        Args:
            outputs_PBC: Outputs of P heads.
            weights_BP: Positive, or zero; those of a row add up to 1.
        """
        mean_BC: torch.Tensor = (weights_BP.T.unsqueeze(-1) * outputs_PBC).sum(dim=0)
        return mean_BC

    @abstractmethod
    def decode(self, output: FloatArray) -> list[Prediction]:
        """Turn a head's output (B, ...) into one prediction a row. Numpy only: the torch-free core calls it."""

    def matched(self, asking_QC: FloatArray, found_NC: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return cosines and probabilities (Q, N), each pair of a row that asks and one that can be found; of a `paired` task.

        As it stands here, the output of a part is its vector, and probabilities are the softmax of inner products over all that
        can be found.

        Args:
            asking_QC: Outputs of the part that asks, a half of what the network gives for a row.
            found_NC: Outputs of the other part.
        """
        from regraft.tasks.pairings import SoftmaxPairing

        usual = SoftmaxPairing()
        return usual.cosines(asking_QC, found_NC), usual.probabilities(asking_QC, found_NC)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """Names of the numbers that stand beside an answer, as `Prediction.numbers` gives them."""
        return tuple(f"probability.{name}" for name in self.names)

    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        """Return whether two answers to one row agree, where what they are made of may differ by `near` and no more.

        Args:
            was: The older answer.
            now: The newer one.
            near: How far a probability, or a raw output where there are none, may have moved.
        """
        return was.value == now.value or not decided(was.probabilities, near)

    def alike(self, was: JSON, now: JSON) -> bool:
        """Return whether the values of two answers count as the same where the precision of a network was reduced."""
        return bool(was == now)

    def cost(self, truth: JSON, value: JSON) -> float:
        """Return how bad a value is where another one is true: 0 or 1 where answers are right or wrong, else a distance.

        NaN where the truth is no target of this task, so that nothing can be said.
        """
        return float(truth != value)

    @classmethod
    @abstractmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a tiny learnable example of this task, for conformance tests.

        Returns:
            Signal (n, S) in [0, 1], which a modality renders as raw values, and the n target values.
        """

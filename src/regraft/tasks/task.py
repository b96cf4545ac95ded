"""What a task is. A task knows no modality by name: it sees `Features` and target values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

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


class Task(ABC):
    """Turn target values into tensors, features into an output, and an output into predictions.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """What the backbone must provide ("pooled", "sequence", ...)."""
    metrics: ClassVar[tuple[str, ...]]
    """Registered names of the metrics to report, the most important first; the first compares two predictors."""
    validation_metric: ClassVar[str]
    """Registered name of the metric that early stopping watches by default."""
    hub_problem: ClassVar[str] = ""
    """What the hub's classes for sequences call this task (`problem_type`); empty where none of them does it."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `probabilities`, in order; empty where a task has none."""
        return ()

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

    @abstractmethod
    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return what the metrics are computed on (for classification the probabilities (B, C), float64). Numpy only."""

    @abstractmethod
    def decode(self, output: FloatArray) -> list[Prediction]:
        """Turn a head's output (B, ...) into one prediction a row. Numpy only: the torch-free core calls it."""

    @classmethod
    @abstractmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a tiny learnable example of this task, for conformance tests.

        Returns:
            Signal (n, S) in [0, 1], which a modality renders as raw values, and the n target values.
        """

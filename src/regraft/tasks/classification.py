"""Classification: each row has exactly one label out of those that the training rows have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.calibration.links import Link, Softmax
from regraft.errors import DataError, Problem, did_you_mean
from regraft.options import JSON, Field, options
from regraft.tasks.labels import LabelWeights, count_labels, label_name, one_over_count, plain, weights_of
from regraft.tasks.task import Loss, Task
from regraft.types import Array, FloatArray, Label, Ledger, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn

_UNWEIGHTED = "none"


@options
class ClassificationOptions:
    """How labels are weighed against each other and softened in training."""

    class_weights: Literal["none", "balanced"] | LabelWeights = "none"
    """Weight of a class in the loss: none, balanced (rows / (classes x its rows)), or label: weight (others weigh 1)."""

    min_rows: Annotated[int, Field(ge=1)] = 2
    """Fewest rows of a class, over all splits; a class with fewer can be learnt or judged, but never both, and is refused."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each target that is spread evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""


class Classification(Task):
    """Predict one label a row, with the probability of every label.

    Args:
        options: An instance of `Options`.

    Example:
        >>> task = Classification(ClassificationOptions())
        >>> task.learn(["ham", "spam", "ham"], Ledger())
        >>> task.names
        ('ham', 'spam')
        >>> task.decode(np.array([[0.0, 2.0]]))[0].value
        'spam'
    """

    Options = ClassificationOptions
    name: ClassVar[str] = "classification"
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    metrics = ("accuracy", "balanced-accuracy", "macro-f1", "micro-f1", "log-loss", "roc-auc")
    # Log-loss moves with every row, while accuracy and F1 on a small validation set move in a few coarse jumps.
    validation_metric = "log-loss"
    one_label: ClassVar[bool] = True
    hub_problem: ClassVar[str] = "single_label_classification"

    def __init__(self, options: ClassificationOptions) -> None:
        super().__init__(options)
        self._take((), (), None)

    def _take(self, labels: Sequence[Label], counts: Sequence[int], weights: Sequence[float] | None) -> None:
        self.labels: tuple[Label, ...] = tuple(labels)
        self.counts: tuple[int, ...] = tuple(counts)
        self.weights: tuple[float, ...] | None = None if weights is None else tuple(weights)
        self._index = {label: index for index, label in enumerate(self.labels)}
        self._names = tuple(label_name(label) for label in self.labels)
        self._weights_C = None if weights is None else np.asarray(weights, dtype=np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels in label order."""
        return self._names

    @property
    def fewest_rows(self) -> int:
        """Fewest rows that every class must have, over all splits."""
        fewest: int = self.options.min_rows
        return fewest

    @property
    def link(self) -> Link:
        """One of several is true."""
        return Softmax()

    def learn(self, values: Sequence[Any], ledger: Ledger) -> None:
        """Take in the labels of the training rows, how often each occurs, and the weights of the classes.

        Args:
            values: The label of every training row.
            ledger: Counts classes with a single row, and labels that differ only in case or spaces.

        Raises:
            DataError: Fewer than two classes, labels of several types, values that are no labels, or too many classes.
            OptionsError: `class_weights` names a label that the training rows do not have.
        """
        counted = count_labels(values, ledger)
        labels, counts = list(counted), list(counted.values())
        self._take(labels, counts, self._class_weights(labels, counts))

    def _class_weights(self, labels: Sequence[Label], counts: Sequence[int]) -> list[float] | None:
        chosen = self.options.class_weights
        if not isinstance(chosen, str):
            names = [label_name(label) for label in labels]
            if isinstance(labels[0], bool):  # a key True, once it has been through JSON, is "True"
                chosen = {name.lower(): weight for name, weight in chosen.items()}
            return weights_of(chosen, names)
        if chosen == _UNWEIGHTED:
            return None
        # King and Zeng 2001, as scikit-learn's "balanced": every class weighs the same in sum, the mean weight of a row is 1.
        return [sum(counts) / (len(counts) * count) for count in counts]

    def state(self) -> dict[str, JSON]:
        """Return labels in their JSON types, their counts and weights."""
        weights = None if self.weights is None else list(self.weights)
        return {"labels": list(self.labels), "counts": list(self.counts), "weights": weights}

    @classmethod
    def restore(cls, options: Any, state: dict[str, JSON]) -> Self:
        """Return a task with these labels."""
        task = cls(options)
        task._take(state["labels"], state["counts"], state["weights"])
        return task

    def target_problem(self, value: object) -> str:
        """Return why a value is none of the labels, or an empty string."""
        value = plain(value)
        kind = type(self.labels[0]) if self.labels else str
        if type(value) is kind and value in self._index:
            return ""
        if type(value) is not kind:
            such = f"the labels are of type {kind.__name__}, such as {self.labels[0]!r}"
            return f"{value!r} is of type {type(value).__name__}; {such}"
        return f"the training rows have no label {value!r}; " + did_you_mean(str(value), self._names)

    def targets(self, values: Sequence[Any]) -> Array:
        """Return the index (B,) of each label, int64.

        Raises:
            DataError: A value is none of the labels.
        """
        plain_values = [plain(value) for value in values]
        kind = type(self.labels[0]) if self.labels else str
        found = [self._index.get(value, -1) if type(value) is kind else -1 for value in plain_values]
        if -1 in found:
            rows = [row for row, index in enumerate(found) if index < 0]
            raise DataError([_no_target(row, self.target_problem(plain_values[row])) for row in rows[:10]])
        return np.asarray(found, dtype=np.int64)

    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return dropout and a linear map from the pooled features to one logit a class.

        Args:
            width: Width of the pooled features.
            dropout: Share of features dropped in training.
            seed: Draws the initial weights.
        """
        import torch

        from regraft.models.heads import LinearHead

        return LinearHead(width, len(self.labels), dropout, torch.Generator().manual_seed(seed))

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> Loss:
        """Return the weighted cross-entropy with smoothed labels.

        Row i with target y has weight w_y and loss -(1 - s) w_y log p_y - (s / C) sum over c of w_c log p_c; total / weight is
        exactly what `torch.nn.functional.cross_entropy(weight=, label_smoothing=)` calls the mean.

        Args:
            output: Logits (B, C).
            targets: Indices of labels (B,).
        """
        import torch
        from torch.nn import functional

        weights = None if self._weights_C is None else torch.from_numpy(self._weights_C).to(output)
        smoothing = self.options.label_smoothing
        total = functional.cross_entropy(output, targets, weight=weights, label_smoothing=smoothing, reduction="sum")
        weight = output.new_tensor(float(len(targets))) if weights is None else weights[targets].sum()
        return Loss(total=total, weight=weight)

    def weight(self, targets: Array) -> float:
        """Return the sum of the weights of the classes of rows with these targets (B,)."""
        return float(len(targets)) if self._weights_C is None else float(self._weights_C[targets].sum())

    def row_weights(self, targets: Array) -> FloatArray:
        """Return the weight of the class of each row (B,)."""
        return np.ones(len(targets)) if self._weights_C is None else self._weights_C[targets]

    def divergence(self, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return KL(p || q) (B,) of the probabilities that two logits (B, C) stand for."""
        log_p, log_q = output.log_softmax(dim=-1), other.log_softmax(dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)

    def balance(self, targets: Array) -> FloatArray:
        """Return 1 / rows of its class for each row (B,)."""
        return one_over_count(targets)

    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return the softmax (B, C) of calibrated logits, float64, shifted by the largest logit so that nothing overflows."""
        logits = self.calibrated(np.asarray(output, dtype=np.float64))
        with np.errstate(invalid="ignore"):  # rows that are not finite give NaN here; decode refuses them by name
            exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: FloatArray = exponents / exponents.sum(axis=-1, keepdims=True)
        return shares

    def mixed(self, outputs_PBC: torch.Tensor, weights_BP: torch.Tensor) -> torch.Tensor:
        """Return log sum_p w_p softmax(z_p): logits (B, C) whose softmax is the weighted mean of those of P heads."""
        from regraft.models.joinings import log_weights

        return (log_weights(weights_BP).T.unsqueeze(-1) + outputs_PBC.log_softmax(dim=-1)).logsumexp(dim=0)

    def decode(self, output: FloatArray) -> list[Prediction]:
        """Return the most probable label of each row; of equally probable ones the first in label order.

        Args:
            output: Logits (B, C).
        """
        probabilities = self.probabilities(output)
        best = [int(index) for index in probabilities.argmax(axis=-1)]
        finite = [bool(fine) for fine in np.isfinite(probabilities.sum(axis=-1))]
        rows = zip(best, finite, probabilities.tolist(), np.asarray(output).tolist(), strict=True)
        return [
            Prediction(
                value=self.labels[index], probabilities=dict(zip(self._names, shares, strict=True)), logits=tuple(logits)
            )
            if fine
            else Prediction(value=None, error="the network's output for this row is not a finite number")
            for index, fine, shares, logits in rows
        ]

    @classmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a signal whose first number says which of three labels a row has; the second says nothing.

        Args:
            n: Rows; at least 4, so that not every row has a label of its own.
            seed: Draws the rows.
        """
        rng = np.random.default_rng(seed)
        bands = rng.permutation(np.minimum(np.arange(n) % 5, 2))  # one in five low, one middle, three high
        signal_NS = np.stack([0.375 * bands + 0.25 * rng.random(n), rng.random(n)], axis=1)
        return signal_NS, [("low", "middle", "high")[band] for band in bands]


def _no_target(row: int, problem: str) -> Problem:
    return Problem(what=problem, where=f"value {row}", fix="correct the value or leave the row out")

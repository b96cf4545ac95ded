"""Multi-label: each row has any number of the labels that the training rows have, also none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.calibration.links import Link, Sigmoids
from regraft.errors import DataError, Problem, did_you_mean
from regraft.options import JSON, Field, options
from regraft.tasks.decisions import THRESHOLD, decide_sets
from regraft.tasks.divergences import bernoulli
from regraft.tasks.labels import MAX_CLASSES, LabelWeights, weights_of
from regraft.tasks.task import Loss, Task
from regraft.types import Array, FloatArray, Ledger, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn

_WHERE = "training rows, target column"
_SEPARATORS = (";", "|", ",")


@options
class MultiLabelOptions:
    """How labels are written where they stand in one text."""

    separator: str = ""
    """What stands between labels, such as ";" in "news;sport"; empty where the target is a list of texts."""

    no_label: str = ""
    """The text that says that a row has no label, such as "none". An empty list says so too; an empty field is no target."""

    class_weights: Literal["none", "balanced"] | LabelWeights = "none"
    """What rows that have a label weigh against those that do not, in its loss: none (1), balanced (rows without it / rows with
    it), or label: weight (others weigh 1). Above 1 a label is found more often, and its probabilities are too high."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share s by which targets are softened: 1 becomes 1 - s / 2, and 0 becomes s / 2 (Szegedy et al. 2016, arXiv:1512.00567,
    section 7, over the two values of each label)."""


class MultiLabel(Task):
    """Predict which labels a row has, each by a probability of its own.

    Args:
        options: An instance of `Options`.

    Example:
        >>> task = MultiLabel(MultiLabelOptions(separator=";"))
        >>> task.learn(["news;sport", "news", ["art"]], Ledger())
        >>> task.names, task.decode(np.array([[-2.0, 3.0, 0.1]]))[0].value
        (('art', 'news', 'sport'), ['news', 'sport'])
    """

    Options = MultiLabelOptions
    name: ClassVar[str] = "multi-label"
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    answers = "label-sets"
    metrics = ("micro-f1", "macro-f1", "subset-accuracy", "mean-average-precision", "binary-log-loss")
    validation_metric = "binary-log-loss"

    def __init__(self, options: MultiLabelOptions) -> None:
        super().__init__(options)
        self._take((), (), None)

    def _take(self, labels: Sequence[str], counts: Sequence[int], weights: Sequence[float] | None) -> None:
        self.labels: tuple[str, ...] = tuple(labels)
        self.counts: tuple[int, ...] = tuple(counts)
        self.weights: tuple[float, ...] | None = None if weights is None else tuple(weights)
        self._weights_L = None if weights is None else np.asarray(weights, dtype=np.float32)
        self._index = {label: index for index, label in enumerate(self.labels)}

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, in the order of their code points."""
        return self.labels

    @property
    def link(self) -> Link:
        """Each label is true or not."""
        return Sigmoids()

    def learn(self, values: Sequence[Any], ledger: Ledger) -> None:
        """Take in the labels of the training rows and how many rows have each.

        Args:
            values: The labels of every training row.
            ledger: Counts labels with a single row, rows without a label, and labels that stand twice in a row.

        Raises:
            DataError: Values are no lists of texts and no texts with a separator, or there is nothing to tell apart.
            OptionsError: `class_weights` names a label that the training rows do not have.
        """
        sets = [self._labels_of(value) for value in values]
        strange = [value for value, found in zip(values, sets, strict=True) if isinstance(found, str)]
        if strange:
            raise DataError(self._no_sets(strange, len(values)))
        listed = [found for found in sets if not isinstance(found, str)]
        counts = Counter(label for found in listed for label in set(found))
        problem = _nothing_to_learn(listed, counts)
        if problem is not None:
            raise DataError(problem)
        for reason, count in (
            ("training rows without a label", sum(not found for found in listed)),
            ("labels that stand twice in a row", sum(len(found) - len(set(found)) for found in listed)),
        ):
            if count:
                ledger.add(reason, count)
        labels = sorted(counts)
        for label in labels:
            if counts[label] == 1:
                ledger.add("labels with a single training row", 1, f"label {label!r}")
        self._take(labels, [counts[label] for label in labels], self._weights(labels, counts, len(listed)))

    def _weights(self, labels: Sequence[str], counts: Mapping[str, int], rows: int) -> list[float] | None:
        """Return what a row that has a label weighs against one that does not, for each label."""
        chosen = self.options.class_weights
        if not isinstance(chosen, str):
            return weights_of(chosen, labels)
        if chosen == MultiLabelOptions().class_weights:
            return None
        # Where no row lacks a label there is nothing to balance.
        return [(rows - counts[label]) / counts[label] or 1.0 for label in labels]

    def _labels_of(self, value: object) -> list[str] | str:
        """Return the labels of a value, or why it has none that can be read."""
        if isinstance(value, str):
            if self.options.no_label and value.strip() == self.options.no_label:
                return []
            if not self.options.separator:
                return f"{value!r:.80} is one text, and no separator is given"
            return [part.strip() for part in value.split(self.options.separator) if part.strip()]
        if isinstance(value, list | tuple):
            odd = [part for part in value if not isinstance(part, str) or not part.strip()]
            return f"{odd[0]!r:.80} in {value!r:.80} is not the text of a label" if odd else list(value)
        return f"{value!r:.80} is neither a list of texts nor a text with a separator"

    def _no_sets(self, strange: Sequence[object], rows: int) -> Problem:
        texts = [value for value in strange if isinstance(value, str)]
        likely = next((mark for mark in _SEPARATORS if any(mark in text for text in texts)), ";")
        fix = "write every target as a list of texts"
        if texts and not self.options.separator:
            fix = f"name what stands between labels, such as --set 'task.separator={likely}'"
            fix += "; one label a row is for --task classification"
        return Problem(
            what=f"the target is no set of labels: {self._labels_of(strange[0])}",
            where=_WHERE,
            got=f"{len(strange):,} of {rows:,} rows, such as " + ", ".join(f"{value!r:.60}" for value in strange[:3]),
            expected='lists of texts such as ["news", "sport"] (JSON lines, Parquet), or texts such as "news;sport"',
            fix=fix,
        )

    def state(self) -> dict[str, JSON]:
        """Return the labels, how many training rows have each, and their weights where there are any."""
        weights: dict[str, JSON] = {} if self.weights is None else {"weights": list(self.weights)}
        return {"labels": list(self.labels), "counts": list(self.counts), **weights}

    @classmethod
    def restore(cls, options: Any, state: dict[str, JSON]) -> Self:
        """Return a task with these labels."""
        task = cls(options)
        task._take(state["labels"], state["counts"], state.get("weights"))
        return task

    def target_problem(self, value: object) -> str:
        """Return why a value is no set of the labels, or an empty string; no label at all is one."""
        found = self._labels_of(value)
        if isinstance(found, str):
            return found
        unknown = next((label for label in found if label not in self._index), None)
        return "" if unknown is None else f"the training rows have no label {unknown!r}; " + did_you_mean(unknown, self.labels)

    def targets(self, values: Sequence[Any]) -> Array:
        """Return 1 for each label that a row has, else 0 (B, L), int64.

        Raises:
            DataError: A value is no set of the labels.
        """
        problems = {row: problem for row, value in enumerate(values) if (problem := self.target_problem(value))}
        if problems:
            fix = "correct the value or leave the row out"
            raise DataError([Problem(what=what, where=f"value {row}", fix=fix) for row, what in list(problems.items())[:10]])
        targets_BL = np.zeros((len(values), len(self.labels)), dtype=np.int64)
        for row, value in enumerate(values):
            targets_BL[row, [self._index[label] for label in self._labels_of(value)]] = 1
        return targets_BL

    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return dropout and a linear map from the pooled features to one logit a label.

        Args:
            width: Width of the pooled features.
            dropout: Share of features dropped in training.
            seed: Draws the initial weights.
        """
        import torch

        from regraft.models.heads import LinearHead

        return LinearHead(width, len(self.labels), dropout, torch.Generator().manual_seed(seed))

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> Loss:
        """Return the binary cross-entropy, for each row the mean over the labels.

        Label l with weight w adds -w y log p - (1 - y) log(1 - p), as `torch.nn.BCEWithLogitsLoss(pos_weight=w)`. With label
        smoothing s, y is (1 - s) times what was observed, plus s / 2.

        Args:
            output: Logits (B, L).
            targets: 0 or 1 (B, L).
        """
        import torch
        from torch.nn import functional

        weights = None if self._weights_L is None else torch.from_numpy(self._weights_L).to(output)
        smoothing: float = self.options.label_smoothing
        wanted = targets.to(output) * (1.0 - smoothing) + 0.5 * smoothing
        losses = functional.binary_cross_entropy_with_logits(output, wanted, pos_weight=weights, reduction="none")
        return Loss(total=losses.mean(dim=1).sum(), weight=output.new_tensor(float(len(targets))))

    def divergence(self, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return KL(p || q) (B,) of the probabilities that two logits (B, L) stand for, the mean over the labels."""
        return bernoulli(output, other).mean(dim=-1)

    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return the probability of every label (B, L), float64; they do not add up to 1."""
        logits = self.calibrated(np.asarray(output, dtype=np.float64))
        shares: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * logits))  # the logistic function without overflow
        return shares

    def mixed(self, outputs_PBC: torch.Tensor, weights_BP: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, L) whose probabilities are the weighted means of those of P heads."""
        from torch.nn import functional

        from regraft.models.joinings import log_weights

        logs_PB1 = log_weights(weights_BP).T.unsqueeze(-1)
        yes_BL = (logs_PB1 + functional.logsigmoid(outputs_PBC)).logsumexp(dim=0)
        no_BL = (logs_PB1 + functional.logsigmoid(-outputs_PBC)).logsumexp(dim=0)
        return yes_BL - no_BL

    def decode(self, output: FloatArray) -> list[Prediction]:
        """Return the labels of each row whose probability is at least one half, in label order.

        Args:
            output: Logits (B, L).
        """
        if not len(output):
            return []
        raw = np.asarray(output)
        probabilities = self.probabilities(raw)
        given = decide_sets(probabilities).astype(bool).tolist()
        rows = zip(given, np.isfinite(raw.sum(axis=1)).tolist(), probabilities.tolist(), raw.tolist(), strict=True)
        return [
            Prediction(
                value=[label for label, yes in zip(self.labels, marks, strict=True) if yes],
                probabilities=dict(zip(self.labels, shares, strict=True)),
                logits=tuple(logits),
            )
            if fine
            else Prediction(value=None, error="the network's output for this row is not a finite number")
            for marks, fine, shares, logits in rows
        ]

    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        """Return whether two answers differ only in labels whose probability was within `near` of one half."""
        if was.value is None or now.value is None:
            return bool(was.value == now.value)
        changed = set(was.value) ^ set(now.value)
        return all(abs(was.probabilities.get(label, math.inf) - THRESHOLD) <= near * (1 + 1e-9) for label in changed)

    def cost(self, truth: JSON, value: JSON) -> float:
        """Return the share of labels that are wrong; NaN where the truth is no set of the labels."""
        if self.target_problem(truth) or self.target_problem(value):
            return math.nan
        return len(set(self._labels_of(truth)) ^ set(self._labels_of(value))) / len(self.labels)

    @classmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a signal each of whose numbers says whether a row has one of two labels, or both, or none.

        Args:
            n: Rows; at least 4.
            seed: Draws the rows.
        """
        rng = np.random.default_rng(seed)
        marks_N2 = rng.permutation(np.stack([np.arange(n) % 2, np.arange(n) // 2 % 2], axis=1))
        signal_NS = 0.6 * marks_N2 + 0.4 * rng.random((n, 2))
        return signal_NS, [
            [label for label, yes in zip(("round", "red"), row, strict=True) if yes] for row in marks_N2.tolist()
        ]


def _nothing_to_learn(sets: Sequence[Sequence[str]], counts: Counter[str]) -> Problem | None:
    rows = len(sets)
    what = "there is nothing to tell apart: "
    if not counts:
        got, fix = f"{rows:,} rows without a label", "choose another target column, or add rows with labels"
        return Problem(what=what + "no training row has a label", where=_WHERE, got=got, fix=fix)
    if all(count == rows for count in counts.values()):
        got, fix = f"{rows:,} rows, all with {', '.join(sorted(counts)[:10])}", "add rows with other labels"
        return Problem(what=what + "all training rows have the same labels", where=_WHERE, got=got, fix=fix)
    if len(counts) > MAX_CLASSES:
        got, fix = f"{len(counts):,} labels", "choose another target column, or another separator"
        return Problem(what=f"there are more than {MAX_CLASSES:,} labels", where=_WHERE, got=got, fix=fix)
    return None

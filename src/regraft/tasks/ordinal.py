"""Ordinal: each row has one of several labels that have an order, and being further off is worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regraft.calibration.links import Link, Steps
from regraft.errors import DataError, OptionsError, Problem, did_you_mean
from regraft.options import JSON, options
from regraft.tasks.decisions import decide_rank
from regraft.tasks.divergences import bernoulli
from regraft.tasks.labels import count_labels, label_name, one_over_count, plain
from regraft.tasks.task import Loss, Task
from regraft.types import Array, FloatArray, Label, Ledger, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn

_WHERE = "training rows, target column"


@options
class OrdinalOptions:
    """In which order the labels stand."""

    order: tuple[str, ...] = ()
    """Labels from the lowest to the highest, such as ["poor", "fair", "good"]; whole numbers stand in their own order."""


class Ordinal(Task):
    """Predict one rank a row, with the probability of every rank.

    The network gives K - 1 logits for K ranks. Logit k is for going beyond rank k where it is reached, so that
    P(rank > k) is the product of sigmoid(o_j) for j <= k: it can only fall with k, and no two answers contradict each other
    (CORN: Shi, Cao & Raschka 2021, arXiv:2111.08851, eq. 4 and 5; the model is Tutz 1991's sequential one).

    Args:
        options: An instance of `Options`.

    Example:
        >>> task = Ordinal(OrdinalOptions(order=("poor", "fair", "good")))
        >>> task.learn(["good", "poor", "fair", "poor"], Ledger())
        >>> task.decode(np.array([[3.0, -3.0]]))[0].value
        'fair'
    """

    Options = OrdinalOptions
    name: ClassVar[str] = "ordinal"
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    answers = "ranks"
    metrics = ("rank-mae", "quadratic-kappa", "accuracy", "log-loss")
    validation_metric = "log-loss"
    one_label: ClassVar[bool] = True

    def __init__(self, options: OrdinalOptions) -> None:
        super().__init__(options)
        self._take((), ())

    def _take(self, labels: Sequence[Label], counts: Sequence[int]) -> None:
        self.labels: tuple[Label, ...] = tuple(labels)
        self.counts: tuple[int, ...] = tuple(counts)
        self._index = {label: index for index, label in enumerate(self.labels)}
        self._names = tuple(label_name(label) for label in self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ranks, the lowest first."""
        return self._names

    @property
    def widths(self) -> tuple[int, int]:
        """One logit less than ranks; and the ranks."""
        return len(self.labels) - 1, len(self.labels)

    @property
    def link(self) -> Link:
        """Each step beyond a rank that is reached is taken or not."""
        return Steps()

    def learn(self, values: Sequence[Any], ledger: Ledger) -> None:
        """Take in the labels of the training rows and their order.

        Args:
            values: The label of every training row.
            ledger: Counts ranks with a single row or none.

        Raises:
            DataError: Fewer than two labels, labels of several types, or values that are no labels.
            OptionsError: The labels are texts and have no order, or the order leaves some out.
        """
        counted = count_labels(values, ledger)
        order = self.options.order
        if not order and any(isinstance(label, str) for label in counted):
            raise OptionsError(_no_order(list(counted)))
        by_name = {label_name(label): label for label in counted}
        problems = _order_problems(order, by_name)
        if problems:
            raise OptionsError(problems)
        kind = type(next(iter(counted)))
        labels = [by_name.get(name, _of_kind(name, kind)) for name in order] if order else list(counted)
        for label in labels:
            if label not in counted:
                ledger.add("ranks without a training row", 1, f"rank {label_name(label)!r}")
        self._take(labels, [counted.get(label, 0) for label in labels])

    def state(self) -> dict[str, JSON]:
        """Return labels in their JSON types, the lowest first, and their counts."""
        return {"labels": list(self.labels), "counts": list(self.counts)}

    @classmethod
    def restore(cls, options: Any, state: dict[str, JSON]) -> Self:
        """Return a task with these labels."""
        task = cls(options)
        task._take(state["labels"], state["counts"])
        return task

    def target_problem(self, value: object) -> str:
        """Return why a value is none of the ranks, or an empty string."""
        value = plain(value)
        kind = type(self.labels[0]) if self.labels else str
        if type(value) is kind and value in self._index:
            return ""
        if type(value) is not kind:
            such = f"the ranks are of type {kind.__name__}, such as {self.labels[0]!r}" if self.labels else "nothing was learnt"
            return f"{value!r:.80} is of type {type(value).__name__}; {such}"
        return f"there is no rank {value!r:.80}; " + did_you_mean(str(value), self._names)

    def targets(self, values: Sequence[Any]) -> Array:
        """Return the rank (B,) of each label, int64, 0 for the lowest.

        Raises:
            DataError: A value is none of the ranks.
        """
        problems = {row: problem for row, value in enumerate(values) if (problem := self.target_problem(value))}
        if problems:
            fix = "correct the value or leave the row out"
            raise DataError([Problem(what=what, where=f"value {row}", fix=fix) for row, what in list(problems.items())[:10]])
        return np.array([self._index[plain(value)] for value in values], dtype=np.int64)  # type: ignore[index]

    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return dropout and a linear map from the pooled features to one logit for each rank but the highest.

        Args:
            width: Width of the pooled features.
            dropout: Share of features dropped in training.
            seed: Draws the initial weights.
        """
        import torch

        from regraft.models.heads import LinearHead

        return LinearHead(width, len(self.labels) - 1, dropout, torch.Generator().manual_seed(seed))

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> Loss:
        """Return the negative log-likelihood of the ranks.

        A row of rank y has gone beyond every rank below y and not beyond y: the sum of the binary cross-entropies of logits 0
        to min(y, K - 2). CORN (eq. 6) averages each logit over the rows that reached it; here every row weighs 1, so that what
        is learnt are probabilities of ranks, and parts of a batch add up.

        Args:
            output: Logits (B, K - 1).
            targets: Ranks (B,).
        """
        import torch
        from torch.nn import functional

        places = torch.arange(output.shape[1], device=output.device)
        beyond = (places < targets[:, None]).to(output)
        reached = (places <= targets[:, None]).to(output)
        losses = functional.binary_cross_entropy_with_logits(output, beyond, reduction="none")
        return Loss(total=(losses * reached).sum(), weight=output.new_tensor(float(len(targets))))

    def balance(self, targets: Array) -> FloatArray:
        """Return 1 / rows of its class for each row (B,)."""
        return one_over_count(targets)

    def divergence(self, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return KL(p || q) (B,) of the probabilities of ranks that two logits (B, K - 1) stand for.

        By the chain rule the sum over ranks of P(rank reached) times the divergence of going beyond it.
        """
        import torch
        from torch.nn import functional

        going_on = functional.logsigmoid(output)
        reached = torch.cat([torch.zeros_like(output[:, :1]), going_on[:, :-1]], dim=1).cumsum(dim=1).exp()
        return (reached * bernoulli(output, other)).sum(dim=1)

    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return the probability of every rank (B, K), float64; they add up to 1."""
        logits = self.calibrated(np.asarray(output, dtype=np.float64))
        with np.errstate(invalid="ignore"):  # rows that are not finite give NaN here; decode refuses them by name
            go_on = -np.logaddexp(0.0, -logits)  # log of the chance to go beyond a rank that is reached
            stay = -np.logaddexp(0.0, logits)
        nothing = np.zeros((len(logits), 1))
        reach = np.concatenate([nothing, np.cumsum(go_on, axis=1)], axis=1)
        shares: FloatArray = np.exp(reach + np.concatenate([stay, nothing], axis=1))
        return shares

    def mixed(self, outputs_PBC: torch.Tensor, weights_BP: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K - 1) whose probabilities of ranks are the weighted means of those of P heads.

        Of the mixture, the chance to go beyond rank k is S_k = sum_p w_p prod_{j <= k} sigmoid(z_pj), that to stay there
        S_{k-1} - S_k = sum_p w_p prod_{j < k} sigmoid(z_pj) sigmoid(-z_pk); the logit is the difference of their logarithms.
        """
        from torch.nn import functional

        from regraft.models.joinings import log_weights

        logs_PB1 = log_weights(weights_BP).T.unsqueeze(-1)
        steps = functional.logsigmoid(outputs_PBC)
        beyond = steps.cumsum(dim=-1)
        stays = beyond - steps + functional.logsigmoid(-outputs_PBC)
        return (logs_PB1 + beyond).logsumexp(dim=0) - (logs_PB1 + stays).logsumexp(dim=0)

    def decode(self, output: FloatArray) -> list[Prediction]:
        """Return the median rank of each row.

        Args:
            output: Logits (B, K - 1).
        """
        if not len(output):
            return []
        probabilities = self.probabilities(output)
        finite = np.isfinite(np.asarray(output).sum(axis=1)).tolist()
        ranks = decide_rank(np.nan_to_num(probabilities)).tolist()
        rows = zip(ranks, finite, probabilities.tolist(), np.asarray(output).tolist(), strict=True)
        return [
            Prediction(value=self.labels[rank], probabilities=dict(zip(self._names, shares, strict=True)), logits=tuple(logits))
            if fine
            else Prediction(value=None, error="the network's output for this row is not a finite number")
            for rank, fine, shares, logits in rows
        ]

    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        """Return whether two answers are the same rank, or the median was so near the edge that moves of `near` tip it over."""
        if was.value == now.value:
            return True
        up_to_K = np.cumsum(list(was.probabilities.values()))[:-1]
        # Up to each edge, every probability below it may have moved.
        moves_K = near * np.arange(1, len(up_to_K) + 1)
        return bool(now.value is not None and (np.abs(up_to_K - 0.5) <= moves_K * (1 + 1e-9)).any())

    def cost(self, truth: JSON, value: JSON) -> float:
        """Return how many ranks off a value is; NaN where the truth is none of the ranks."""
        if self.target_problem(truth) or value not in self._index:
            return math.nan
        return float(abs(self._index[truth] - self._index[value]))

    @classmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a signal whose first number says which of four ranks a row has; the second says nothing.

        Args:
            n: Rows; at least 5, so that not every row has a rank of its own.
            seed: Draws the rows.
        """
        rng = np.random.default_rng(seed)
        ranks = rng.permutation(np.arange(n) % 4)
        signal_NS = np.stack([(ranks + 0.6 * rng.random(n) + 0.2) / 4, rng.random(n)], axis=1)
        return signal_NS, [int(rank) + 1 for rank in ranks]


def _of_kind(name: str, kind: type) -> Label:
    """Return the label that a name in the order stands for where no training row has it."""
    if kind is int:
        return int(name)
    return name


def _order_problems(order: Sequence[str], by_name: dict[str, Label]) -> list[Problem]:
    if not order:
        return []
    where = "task.order"
    twice = sorted({name for name in order if order.count(name) > 1})
    problems = [Problem(what=f"'{name}' stands twice in the order", where=where, fix="name each label once") for name in twice]
    missing = [name for name in by_name if name not in order]
    if missing:
        got = ", ".join(f"'{name}'" for name in missing[:10])
        fix = f"add them to the order, or mend the labels; {did_you_mean(missing[0], list(order))}"
        problems.append(Problem(what="training rows have labels that the order leaves out", where=where, got=got, fix=fix))
    numbers = any(isinstance(label, int) and not isinstance(label, bool) for label in by_name.values())
    strange = [name for name in order if name not in by_name and numbers and not name.lstrip("-").isdecimal()]
    if strange:
        fix = "write the labels as they stand in the data"
        what = "the labels are whole numbers, and the order has others"
        problems.append(Problem(what=what, where=where, got=strange[0], fix=fix))
    return problems


def _no_order(labels: Sequence[Label]) -> Problem:
    some = ", ".join(f"{label!r}" for label in labels[:10])
    listed = ", ".join(str(label) for label in labels[:10])
    return Problem(
        what="the labels are texts, whose order is not known",
        where="task.order",
        got=some,
        expected="the labels from the lowest to the highest",
        fix=f"give their order, such as --set 'task.order=[{listed}]' with the lowest first; "
        "labels without an order are for --task classification",
    )

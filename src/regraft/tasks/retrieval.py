"""Retrieval: the two parts of a row, each in a tower of its own, come near each other in one space, other rows' far apart.

The target of a row says what it is of: rows with the same target (a picture under its names in two languages) belong together,
whatever batch they are in. With the target as a name of things, not of classes, what was never seen in training can be found.

Shapes: B rows, W width of the shared space, C numbers that the head of a part gives: its vector, and with the loss sigmoid its
share of the bias.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from regraft.errors import DataError, OptionsError, Problem
from regraft.options import JSON, options
from regraft.tasks.pairings import PAIRINGS, Pairing
from regraft.tasks.task import Loss, Task
from regraft.types import Array, FloatArray, Ledger, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn

_WHERE = "target column"
_TWO = 2
_ALIKE = 0.99


@options
class RetrievalOptions:
    """The space that both towers share, and how they are brought together in it."""

    width: Annotated[int, Field(ge=2, le=4096)] = 128
    """Numbers of a vector in the shared space."""

    hidden: Annotated[int, Field(ge=0, le=16384)] = 0
    """Numbers of a hidden layer in front of the shared space, in each tower; 0 for none."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """How the pairs of a batch are told apart: softmax over all rows of the batch (CLIP), or sigmoid of each pair by itself
    (SigLIP)."""

    temperature: Annotated[float | None, Field(gt=0.01, le=10.0)] = None
    """What cosines are divided by at the start of training, learnt from there; if not given 0.07, with the loss sigmoid 0.1.
    With softmax it never falls below 0.01."""

    bias: Annotated[float | None, Field(ge=-100.0, le=100.0)] = None
    """What is added to every pair's product at the start of training, learnt from there; -10 if not given. Only with the loss
    sigmoid."""


class Retrieval(Task):
    """Find what belongs to one part of a row by the other part: a picture by its name, a name by its picture.

    Args:
        options: An instance of `Options`.

    Example:
        >>> task = Retrieval(RetrievalOptions(width=2))
        >>> task.learn(["cat", "dog", "cat"], Ledger())
        >>> task.joins(["picture", "name"])
        >>> task.decode(np.array([[3.0, 4.0, 0.0, 2.0]]))[0].value
        {'picture': [0.6, 0.8], 'name': [0.0, 1.0]}
    """

    Options: ClassVar[type[Any]] = RetrievalOptions
    name: ClassVar[str] = "retrieval"
    needs: ClassVar[frozenset[str]] = frozenset({"towers"})
    answers = "pairs"
    paired: ClassVar[bool] = True
    parts_style: ClassVar[str] = "towers"
    metrics = (
        "recall-at-10",
        "recall-at-1-there",
        "recall-at-5-there",
        "recall-at-10-there",
        "median-rank-there",
        "recall-at-1-back",
        "recall-at-5-back",
        "recall-at-10-back",
        "median-rank-back",
    )
    validation_metric = "reciprocal-rank"

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._parts: tuple[str, ...] = ()

    @property
    def pairing(self) -> Pairing:
        """What follows from the loss."""
        return PAIRINGS[self.options.loss]()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the two parts."""
        return self._parts

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """No number stands beside the vectors."""
        return ()

    def learn(self, values: Sequence[Any], ledger: Ledger) -> None:
        """Look whether there is something to tell apart; nothing is kept.

        Raises:
            DataError: Fewer than two different targets, or targets that name nothing.
            OptionsError: A bias is set for a loss that has none.
        """
        if self.options.bias is not None and self.pairing.bias is None:
            what, fix = f"the loss {self.options.loss} has no bias", "set task.loss=sigmoid, or leave task.bias out"
            raise OptionsError(Problem(what=what, where="task.bias", got=f"{self.options.bias:g}", fix=fix))
        strange = [value for value in values if self.target_problem(value)]
        if strange:
            raise DataError(
                Problem(
                    what=f"the target does not name what a row is of: {self.target_problem(strange[0])}",
                    where=_WHERE,
                    got=f"{len(strange):,} of {len(values):,} rows",
                    expected="texts or whole numbers, the same for rows that belong together",
                    fix="choose a column that names things, such as a file name or a number of an article",
                )
            )
        if len(set(values)) < _TWO:
            what, fix = "there is nothing to tell apart: all rows are of the same", "give training rows of other things"
            got = f"{len(set(values))} target in {len(values):,} rows"
            raise DataError(Problem(what=what, where=_WHERE, got=got, expected="at least two", fix=fix))

    def joins(self, parts: Sequence[str]) -> None:
        """Take in the names of the two parts.

        Raises:
            DataError: There are not two.
        """
        if len(parts) != _TWO:
            fix = "name a column for each of two towers, such as --image picture --text name"
            what = "retrieval holds two parts of a row against each other"
            got = ", ".join(f"'{part}'" for part in parts) or "rows that are read as one"
            raise DataError(Problem(what=what, where="the columns", got=got, expected="two parts", fix=fix))
        self._parts = tuple(parts)

    def state(self) -> dict[str, JSON]:
        """Return the names of the parts."""
        return {"parts": list(self._parts)}

    @classmethod
    def restore(cls, options: Any, state: dict[str, JSON]) -> Self:
        """Return a task with these parts."""
        task = cls(options)
        task._parts = tuple(map(str, state["parts"]))
        return task

    def target_problem(self, value: object) -> str:
        """Return why a value cannot name what a row is of, or an empty string."""
        return "" if isinstance(value, str | int) else f"{value!r:.80} is neither a text nor a whole number"

    def targets(self, values: Sequence[Any]) -> Array:
        """Return a number for each value (B,), int64: of equal values the same one, whichever rows it is asked for.

        Raises:
            DataError: A value names nothing.
        """
        problems = [(row, problem) for row, value in enumerate(values) if (problem := self.target_problem(value))]
        if problems:
            fix = "correct the value or leave the row out"
            raise DataError([Problem(what=what, where=f"value {row}", fix=fix) for row, what in problems[:10]])
        return np.array([_number(value) for value in values], dtype=np.int64)

    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return the map of one part into the shared space.

        Args:
            width: Width of the features of the part.
            dropout: Share of features dropped in training.
            seed: Draws the initial weights.
        """
        import torch

        from regraft.models.heads import Tower

        options, pairing = self.options, self.pairing
        temperature = pairing.temperature if options.temperature is None else options.temperature
        bias = pairing.bias if options.bias is None else options.bias
        sizes = (width, options.hidden, options.width)
        return Tower(sizes, dropout, 1.0 / temperature, torch.Generator().manual_seed(seed), bias=bias)

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> Loss:
        """Return the contrastive loss of a batch, as `regraft.tasks.pairings` says: which rows belong together.

        Args:
            output: Of both parts (B, 2 C); who has it has the logits of all pairs.
            targets: What each row is of (B,).
        """
        first_BC, second_BC = output.float().chunk(_TWO, dim=1)
        same_BB = (targets[:, None] == targets[None]).to(first_BC.dtype)
        return Loss(total=self.pairing.total(first_BC, second_BC, same_BB), weight=output.new_tensor(float(len(targets))))

    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return the vectors of both parts (B, 2 W), float64: what is judged is which are near each other."""
        return self._vectors(np.asarray(output, dtype=np.float64)).reshape(len(output), -1)

    def _vectors(self, output: FloatArray) -> FloatArray:
        """Return the vectors of both parts (B, 2, W) in outputs (B, 2 C)."""
        return self.pairing.vectors(output.reshape(len(output), _TWO, output.shape[-1] // _TWO))

    def decode(self, output: FloatArray) -> list[Prediction]:
        """Return the vectors of the parts that a row has, each of length 1.

        Args:
            output: Of both parts (B, 2 C); zeros where a part is missing.
        """
        if not len(output):
            return []
        output = np.asarray(output, dtype=np.float64).reshape(len(output), -1)
        return [self._decoded(row, vectors_2W) for row, vectors_2W in zip(output, self._vectors(output), strict=True)]

    def _decoded(self, output: FloatArray, vectors_2W: FloatArray) -> Prediction:
        if not np.isfinite(output).all():
            return Prediction(value=None, error="the network's output for this row is not a finite number")
        lengths = np.linalg.norm(vectors_2W, axis=1)
        value = {
            name: np.round(vector_W / length, 7).tolist()
            for name, vector_W, length in zip(self._parts, vectors_2W, lengths.tolist(), strict=True)
            if length > 0
        }
        return Prediction(value=value, logits=tuple(output.tolist()))

    def matched(self, asking_QC: FloatArray, found_NC: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the cosines and the probabilities (Q, N) of pairs; see `Task.matched`.

        Example:
            >>> task = Retrieval(RetrievalOptions(loss="sigmoid"))
            >>> cosines, probabilities = task.matched(np.array([[2.0, -3.0]]), np.array([[3.0, -3.0]]))
            >>> cosines.tolist(), probabilities.tolist()
            ([[1.0]], [[0.5]])
        """
        return self.pairing.cosines(asking_QC, found_NC), self.pairing.probabilities(asking_QC, found_NC)

    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        """Return whether the vectors of two answers differ by what raw outputs that moved by `near` make them differ."""
        if was.value is None or now.value is None or set(was.value) != set(now.value):
            return bool(was.value == now.value)
        # The golden rows let outputs move by `near` times the largest of them; a vector of length 1 has none above 1.
        gaps = [np.abs(np.subtract(was.value[name], now.value[name])).max(initial=0.0) for name in was.value]
        vectors_2W = self._vectors(np.asarray([was.logits]))[0]
        shortest = min((math.hypot(*vector) for vector in vectors_2W if vector.any()), default=1.0)
        size = max(1.0, *(abs(raw) for raw in was.logits)) / shortest
        return bool(max(gaps, default=0.0) <= _TWO * near * size + 1e-6)

    def alike(self, was: JSON, now: JSON) -> bool:
        """Return whether the vectors of two answers have cosines of at least 0.99."""
        if was is None or now is None or set(was) != set(now):
            return bool(was == now)
        return all(float(np.dot(was[name], now[name])) >= _ALIKE for name in was)

    def cost(self, truth: JSON, value: JSON) -> float:
        """Return NaN: of one row alone it cannot be said whether it is found."""
        return math.nan

    @classmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a signal of two numbers, each one of a few steps, and what they name together.

        Args:
            n: Rows; at least 2.
            seed: Draws the rows.
        """
        rng = np.random.default_rng(seed)
        steps_N2 = np.stack([np.arange(n) % 4, np.arange(n) // 4 % 4], axis=1)[rng.permutation(n)]
        return (steps_N2 + 0.5) / 4, [f"thing {4 * first + second}" for first, second in steps_N2.tolist()]


def _number(value: str | int) -> int:
    digest = hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)

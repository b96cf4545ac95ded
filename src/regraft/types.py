"""The values that travel between the rooms. Numpy only: the inference core uses them without torch.

Shapes: B rows, T positions, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]
Label = str | int | bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """One raw value as arrays, with the way back.

    Args:
        inputs: Input name -> array whose first axis is the position, (T, ...).
        spans_T2: For each position the half-open raw interval it covers (characters, samples, steps); (0, 0) where a position
            stands for nothing raw (a separator).
        dropped: Positions that were cut off because the value was too long.
    """

    inputs: Mapping[str, Array]
    spans_T2: Array
    dropped: int = 0

    @property
    def length(self) -> int:
        """Number of positions."""
        return len(self.spans_T2)

    def arrays(self) -> Mapping[str, Array]:
        """Return all arrays by name, those of the parts of a row included."""
        return self.inputs


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows ready for a network, padded to the longest of them.

    Args:
        inputs: Input name -> array (B, T, ...).
        mask_BT: True where a position is real, False where it is padding.
        targets: What the task wants for each row (B, ...), or nothing at prediction time.
        queries: What is known at prediction time beside the inputs (spans, horizon, candidate answers); never a target.
        rows_B: Position of each row in the data it came from.
        scales: Of several targets, what the loss of each is multiplied by (`Task.scales`); it depends on all rows of an update,
            of which these may be a part.
    """

    inputs: Mapping[str, Array]
    mask_BT: Array
    targets: Array | None = None
    queries: Mapping[str, Any] = field(default_factory=dict)
    rows_B: Array | None = None
    scales: Array | None = None

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.mask_BT)


class BatchRows(Protocol):
    """Rows of a split, ready to be handed out as batches: encoded rows, or what was made of them further up the network."""

    lengths: Array
    """Positions of each row (N,)."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batch(self, rows: Array, targets: Array | None = None) -> Batch:
        """Return the rows with these positions as one padded batch, with their part of the targets of the whole split."""

    def drawn(self, rng: np.random.Generator) -> BatchRows:
        """Return the rows as one epoch of training sees them: varied by numbers from `rng`, or themselves."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a backbone makes of a batch.

    Args:
        sequence_BTD: One vector a position.
        mask_BT: True where a position is real.
        pooled_BD: One vector a row.
    """

    sequence_BTD: torch.Tensor
    mask_BT: torch.Tensor
    pooled_BD: torch.Tensor


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer, or the reason why there is none.

    Args:
        value: The answer as a JSON value; for classification the label in the type it had in the training data.
        probabilities: Label name -> probability, every label, in the artifact's label order; empty where a task has none.
        logits: Raw output of the head for this row.
        error: Why there is no answer; then `value` is None.
        dropped: Positions of the input that were cut off.
        quantiles: Level ("0.1") -> the number below which the true one lies with that probability; empty where a task has none.
        set: Labels one of which is the true one with the chance that was asked for (`coverage`); None if none was.
        interval: Numbers between which the true one lies with that chance.
        abstained: Whether it is less sure than was asked for (`min_confidence`, `precision`), so that it should not be acted
            upon; `value` is what it would be. None if nothing was asked for.
        parts: Target -> its answer, where there are several targets; then `value` maps target to value, and the other fields
            hold those of all targets, names as "TARGET.NAME".
    """

    value: Any
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logits: Sequence[float] = ()
    error: str = ""
    dropped: int = 0
    quantiles: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, Prediction] = field(default_factory=dict)
    set: Sequence[Any] | None = None
    interval: tuple[float, float] | None = None
    abstained: bool | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that stand beside the answer, by the names of their columns in a file of answers."""
        shares = {f"probability.{label}": share for label, share in self.probabilities.items()}
        ends = {f"interval.{name}": one.interval for name, one in self.parts.items()} or {"interval": self.interval}
        between = {f"{name}.{end}": pair[at] for name, pair in ends.items() if pair for at, end in enumerate(("low", "high"))}
        return shares | {f"quantile.{level}": number for level, number in self.quantiles.items()} | between

    @property
    def label(self) -> Any:
        """The answer of a task that names labels; the same as `value`."""
        return self.value

    def to_json(self) -> dict[str, Any]:
        """Return the answer as people and programs receive it over HTTP and in JSON lines."""
        if self.error:
            return {"prediction": None, "error": self.error}
        told: dict[str, Any] = {
            "probabilities": dict(self.probabilities) or None,
            "quantiles": dict(self.quantiles) or None,
            "set": None if self.set is None else list(self.set),
            "interval": None if self.interval is None else list(self.interval),
            "abstained": self.abstained,
        }
        if self.parts:
            inside = {name: part.to_json() for name, part in self.parts.items()}
            told = {what: {name: one[what] for name, one in inside.items() if what in one} or None for what in told}
        return {"prediction": self.value, **{name: numbers for name, numbers in told.items() if numbers is not None}}


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its uncertainty.

    Args:
        value: The estimate.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        n: Rows it was computed on.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """Return the four fields as a JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(slots=True)
class Ledger:
    """Count everything that was lost on the way, by reason, with an example of where.

    Args:
        counts: Reason -> number ("rows without a label", "truncated tokens").
        examples: Reason -> where the first few were.

    Example:
        >>> ledger = Ledger()
        >>> ledger.add("rows without a label", 1, "mails.csv, row 17")
        >>> ledger.to_json()
        {'rows without a label': {'count': 1, 'examples': ['mails.csv, row 17']}}
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, count: int = 1, where: str = "") -> None:
        """Count `count` more losses; keeps the first three places."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        if where and len(self.examples.setdefault(reason, [])) < 3:
            self.examples[reason].append(where)

    def include(self, other: Ledger) -> None:
        """Add the counts of another ledger to this one."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            places = self.examples.setdefault(reason, [])
            places.extend(other.examples.get(reason, [])[: 3 - len(places)])

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return reason -> {count, examples}."""
        return {why: {"count": n, "examples": self.examples.get(why, [])} for why, n in self.counts.items()}

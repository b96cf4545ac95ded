"""Regression: each row has one number, which is estimated; or several quantiles of what it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.calibration.links import Levels, Link
from regraft.data.targets import as_number
from regraft.errors import DataError, OptionsError, Problem
from regraft.options import JSON, Field, options
from regraft.tasks.labels import plain
from regraft.tasks.task import Loss, Task
from regraft.types import Array, FloatArray, Ledger, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn

MEDIAN = 0.5
_ALIKE = 0.1
"""Numbers that differ by at most so many deviations of the target count as alike where precision was reduced."""
_WHERE = "training rows, target column"
_SHOWN = 5


@options
class RegressionOptions:
    """What it costs to be off, and whether quantiles are estimated instead of one number."""

    loss: Literal["squared", "absolute", "huber"] = "squared"
    """Cost of an error: squared (estimates the mean), absolute (the median), or huber, squared near 0 and absolute beyond."""

    huber_delta: Annotated[float, Field(gt=0.0)] = 1.0
    """Where huber goes from squared to absolute, in standard deviations of the target."""

    quantiles: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Levels to estimate, such as [0.1, 0.9], under the pinball loss; the median is added and is the answer."""


class Regression(Task):
    """Estimate a number a row, in the unit of the target.

    The network sees targets less their training mean, over their training standard deviation.

    Args:
        options: An instance of `Options`.

    Example:
        >>> task = Regression(RegressionOptions())
        >>> task.learn([10.0, 20.0, 30.0, "20"], Ledger())
        >>> task.decode(np.array([[0.0], [1.0]]))[0].value
        20.0
    """

    Options = RegressionOptions
    name: ClassVar[str] = "regression"
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    answers = "numbers"
    metrics: tuple[str, ...] = ("mae", "rmse", "r2")
    # The loss is learnt on the scale of squared errors, and a few rows that are far off count there as they do in the loss.
    validation_metric = "rmse"

    def __init__(self, options: RegressionOptions) -> None:
        super().__init__(options)
        self.mean, self.scale = 0.0, 1.0
        self.levels: tuple[float, ...] = tuple(sorted({*options.quantiles, MEDIAN})) if options.quantiles else ()
        if self.levels:
            self.answers = "quantiles"
            self.metrics = ("pinball", "coverage", "calibration-error", "mae", "rmse", "r2")
            self.validation_metric = "pinball"
        elif options.loss == "absolute":
            self.validation_metric = "mae"

    @property
    def names(self) -> tuple[str, ...]:
        """The levels of the quantiles; empty where one number is estimated."""
        return tuple(f"{level:g}" for level in self.levels)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """One name a quantile."""
        return tuple(f"quantile.{name}" for name in self.names)

    @property
    def likelihood_factor(self) -> float:
        """One half for squared errors, of which a Gaussian's log-likelihood holds half; else 1."""
        return 0.5 if not self.levels and self.options.loss != "absolute" else 1.0

    def learn(self, values: Sequence[Any], ledger: Ledger) -> None:
        """Take in mean and standard deviation of the training targets.

        Args:
            values: The target of every training row: numbers, or texts that are numbers.
            ledger: Nothing is counted here.

        Raises:
            DataError: Values are no finite numbers, or all the same.
            OptionsError: A loss is chosen beside quantiles, which have their own.
        """
        if self.levels and self.options.loss != type(self.options)().loss:
            what = "quantiles are learnt by the pinball loss, and another loss is chosen too"
            raise OptionsError(Problem(what=what, where="task.loss", got=self.options.loss, fix="leave out one of the two"))
        problem = _not_numbers(values) or _too_few(values)
        if problem is not None:
            raise DataError(problem)
        numbers_N = np.array([as_number(plain(value)) for value in values], dtype=np.float64)
        size = math.frexp(float(np.abs(numbers_N).max()))[1] - 1
        scaled_N = np.ldexp(numbers_N, -size)  # exact; squares of numbers beyond 1e154 would not fit
        if numbers_N.min() == numbers_N.max() or not scaled_N.std() > 0:
            got = f"{len(values):,} rows, all {values[0]!r}"
            what, fix = "the target is constant: there is nothing to estimate", "choose another target column"
            raise DataError(Problem(what=what, where=_WHERE, got=got, fix=fix))
        self.mean, self.scale = (float(np.ldexp(part, size)) for part in (scaled_N.mean(), scaled_N.std()))

    def state(self) -> dict[str, JSON]:
        """Return mean and standard deviation."""
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def restore(cls, options: Any, state: dict[str, JSON]) -> Self:
        """Return a task with this mean and standard deviation."""
        task = cls(options)
        task.mean, task.scale = float(state["mean"]), float(state["scale"])
        if not (math.isfinite(task.mean) and math.isfinite(task.scale) and task.scale > 0):
            raise ValueError(f"mean {task.mean} and scale {task.scale} are no finite numbers, the second above 0")
        return task

    def target_problem(self, value: object) -> str:
        """Return why a value is no finite number, or an empty string."""
        value = plain(value)
        number = as_number(value)
        if number is None:
            return f"{value!r:.80} is not a number{_hint(value)}"
        return "" if math.isfinite(number) else f"{value!r:.80} is not a finite number"

    def targets(self, values: Sequence[Any]) -> Array:
        """Return the numbers (B,) in the unit of the target, float64.

        Raises:
            DataError: A value is no finite number.
        """
        problems = {row: problem for row, value in enumerate(values) if (problem := self.target_problem(value))}
        if problems:
            fix = "correct the value or leave the row out"
            raise DataError([Problem(what=what, where=f"value {row}", fix=fix) for row, what in list(problems.items())[:10]])
        return np.array([as_number(plain(value)) for value in values], dtype=np.float64)

    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return dropout and a linear map from the pooled features to one number, or to one a quantile.

        Args:
            width: Width of the pooled features.
            dropout: Share of features dropped in training.
            seed: Draws the initial weights.
        """
        import torch

        from regraft.models.heads import LinearHead

        return LinearHead(width, max(1, len(self.levels)), dropout, torch.Generator().manual_seed(seed))

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> Loss:
        """Return the summed loss of standardised errors.

        Huber: (Huber 1964) delta (|e| - delta / 2) beyond delta, e^2 / 2 within. Quantiles: the mean over the levels of
        max(q e, (q - 1) e) with e = target - quantile (Koenker & Bassett 1978).

        Args:
            output: Raw output (B, 1) or (B, Q).
            targets: Numbers (B,) in the unit of the target, float64.
        """
        import torch
        from torch.nn import functional

        # Subtracted before rounding to single precision: 1e9 + 1 and 1e9 + 2 are the same number there.
        wanted = ((targets.double() - self.mean) / self.scale).to(output)
        if self.levels:
            errors = wanted[:, None] - _increasing(output)
            levels = output.new_tensor(self.levels)
            total = torch.maximum(levels * errors, (levels - 1.0) * errors).mean(dim=1).sum()
        elif self.options.loss == "huber":
            total = functional.huber_loss(output[:, 0], wanted, reduction="sum", delta=self.options.huber_delta)
        else:
            errors = output[:, 0] - wanted
            total = (errors.abs() if self.options.loss == "absolute" else errors.square()).sum()
        return Loss(total=total, weight=output.new_tensor(float(len(targets))))

    def divergence(self, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the mean of the squared differences (B,) of the numbers or quantiles, in deviations of the target."""
        return super().divergence(_increasing(output), _increasing(other)) if self.levels else super().divergence(output, other)

    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return the numbers (B, 1), or the calibrated quantiles (B, Q), in the unit of the target, float64."""
        return self.judged(self.calibrated(self.evidence(output)))

    @property
    def link(self) -> Link | None:
        """Quantiles have their levels; of one number nothing can be calibrated."""
        return Levels(self.levels) if self.levels else None

    def evidence(self, output: FloatArray) -> FloatArray:
        """Return the number (B, 1) or the quantiles (B, Q) on the scale of the loss: less the mean, over the deviation."""
        raw = np.asarray(output, dtype=np.float64)
        if self.levels:
            with np.errstate(invalid="ignore"):  # rows that are not finite give NaN here; decode refuses them by name
                raw = np.cumsum(np.concatenate([raw[:, :1], np.logaddexp(0.0, raw[:, 1:])], axis=1), axis=1)
        return raw

    def judged(self, evidence: FloatArray) -> FloatArray:
        """Return numbers on the scale of the loss in the unit of the target."""
        numbers: FloatArray = self.mean + self.scale * evidence
        return numbers

    def known(self, targets: Array) -> Array:
        """Return targets (B,) on the scale of the loss."""
        return (targets - self.mean) / self.scale

    def mixed(self, outputs_PBC: torch.Tensor, weights_BP: torch.Tensor) -> torch.Tensor:
        """Return the output (B, 1) or (B, Q) whose numbers or quantiles are the weighted means of those of P heads."""
        import torch
        from torch.nn import functional

        if not self.levels:
            return super().mixed(outputs_PBC, weights_BP)
        mean = super().mixed
        # Steps between quantiles are softplus(z) = log(1 + e^z); its inverse is x + log(1 - e^-x).
        first, steps = outputs_PBC[..., :1], functional.softplus(outputs_PBC[..., 1:])
        first, steps = mean(first, weights_BP), mean(steps, weights_BP)
        steps = steps.clamp(min=torch.finfo(steps.dtype).tiny)
        return torch.cat([first, steps + torch.log(-torch.expm1(-steps))], dim=-1)

    def decode(self, output: FloatArray) -> list[Prediction]:
        """Return the number of each row; of quantiles the median, with all of them beside it.

        Args:
            output: Raw output (B, 1) or (B, Q).
        """
        if not len(output):
            return []
        numbers_BC = self.probabilities(output)
        middle = self.levels.index(MEDIAN) if self.levels else 0
        names, finite_B = self.names, np.isfinite(np.asarray(output).sum(axis=1) + numbers_BC.sum(axis=1))
        rows = zip(numbers_BC.tolist(), np.asarray(output).tolist(), finite_B.tolist(), strict=True)
        return [
            Prediction(
                value=numbers[middle], quantiles=dict(zip(names, numbers, strict=True)) if names else {}, logits=tuple(raw)
            )
            if fine
            else Prediction(value=None, error="the network's output for this row is not a finite number")
            for numbers, raw, fine in rows
        ]

    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        """Return whether two numbers differ by no more than raw outputs that moved by `near` make them differ."""
        if was.value is None or now.value is None:
            return bool(was.value == now.value)
        size = max(1.0, *(abs(raw) for raw in was.logits), abs(was.value - self.mean) / self.scale)
        # Each of several quantiles adds its own move to the ones below it.
        limit = near * size * self.scale * max(1, len(self.levels)) * (1 + 1e-9)
        return bool(abs(float(was.value) - float(now.value)) <= limit)

    def alike(self, was: JSON, now: JSON) -> bool:
        """Return whether two numbers are within a tenth of the target's standard deviation."""
        if was is None or now is None:
            return bool(was == now)
        return bool(abs(float(was) - float(now)) <= _ALIKE * self.scale)

    def cost(self, truth: JSON, value: JSON) -> float:
        """Return how far off a number is; NaN where the truth is no finite number."""
        return math.nan if self.target_problem(truth) or value is None else abs(float(value) - (as_number(plain(truth)) or 0.0))

    @classmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a signal whose first number, times 40 less 10, is the target; the second says nothing.

        Args:
            n: Rows.
            seed: Draws the rows.
        """
        signal_NS = np.random.default_rng(seed).random((n, 2))
        return signal_NS, [float(number) for number in np.round(40 * signal_NS[:, 0] - 10, 3)]


def _increasing(output: torch.Tensor) -> torch.Tensor:
    """Return quantiles (B, Q) that never cross: the lowest, and above it steps made positive by softplus.

    As Gasthaus et al. 2019 ("Probabilistic forecasting with spline quantile function RNNs") make their knots increase.
    """
    import torch
    from torch.nn import functional

    return torch.cat([output[:, :1], functional.softplus(output[:, 1:])], dim=1).cumsum(dim=1)


def _not_numbers(values: Sequence[Any]) -> Problem | None:
    strange = [value for value in map(plain, values) if (number := as_number(value)) is None or not math.isfinite(number)]
    if not strange:
        return None
    some = ", ".join(dict.fromkeys(f"{value!r:.40}" for value in strange[:_SHOWN]))
    hints = next((hint for value in strange if (hint := _hint(value))), "")
    return Problem(
        what=f"the target has values that are no finite numbers{hints}",
        where=_WHERE,
        got=f"{len(strange):,} of {len(values):,} rows, such as {some}",
        expected="numbers, such as 3.5 or -2e3",
        fix="leave such values empty (rows without a target are counted and left out), correct them, or choose another task: "
        "names of classes are for --task classification",
    )


def _too_few(values: Sequence[Any]) -> Problem | None:
    if len(values) > 1:
        return None
    got, fix = f"{len(values)} rows", "give more training rows"
    return Problem(what="there is nothing to estimate: too few rows", where=_WHERE, got=got, expected="at least two", fix=fix)


def _hint(value: object) -> str:
    if isinstance(value, bool):
        return " (true and false are classes)"
    if isinstance(value, str) and "," in value and as_number(value.replace(".", "").replace(",", ".")) is not None:
        return " (write a point before the fraction, and nothing between thousands)"
    return ""

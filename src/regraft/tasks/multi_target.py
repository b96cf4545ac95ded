"""Several targets of a row at once: each has a task and a head of its own, over one pass of one backbone.

A target value is a mapping from column to value, in which a column may be missing. A row teaches the heads of the targets it
has; the others take no gradient from it.

Arrays of all targets stand side by side: targets (B, W) as float64, NaN where a row lacks one; outputs (B, C); what is judged.

Shapes: B rows, K targets, P heads of one target (rows of several parts).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.data.targets import is_missing
from regraft.errors import DataError, OptionsError, Problem, RegraftError, UsageError
from regraft.options import JSON, Among, Field, Pick, options
from regraft.tasks.task import ByGradients, Loss, Part, Task
from regraft.types import Array, FloatArray, Ledger, Prediction

if TYPE_CHECKING:
    import torch
    from torch import nn

_FEWEST = 2
_ANSWERED = ("probability", "quantile")
_BANDS = ("low", "middle", "high")
_LEARNT, _BY_GRADIENTS = "uncertainty", "gradnorm"


@options
class MultiTargetOptions:
    """What is predicted in each column, and how the losses are weighed against each other."""

    targets: dict[str, Annotated[Pick, Among("regraft.tasks:TASKS")]] = Field(default_factory=dict)
    """Column -> the task there, with options of that task. Flags such as --target price=regression say the first."""

    weights: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    """Column -> what its loss is multiplied by; 1 where nothing is said. A head whose weight is 0 does not learn."""

    weighting: Literal["static", "uncertainty", "gradnorm"] = "static"
    """How losses are weighed beside that: static (as said), uncertainty (learnt: Kendall, Gal & Cipolla 2018,
    arXiv:1705.07115), or gradnorm (by the gradients that they send into what the targets share: Chen et al. 2018,
    arXiv:1711.02257)."""

    alpha: Annotated[float, Field(ge=0.0)] = 1.5
    """Of gradnorm: how strongly targets that learn slowly are helped; 0 makes the gradients of all targets equally long."""


class MultiTarget(Task):
    """Predict several targets at once, each with a head of its own, over one backbone.

    Args:
        options: An instance of `Options`.

    Example:
        >>> wanted = MultiTargetOptions(targets={"kind": Pick("classification"), "price": Pick("regression")})
        >>> task = MultiTarget(wanted)
        >>> rows = [{"kind": "a", "price": 1.0}, {"kind": "b", "price": None}, {"kind": "a", "price": 3.0}]
        >>> task.learn(rows, Ledger())
        >>> task.decode(np.array([[2.0, 0.0, 1.0]]))[0].value
        {'kind': 'a', 'price': 3.0}
    """

    Options = MultiTargetOptions
    name: ClassVar[str] = "multi-target"
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    answers = "targets"
    metrics = ("relative-loss",)
    validation_metric = "relative-loss"
    several: ClassVar[bool] = True
    example_options: ClassVar[Mapping[str, JSON]] = {"targets": {"band": "classification", "height": "regression"}}

    def __init__(self, options: MultiTargetOptions) -> None:
        from regraft.tasks import TASKS

        super().__init__(options)
        made = {name: pick.resolve(TASKS) for name, pick in options.targets.items()}
        within = [name for name, (cls, _) in made.items() if cls.several]
        strange = [name for name in options.weights if name not in made]
        problems = [
            Problem(
                what=f"the target '{name}' cannot have several targets itself", where="task.targets", fix="name a task of one"
            )
            for name in within
        ] + [
            Problem(
                what=f"there is a weight for '{name}', which is no target",
                where="task.weights",
                expected=", ".join(made),
                fix="name a target, or leave it out",
            )
            for name in strange
        ]
        if made and not any(options.weights.get(name, 1.0) for name in made):
            what, fix = "all targets have the weight 0: nothing would be learnt", "give one of them a weight above 0"
            problems.append(Problem(what=what, where="task.weights", fix=fix))
        problems += _contradictions(options)
        if problems:
            raise OptionsError(problems)
        self.tasks: dict[str, Task] = {name: cls(own) for name, (cls, own) in made.items()}
        self.weights = {name: float(options.weights.get(name, 1.0)) for name in self.tasks}
        self._parts: tuple[Part, ...] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the targets, in order."""
        return tuple(self.tasks)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The targets, in order; their columns of the arrays are known once the task has learnt."""
        if self._parts is None:
            self._parts = self._laid_out()
        return self._parts

    def _laid_out(self) -> tuple[Part, ...]:
        made: list[Part] = []
        targets = outputs = judged = 0
        for name, task in self.tasks.items():
            width = math.prod(task.targets([]).shape[1:])
            given, shown = task.widths
            made.append(
                Part(
                    name,
                    task,
                    slice(targets, targets + width),
                    slice(outputs, outputs + given),
                    slice(judged, judged + shown),
                )
            )
            targets, outputs, judged = targets + width, outputs + given, judged + shown
        return tuple(made)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of what is judged, as TARGET.NAME; of a plain number that of its target."""
        return tuple(name for part in self.parts for name in _named(part))

    @property
    def widths(self) -> tuple[int, int]:
        """Sums of those of the targets."""
        last = self.parts[-1]
        return last.outputs.stop, last.judged.stop

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """Those of the targets, as KIND.TARGET.NAME: probabilities of all targets first."""
        named = [(kind, part.name, rest) for part in self.parts for kind, _, rest in _split(part.task.answer_columns)]
        return tuple(f"{kind}.{name}.{rest}" for first in _ANSWERED for kind, name, rest in named if kind == first)

    def bare(self) -> Self:
        """Return the same task as if no target had been calibrated."""
        made = super().bare()
        made.tasks = {name: task.bare() for name, task in self.tasks.items()}
        made._parts = None
        return made

    def learn(self, values: Sequence[Any], ledger: Ledger) -> None:
        """Let each task learn from the rows that have its target.

        Args:
            values: For every training row a mapping from target to value.
            ledger: Receives what the tasks count, each by the name of its target.

        Raises:
            DataError: A target cannot be learnt from, or no row has it; the problems of all targets together.
            OptionsError: Fewer than two targets are named, or the options of a task speak of something the values do not have.
        """
        if len(self.tasks) < _FEWEST:
            fix = "name them, such as --target label=classification --target price=regression"
            got = ", ".join(self.tasks) or "no target"
            raise OptionsError(Problem(what="this task is for several targets", where="task.targets", got=got, fix=fix))
        problems: list[Problem] = []
        sort: type[RegraftError] = DataError
        for name, task in self.tasks.items():
            there, found = [value[name] for value in _mappings(values) if not is_missing(value.get(name))], Ledger()
            try:
                if not there:
                    raise DataError(_nobody(name, len(values)))
                task.learn(there, found)
            except UsageError as error:
                sort = type(error)
                problems += [addressed(problem, name) for problem in error.problems]
            ledger.include(_prefixed(found, name))
        if problems:
            raise sort(problems)
        self._parts = None

    def state(self) -> dict[str, JSON]:
        """Return what each task learnt; a list, because where mappings are written their keys are sorted."""
        return {"targets": [{"name": name, "state": task.state()} for name, task in self.tasks.items()]}

    @classmethod
    def restore(cls, options: Any, state: dict[str, JSON]) -> Self:
        """Return a task whose tasks have learnt these states."""
        made = cls(options)
        said = {str(one["name"]): one["state"] for one in state["targets"]}
        if set(said) != set(made.tasks):
            raise ValueError(f"states of {', '.join(said)} are not those of the targets {', '.join(made.tasks)}")
        own = {name: made.tasks[name] for name in said}
        made.tasks = {name: type(task).restore(task.options, said[name]) for name, task in own.items()}
        return made

    def target_problem(self, value: object) -> str:
        """Return why a value is no mapping with at least one of the targets, each as its task knows it; or an empty string."""
        if not isinstance(value, Mapping):
            return f"{value!r:.80} is no mapping from target to value"
        there = [name for name in self.tasks if not is_missing(value.get(name))]
        if not there:
            return f"{dict(value)!r:.80} has none of the targets {', '.join(self.tasks)}"
        problems = ((name, self.tasks[name].target_problem(value[name])) for name in there)
        return next((f"column '{name}': {problem}" for name, problem in problems if problem), "")

    def targets(self, values: Sequence[Any]) -> Array:
        """Return the targets of all tasks side by side (B, W), float64; NaN where a row lacks one.

        Raises:
            DataError: A value has a `target_problem`.
        """
        problems = {row: problem for row, value in enumerate(values) if (problem := self.target_problem(value))}
        if problems:
            fix = "correct the value or leave the row out"
            raise DataError([Problem(what=what, where=f"value {row}", fix=fix) for row, what in list(problems.items())[:10]])
        columns = [self._own_targets(part, values) for part in self.parts]
        return np.concatenate(columns, axis=1) if columns else np.empty((len(values), 0))

    def _own_targets(self, part: Part, values: Sequence[Mapping[str, Any]]) -> Array:
        """Return the targets of one task (B, its columns), NaN in rows that lack it."""
        rows = [row for row, value in enumerate(values) if not is_missing(value.get(part.name))]
        own = part.task.targets([values[row][part.name] for row in rows])
        found = np.full((len(values), math.prod(own.shape[1:])), np.nan)
        found[np.array(rows, dtype=np.int64)] = own.reshape(len(rows), found.shape[1])
        return found

    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return the heads of all targets, whose outputs stand side by side.

        Args:
            width: Width of the pooled features.
            dropout: Share of features dropped in training.
            seed: Draws the initial weights; the first head is that of its task alone.
        """
        from regraft.models.heads import HeadsOfTargets

        heads = [part.task.head(width, dropout, seed + place) for place, part in enumerate(self.parts)]
        return HeadsOfTargets(heads, learns_weights=self.options.weighting == _LEARNT)

    @property
    def by_gradients(self) -> ByGradients | None:
        """The targets whose losses are weighed by their gradients: with gradnorm all that learn."""
        if self.options.weighting != _BY_GRADIENTS:
            return None
        return ByGradients(tuple(name for name, weight in self.weights.items() if weight), self.options.alpha)

    def scales(self, targets: Array) -> Array:
        """Return rows / weight of the rows that have it, for each target (K,); 0 where no row has it.

        With them the loss of an update is the sum over targets of the mean loss over the rows that have it.

        Args:
            targets: Of all rows of an update.
        """
        weights = [part.task.weight(part.own(targets)) for part in self.parts]
        return np.array([len(targets) / weight if weight > 0 else 0.0 for weight in weights])

    def balance(self, targets: Array) -> FloatArray:
        """Return chances (B,) of which every target gives as many, to the rows that have it, as its task balances them."""
        chances = np.zeros(len(targets))
        for part in self.parts:
            rows = part.rows(targets)
            if len(rows) and self.weights[part.name]:
                own = part.task.balance(part.own(targets, rows))
                chances[rows] += own / own.sum()
        return chances

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> Loss:
        """Return the loss of rows that are a whole update; see `scaled_loss`."""
        return self.scaled_loss(output, targets, None)

    def scaled_loss(self, output: torch.Tensor, targets: torch.Tensor, scales: Array | None) -> Loss:
        """Return the sum over targets of their weighted losses, each averaged over the rows that have it.

        With learnt weights, target k adds f_k exp(-s_k) L_k + s_k / 2, where s_k = log sigma_k^2 is learnt and f_k L_k is a
        negative log-likelihood but for constants: f = 1/2 for squared errors (Kendall, Gal & Cipolla 2018, arXiv:1705.07115,
        eq. 7), 1 for cross-entropies (eq. 10).

        Args:
            output: Outputs of all heads (B, C); in training with learnt weights, s (B, K) after them.
            targets: Targets (B, W).
            scales: What `scales` gave for all rows of the update; these are all of them if not given.
        """
        host = targets.detach().cpu().numpy()
        scales_K = self.scales(host) if scales is None else scales
        learnt_BK = output[:, self.widths[0] :]
        total = output.new_zeros(())
        for place, part in enumerate(self.parts):
            rows, weight = part.rows(host), self.weights[part.name]
            if weight and scales_K[place]:
                loss = self._one(part, output, host, rows) * float(scales_K[place])
                if learnt_BK.shape[1]:
                    loss = part.task.likelihood_factor * (-learnt_BK[0, place]).exp() * loss + learnt_BK[:, place].sum() / 2
                total = total + weight * loss
        return Loss(total=total, weight=output.new_tensor(float(len(host))))

    def losses(self, output: torch.Tensor, targets: torch.Tensor, scales: Array | None) -> dict[str, torch.Tensor]:
        """Return the loss of each target that rows of the update have and that learns, as `scaled_loss` adds them up."""
        host = targets.detach().cpu().numpy()
        scales_K = self.scales(host) if scales is None else scales
        return {
            part.name: self._one(part, output, host, part.rows(host)) * float(scales_K[place])
            for place, part in enumerate(self.parts)
            if self.weights[part.name] and scales_K[place]
        }

    def _one(self, part: Part, output: torch.Tensor, targets: Array, rows: Array) -> torch.Tensor:
        """Return the summed loss of one target over the rows that have it."""
        import torch

        if not len(rows):
            return output.new_zeros(())
        own = output[:, part.outputs]
        if len(rows) < len(own):
            own = own[torch.from_numpy(rows).to(output.device)]
        return part.task.loss(own, torch.from_numpy(part.own(targets, rows)).to(output.device)).total

    def divergence(self, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum (B,) of those of the targets, also of rows that lack them."""
        total = output.new_zeros(len(output))
        for part in self.parts:
            if self.weights[part.name]:
                own = part.task.divergence(output[:, part.outputs], other[:, part.outputs])
                total = total + self.weights[part.name] * own
        return total

    def probabilities(self, output: FloatArray) -> FloatArray:
        """Return what is judged of all targets, side by side (B, C), float64."""
        return np.concatenate([part.task.probabilities(np.asarray(output)[:, part.outputs]) for part in self.parts], axis=1)

    def mixed(self, outputs_PBC: torch.Tensor, weights_BP: torch.Tensor) -> torch.Tensor:
        """Return outputs side by side, each target's mixed by its task; learnt weights of losses are averaged."""
        import torch

        found = [part.task.mixed(outputs_PBC[..., part.outputs], weights_BP) for part in self.parts]
        rest = outputs_PBC[..., self.widths[0] :]
        return torch.cat([*found, *([super().mixed(rest, weights_BP)] if rest.shape[-1] else [])], dim=1)

    def decode(self, output: FloatArray) -> list[Prediction]:
        """Return for each row the answers of all targets.

        Args:
            output: Outputs of all heads (B, C).
        """
        if not len(output):
            return []
        raw = np.asarray(output)
        columns = [part.task.decode(raw[:, part.outputs]) for part in self.parts]
        return [self._joined(answers) for answers in zip(*columns, strict=True)]

    def _joined(self, answers: Sequence[Prediction]) -> Prediction:
        parts = dict(zip(self.tasks, answers, strict=True))
        wrong = next((f"{name}: {answer.error}" for name, answer in parts.items() if answer.error), "")
        if wrong:
            return Prediction(value=None, error=wrong)
        return Prediction(
            value={name: answer.value for name, answer in parts.items()},
            probabilities=_flat(parts, lambda answer: answer.probabilities),
            quantiles=_flat(parts, lambda answer: answer.quantiles),
            logits=tuple(number for answer in answers for number in answer.logits),
            parts=parts,
        )

    def apart(self, whole: Prediction) -> dict[str, Prediction]:
        """Return the answer of each target in an answer, also where only the fields of all targets were kept.

        Args:
            whole: An answer with `value`, `probabilities` and `logits`.
        """
        found = {}
        for part in self.parts:
            shares = {name: whole.probabilities.get(f"{part.name}.{name}") for name in part.task.names}
            known = {name: share for name, share in shares.items() if share is not None}
            value = None if whole.value is None else whole.value.get(part.name)
            found[part.name] = Prediction(value=value, probabilities=known, logits=tuple(whole.logits[part.outputs]))
        return found

    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        """Return whether the answers of every target agree; see `Task.same_answer`."""
        one, other = self.apart(was), self.apart(now)
        return all(task.same_answer(one[name], other[name], near) for name, task in self.tasks.items())

    def alike(self, was: JSON, now: JSON) -> bool:
        """Return whether the values of every target count as the same; see `Task.alike`."""
        if was is None or now is None:
            return bool(was == now)
        return all(task.alike(was.get(name), now.get(name)) for name, task in self.tasks.items())

    def cost(self, truth: JSON, value: JSON) -> float:
        """Return the mean cost over the targets whose truth is known; NaN where none is."""
        if not isinstance(truth, Mapping) or not isinstance(value, Mapping):
            return math.nan
        known = [name for name in self.tasks if not is_missing(truth.get(name))]
        costs = [cost for name in known if not math.isnan(cost := self.tasks[name].cost(truth[name], value.get(name)))]
        return sum(costs) / len(costs) if costs else math.nan

    @classmethod
    def example(cls, n: int, seed: int) -> tuple[FloatArray, list[Any]]:
        """Return a signal whose first number says which of three bands a row has, its second a number; some rows lack one.

        Args:
            n: Rows; at least 8, so that every band has one.
            seed: Draws the rows.
        """
        rng = np.random.default_rng(seed)
        bands = rng.permutation(np.arange(n) % 3)
        signal_NS = np.stack([0.375 * bands + 0.25 * rng.random(n), rng.random(n)], axis=1)
        heights = np.round(40 * signal_NS[:, 1] - 10, 3).tolist()
        values: list[Any] = [{"band": _BANDS[band], "height": height} for band, height in zip(bands, heights, strict=True)]
        for row in range(6, n, 7):
            values[row] = {**values[row], ("band", "height")[row % 2]: None}
        return signal_NS, values


def addressed(problem: Problem, name: str) -> Problem:
    """Return a problem of one of several targets, in whose advice options are those of that target.

    Args:
        problem: As the task of that target says it.
        name: The target.

    Example:
        >>> addressed(Problem(what="it is no class", fix="choose --task regression"), "price").fix
        'choose --target price=regression'
    """

    def said(text: str) -> str:
        text = text.replace("--task ", f"--target {name}=")
        return text.replace("task.", f"task.targets.{name}.") if "task.targets." not in text else text

    where = problem.where
    if not where.endswith(f"column '{name}'"):
        where = f"column '{name}'" + (f", {said(where)}" if where.startswith("task.") else "")
    return dataclasses.replace(problem, where=where, fix=said(problem.fix))


def _mappings(values: Sequence[Any]) -> list[Mapping[str, Any]]:
    return [value if isinstance(value, Mapping) else {} for value in values]


def _nobody(name: str, rows: int) -> Problem:
    return Problem(
        what=f"no training row has the target '{name}'",
        where=f"column '{name}'",
        got=f"{rows:,} rows, all without it" if rows else "no rows",
        expected="at least two rows that have it",
        fix=f"fill in the column, or leave out --target {name}",
    )


def _prefixed(ledger: Ledger, name: str) -> Ledger:
    counts = {f"{name}: {reason}": count for reason, count in ledger.counts.items()}
    return Ledger(counts, {f"{name}: {reason}": places for reason, places in ledger.examples.items()})


def _named(part: Part) -> list[str]:
    return [f"{part.name}.{name}" for name in part.task.names] or [part.name]


def _split(columns: Sequence[str]) -> list[tuple[str, str, str]]:
    return [column.partition(".") for column in columns]


def _flat(parts: Mapping[str, Prediction], numbers: Callable[[Prediction], Mapping[str, float]]) -> dict[str, float]:
    return {f"{name}.{key}": number for name, answer in parts.items() for key, number in numbers(answer).items()}


def _contradictions(options: MultiTargetOptions) -> list[Problem]:
    """Return what options say of weights that cannot hold together."""
    given = {name: weight for name, weight in options.weights.items() if weight not in {0.0, 1.0}}
    problems = []
    if options.weighting == _BY_GRADIENTS and given:
        got = ", ".join(f"{name} = {weight:g}" for name, weight in given.items())
        fix = "leave these weights out (0 still leaves a target out), or leave task.weighting out"
        what = "GradNorm finds the weights of the losses by itself"
        problems.append(Problem(what=what, where="task.weights", got=got, expected="0 or 1", fix=fix))
    if options.weighting != _BY_GRADIENTS and options.alpha != MultiTargetOptions().alpha:
        fix = f"add task.weighting={_BY_GRADIENTS}, or leave it out"
        what = "alpha is an option of GradNorm, which was not asked for"
        problems.append(Problem(what=what, where="task.alpha", got=f"{options.alpha:g}", fix=fix))
    return problems

"""The one training loop: a generator of events. It knows no task, objective, tuning or console by name.

    for event in train(net, objective, tuning, options, validation=validation, seed=0):
        print(event)

The consumer drives: training stands still between two events, and closing the generator ends it cleanly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import GateError, MachineError, OptionsError, Problem, did_you_mean
from regraft.models.transform import added_names
from regraft.training import OPTIMIZERS, SCHEDULES
from regraft.training.checkpoint import BEST, Keeper, Nothing, State, captured, part, put_into
from regraft.training.diagnosis import Case, not_finite
from regraft.training.events import BeginEvent, EndEvent, Event, NoteEvent, StepEvent, ValidEvent
from regraft.training.freeze import evaluating, learning, put_back, snapshot
from regraft.training.optimizers import gradient_norm, parameter_groups, peak_rates, scale_gradients
from regraft.training.out_of_memory import Spare
from regraft.training.schedules import share_of_peak
from regraft.training.seed import network_randomness, row_generator
from regraft.tuning.parts import new_parameters

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.training.options import TrainOptions
    from regraft.training.precision import Precision
    from regraft.tuning.tuning import Tuning
    from regraft.types import Batch


NOTHING = Nothing()


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How the network is judged while it learns.

    Args:
        run: Judges the network as it is (it is in evaluation mode during the call): metric name -> value.
        metric: The metric that chooses the best weights.
        higher_is_better: Its direction.
    """

    run: Callable[[], Mapping[str, float]]
    metric: str
    higher_is_better: bool


def train(
    net: Headed,
    objective: Objective,
    tuning: Tuning,
    options: TrainOptions,
    *,
    validation: Validation | None = None,
    seed: int = 0,
    keeper: Keeper = NOTHING,
) -> Generator[Event, None, None]:
    """Train a network in place and say what happens.

    The same seed on the same number of threads gives the same weights, bit for bit. While the generator is suspended, the
    caller's random state and gradient mode are the caller's own. However it ends (done, closed, an error, Ctrl-C), every
    parameter has its former `requires_grad` and every module its former mode; weights that are worth keeping are only there
    after an `EndEvent`.

    Args:
        net: The network; its trainable weights change. What `Precision.network` gave trains in that number format.
        objective: Makes batches and their loss; has its rows attached.
        tuning: Says which weights learn.
        options: Steps, rates, schedule, clipping, early stopping.
        validation: Judges the network; without it the last weights are kept.
        seed: Draws the order of rows and dropout.
        keeper: Keeps the state now and then, and gives the one to go on from.

    Yields:
        One `BeginEvent`, a `StepEvent` an update, a `ValidEvent` a validation, one `EndEvent`; a `NoteEvent` if memory ran out.

    Raises:
        OptionsError: Nothing would learn, or the validation does not give the metric.
        GateError: A loss or a gradient is not a finite number; the weights are those before that update.
        ArtifactError: What the keeper gave is the state of another network.
        MachineError: There is not enough memory for one row a forward pass; the weights are those before that update.
    """
    trainable = tuning.trainable(net)
    with learning(net, trainable):
        yield from _Run(net, objective, options, trainable, validation, seed, keeper).events()


class _Run:
    def __init__(
        self,
        net: Headed,
        objective: Objective,
        options: TrainOptions,
        trainable: set[str],
        validation: Validation | None,
        seed: int,
        keeper: Keeper,
    ) -> None:
        from regraft.training.precision import Precision

        self.net, self.objective, self.options, self.trainable = net, objective, options, trainable
        self.validation, self.seed, self.keeper = validation, seed, keeper
        self.began = time.perf_counter()
        self.weights = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.device = net.device
        self.precision: Precision = getattr(net, "precision", None) or Precision()
        optimizer_class, optimizer_options = options.optimizer.resolve(OPTIMIZERS)
        new = new_parameters(net)
        only_new = trainable <= new - added_names(net) and net.backbone.convex
        rates = peak_rates(options, pretrained=True, only_new=only_new)
        groups = parameter_groups(net, trainable, new, rates, options.weight_decay)
        self.optimizer = optimizer_class(optimizer_options).build(groups)
        schedule_class, schedule_options = options.schedule.resolve(SCHEDULES)
        self.schedule = schedule_class(schedule_options)
        self.steps_per_epoch = objective.steps_per_epoch(options.batch_size)
        planned = options.epochs * self.steps_per_epoch
        self.total_steps = min(planned, options.max_steps or planned)
        self.cut_short = self.total_steps < planned
        self.step = 0
        self.best: float | None = None
        self.best_step = 0
        self.kept: dict[str, torch.Tensor] | None = None
        self.stale = 0
        self.spare = Spare(objective, net, self.optimizer)

    def events(self) -> Iterator[Event]:
        sizes = [parameter.numel() for parameter in self.net.parameters()]
        learnt = sum(weight.numel() for weight in self.weights)
        rows = self.objective.rows_per_epoch()
        self.go_on(self.keeper.begin())
        yield BeginEvent(**self.now(), total_steps=self.total_steps, rows=rows, parameters=sum(sizes), trainable=learnt)
        reason = "max steps" if self.cut_short else "done"
        for micro_batches in self.batches():
            try:
                done = self.update(micro_batches)
            except MachineError:
                self.keeper.keep(self.state())  # that of the update before
                raise
            yield from (NoteEvent(**self.now(), text=text, level="warning") for text in self.spare.told())
            yield done
            if self.validation is not None and self.is_time_to_validate():
                yield self.validate(self.validation)
                if self.options.patience is not None and self.stale >= self.options.patience:
                    reason = "no improvement"
                    break
        if self.validation is not None and self.total_steps == 0:
            yield self.validate(self.validation)
        if self.kept is None:
            self.best_step = self.step
        elif self.best_step != self.step:
            put_back(self.net, self.kept)
        yield EndEvent(**self.now(), reason=reason, best_step=self.best_step)

    def now(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": time.perf_counter() - self.began}

    def batches(self) -> Iterator[list[Batch]]:
        size = self.options.batch_size
        micro_size = min(self.options.micro_batch_size or size, size)
        begun, done = divmod(self.step, max(self.steps_per_epoch, 1))
        for epoch in range(begun, self.options.epochs):
            first = done if epoch == begun else 0
            for micro_batches in self.objective.batches(epoch, size, micro_size, row_generator(self.seed, epoch), first):
                # Here, and not behind the update: now the objective has ended it too.
                if self.keeper.due(self.step):
                    self.keeper.keep(self.state())
                if self.step == self.total_steps:
                    return
                yield micro_batches

    def state(self) -> State:
        tensors, optimizer = captured(self.net, self.trainable, self.optimizer)
        if self.kept is not None and self.best_step != self.step:
            tensors |= {BEST + name: value for name, value in self.kept.items()}
        facts = {name: getattr(self, name) for name in ("best", "best_step", "stale")}
        facts |= {"optimizer": optimizer, "objective": self.objective.state()}
        facts |= {"precision": self.precision.state(), "spare": self.spare.state()}
        return State(self.step, tensors, facts)

    def go_on(self, state: State | None) -> None:
        if state is None:
            return
        self.step, facts = state.step, dict(state.facts)
        put_into(self.net, self.trainable, self.optimizer, state, facts["optimizer"])
        self.best, self.best_step, self.stale = facts["best"], facts["best_step"], facts["stale"]
        if self.best is not None:
            self.kept = part(state.tensors, BEST) or snapshot(self.net, self.trainable)
        self.objective.put_back(facts["objective"])
        self.precision.put_back(facts["precision"])
        self.spare.put_back(facts["spare"])

    def update(self, micro_batches: Sequence[Batch]) -> StepEvent:
        share = share_of_peak(self.step, self.total_steps, self.options.warmup_share, self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        rate = self.optimizer.param_groups[0]["lr"]
        where = f"step {self.step + 1} of {self.total_steps}"
        micro_batches, (loss, weight, logs) = self.spare.run(self.gradients, micro_batches, where)
        norm = self.scale_gradients(weight, micro_batches)
        self.spare.step()
        self.drop_gradients()
        self.step += 1
        return StepEvent(
            **self.now(),
            epoch=self.step / self.steps_per_epoch,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            rows=sum(batch.size for batch in micro_batches),
            positions=sum(int(np.count_nonzero(batch.mask_BT)) for batch in micro_batches),
            padded_positions=sum(batch.mask_BT.size for batch in micro_batches),
            logs=logs,
        )

    def drop_gradients(self) -> None:
        for parameter in self.weights:
            parameter.grad = None

    def gradients(self, micro_batches: Sequence[Batch]) -> tuple[float, float, dict[str, float]]:
        import torch

        # A format whose gradients overflow at the present scale takes the same step again at a smaller one.
        with network_randomness(self.seed, self.step, self.device), torch.enable_grad():
            while True:
                scale = self.precision.scale
                found = self.scaled_gradients(micro_batches, scale)
                if self.precision.settled(self.weights):
                    return found[0], found[1] * scale, found[2]
                self.drop_gradients()

    def scaled_gradients(self, micro_batches: Sequence[Batch], scale: float) -> tuple[float, float, dict[str, float]]:
        # Gradients of totals add up over micro-batches; dividing them by the weight of the whole batch comes after.
        total = weight = 0.0
        logs: dict[str, float] = {}
        rows = sum(batch.size for batch in micro_batches)
        for batch in micro_batches:
            part, part_logs = self.objective.loss(self.net, batch)
            total_part = float(part.total.detach())
            if not math.isfinite(total_part):
                raise self.not_finite("loss", total_part, [batch])
            (part.total * scale if scale != 1.0 else part.total).backward()  # type: ignore[no-untyped-call]
            total, weight = total + total_part, weight + float(part.weight.detach())
            for name, value in part_logs.items():
                logs[name] = logs.get(name, 0.0) + value * batch.size / rows
        if not weight > 0.0:
            raise self.not_finite("loss", math.nan, micro_batches)
        return total / weight, weight, logs

    def scale_gradients(self, weight: float, micro_batches: Sequence[Batch]) -> float:
        gradients = [parameter.grad for parameter in self.weights if parameter.grad is not None]
        norm = gradient_norm(gradients) / weight
        if not math.isfinite(norm):
            raise self.not_finite("gradient", norm, micro_batches)
        limit = self.options.clip_norm
        clip = 1.0 if limit is None or norm <= limit else limit / norm
        scale_gradients(self.optimizer, gradients, clip / weight)
        return norm

    def not_finite(self, what: str, got: float, batches: Sequence[Batch]) -> GateError:
        where, rate = f"step {self.step + 1} of {self.total_steps}", self.optimizer.param_groups[0]["lr"]
        with network_randomness(self.seed, self.step, self.device):
            return not_finite(what, got, Case(net=self.net, objective=self.objective, batches=batches, where=where, rate=rate))

    def is_time_to_validate(self) -> bool:
        every = self.options.validate_every or self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    def validate(self, validation: Validation) -> ValidEvent:
        with evaluating(self.net):
            metrics = validation.run()
        if validation.metric not in metrics:
            problem = f"the validation gives no metric '{validation.metric}'"
            raise OptionsError(Problem(what=problem, where="metric", fix=did_you_mean(validation.metric, list(metrics))))
        value = metrics[validation.metric] * (1.0 if validation.higher_is_better else -1.0)
        better = value > (-math.inf if self.best is None else self.best)  # never true for NaN
        if better:
            self.best, self.best_step, self.stale = value, self.step, 0
            self.kept = snapshot(self.net, self.trainable)
        else:
            self.stale += 1
        return ValidEvent(**self.now(), metrics=dict(metrics), best=better)

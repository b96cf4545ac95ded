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
from regraft.training.bad_steps import Guard
from regraft.training.checkpoint import BEST, GOOD, OBJECTIVE, Keeper, Nothing, State, behind, captured, part, put_into
from regraft.training.events import BeginEvent, EndEvent, Event, NoteEvent, StepEvent, ValidEvent
from regraft.training.freeze import evaluating, learning, put_back, snapshot
from regraft.training.gradients import Gradients
from regraft.training.optimizers import gradient_norm, parameter_groups, peak_rates, scale_gradients
from regraft.training.out_of_memory import Spare
from regraft.training.savings import savings_in
from regraft.training.schedules import share_of_peak
from regraft.training.seed import row_generator
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
        GateError: A loss or a gradient is not a finite number, and `options.bad_steps` does not bear it; the weights are those
            before that update.
        ArtifactError: What the keeper gave is the state of another network.
        MachineError: There is not enough memory for one row a forward pass; the weights are those before that update.
    """
    trainable = tuning.trainable(net)
    with savings_in(net).holding(), learning(net, trainable):
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
        self.precision: Precision = getattr(net, "precision", None) or Precision()
        self.gradients = Gradients(net, objective, self.precision, seed)
        optimizer_class, optimizer_options = options.optimizer.resolve(OPTIMIZERS)
        new = new_parameters(net)
        only_new = trainable <= new - added_names(net) and net.backbone.convex
        rates = peak_rates(options, pretrained=True, only_new=only_new)
        groups = parameter_groups(net, trainable, new, rates, options.weight_decay)
        self.optimizer = optimizer_class(optimizer_options).build(groups)
        schedule_class, schedule_options = options.schedule.resolve(SCHEDULES)
        self.schedule = schedule_class(schedule_options)
        self.steps_per_epoch = objective.steps_per_epoch(options.batch_size)
        planned = options.rounds * self.steps_per_epoch
        self.total_steps = min(planned, options.max_steps or planned)
        self.cut_short = self.total_steps < planned
        self.step = 0
        self.best: float | None = None
        self.reached: float | None = None  # where patience began to count
        self.best_step = 0
        self.kept: dict[str, torch.Tensor] | None = None
        self.stale = 0
        self.spare = Spare(objective, net, self.optimizer)
        self.guard = Guard(options.bad_steps, self.spare.buffers)

    def events(self) -> Iterator[Event]:
        sizes = [parameter.numel() for parameter in self.net.parameters()]
        learnt = sum(weight.numel() for weight in self.gradients.weights)
        rows = self.objective.rows_per_epoch()
        self.objective.begin(self.net, self.trainable, self.total_steps, self.steps_per_epoch)
        self.go_on(self.keeper.begin())
        yield BeginEvent(**self.now(), total_steps=self.total_steps, rows=rows, parameters=sum(sizes), trainable=learnt)
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
        if self.validation is not None and self.total_steps == 0:
            yield self.validate(self.validation)
        self.settle()
        reason = "no improvement" if self.impatient else "max steps" if self.cut_short else "done"
        yield EndEvent(**self.now(), reason=reason, best_step=self.best_step, left_out=self.guard.borne)

    def settle(self) -> None:
        """Put the weights into the network that are the result."""
        if self.kept is None or not self.options.validation.restore_best:
            self.best_step = self.step
            if self.objective.judges_others:
                with self.objective.judged():
                    self.kept = snapshot(self.net, self.trainable)
                put_back(self.net, self.kept)
        elif self.best_step != self.step or self.objective.judges_others:
            put_back(self.net, self.kept)

    @property
    def impatient(self) -> bool:
        patience = self.options.validation.patience
        return patience is not None and self.stale >= patience

    def now(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": time.perf_counter() - self.began}

    def batches(self) -> Iterator[list[Batch]]:
        size = self.options.batch_size
        micro_size = min(self.options.micro_batch_size or size, size)
        begun, done = divmod(self.step, max(self.steps_per_epoch, 1))
        for epoch in range(begun, self.options.rounds):
            first = done if epoch == begun else 0
            for micro_batches in self.objective.batches(epoch, size, micro_size, row_generator(self.seed, epoch), first):
                # Here, and not behind the update: now the objective has ended it too.
                if self.keeper.due(self.step):
                    self.keeper.keep(self.state())
                if self.step == self.total_steps or self.impatient:
                    return
                yield micro_batches

    def state(self) -> State:
        live = self.learnt()
        tensors = {**live.tensors, **behind(OBJECTIVE, self.objective.tensors()), **behind(GOOD, self.guard.tensors())}
        if self.kept is not None and (self.best_step != self.step or self.objective.judges_others):
            tensors |= behind(BEST, self.kept)
        facts = {name: getattr(self, name) for name in ("best", "best_step", "stale", "reached")}
        facts |= {**live.facts, "objective": self.objective.state(), "guard": self.guard.facts()}
        facts |= {"precision": self.precision.state(), "spare": self.spare.state(), "schedule": self.schedule.state()}
        return State(self.step, tensors, facts)

    def learnt(self) -> State:
        """Return weights and optimiser alone."""
        tensors, optimizer = captured(self.net, self.trainable, self.optimizer)
        return State(self.step, tensors, {"optimizer": optimizer})

    def put_back(self, state: State) -> None:
        """Take weights and optimiser of a state."""
        put_into(self.net, self.trainable, self.optimizer, state, state.facts["optimizer"])

    def go_on(self, state: State | None) -> None:
        if state is None:
            return
        self.step, facts = state.step, dict(state.facts)
        self.put_back(state)
        self.best, self.best_step = facts["best"], facts["best_step"]
        self.stale, self.reached = facts["stale"], facts["reached"]
        if self.best is not None:
            self.kept = part(state.tensors, BEST) or snapshot(self.net, self.trainable)
        self.objective.put_back(facts["objective"], part(state.tensors, OBJECTIVE))
        self.guard.put_back(part(state.tensors, GOOD), facts["guard"])
        self.precision.put_back(facts["precision"])
        self.spare.put_back(facts["spare"])
        self.schedule.put_back(facts["schedule"])

    def update(self, micro_batches: Sequence[Batch]) -> Event:
        share = share_of_peak(self.step, self.total_steps, self.options.warmup, self.schedule) * self.guard.policy.rate
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        self.gradients.step, self.gradients.total_steps = self.step, self.total_steps
        rate = self.gradients.rate = self.optimizer.param_groups[0]["lr"]
        self.guard.before()
        try:
            micro_batches, found = self.spare.run(self.gradients.compute, micro_batches, self.gradients.where)
            norm = self.scale_gradients(found[1], micro_batches)
        except GateError as error:
            self.gradients.drop()
            told = self.guard.bear(error, self.put_back)
            self.step += 1
            return NoteEvent(**self.now(), text=told, level="warning")
        self.spare.step()
        self.step += 1
        self.objective.updated(self.step)
        self.gradients.drop()
        self.guard.done(norm, self.step, self.learnt)
        return StepEvent(
            **self.now(),
            epoch=self.step / self.steps_per_epoch,
            loss=found[0],
            learning_rate=rate,
            gradient_norm=norm,
            rows=sum(batch.size for batch in micro_batches),
            positions=sum(int(np.count_nonzero(batch.mask_BT)) for batch in micro_batches),
            padded_positions=sum(batch.mask_BT.size for batch in micro_batches),
            logs=found[2],
        )

    def scale_gradients(self, weight: float, micro_batches: Sequence[Batch]) -> float:
        gradients = [parameter.grad for parameter in self.gradients.weights if parameter.grad is not None]
        norm = gradient_norm(gradients) / weight
        if not math.isfinite(norm):
            raise self.gradients.refused("gradient", norm, micro_batches)
        if self.guard.most is not None and norm > self.guard.most:
            raise self.gradients.exploded(norm, self.guard.most, micro_batches)
        limit = self.options.clip_norm
        clip = 1.0 if limit is None or norm <= limit else limit / norm
        scale_gradients(self.optimizer, gradients, clip / weight)
        return norm

    def is_time_to_validate(self) -> bool:
        every = self.options.validation.every or self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    def validate(self, validation: Validation) -> ValidEvent:
        with self.objective.judged():
            with evaluating(self.net):
                metrics = validation.run()
            return self.judged(validation, metrics)

    def judged(self, validation: Validation, metrics: Mapping[str, float]) -> ValidEvent:
        if validation.metric not in metrics:
            problem = f"the validation gives no metric '{validation.metric}'"
            raise OptionsError(Problem(what=problem, where="metric", fix=did_you_mean(validation.metric, list(metrics))))
        value = metrics[validation.metric] * (1.0 if validation.higher_is_better else -1.0)
        self.schedule.judged(value)
        better = self.objective.may_be_kept and value > (-math.inf if self.best is None else self.best)  # never for NaN
        if better:
            self.best, self.best_step = value, self.step
            self.kept = snapshot(self.net, self.trainable)
        if better and (self.reached is None or value - self.reached > self.options.validation.min_change):
            self.reached, self.stale = value, 0
        elif self.objective.may_be_kept:
            self.stale += 1
        return ValidEvent(**self.now(), metrics=dict(metrics), best=better)

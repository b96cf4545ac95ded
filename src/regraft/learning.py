"""Where weights learn in a fit: what is frozen is computed once, the rest is trained in the arithmetic that is fastest here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.calibrating import calibrate
from regraft.errors import OptionsError, Problem
from regraft.evaluation.rung import Rows
from regraft.evaluation.sample import stratified
from regraft.objectives import OBJECTIVES
from regraft.options import JSON
from regraft.planning import SPLITS, Plan
from regraft.regularizers.regularized import regularized
from regraft.training import OPTIMIZERS, SCHEDULES
from regraft.training.checkpoint import Turn
from regraft.training.events import BeginEvent, EndEvent, Event, PartShare
from regraft.training.stages import Stages, ignore
from regraft.training.threads import default_threads
from regraft.tuning import TUNINGS
from regraft.tuning.parts import Decided

if TYPE_CHECKING:
    import torch

    from regraft.artifact.run_keeper import RunKeeper
    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.resuming import Run
    from regraft.training.cost import Passes
    from regraft.training.frozen import Learner, Setting
    from regraft.training.loop import Validation
    from regraft.training.options import TrainOptions
    from regraft.training.precision import Precision
    from regraft.tuning.tuning import Tuning
    from regraft.types import Batch, FloatArray

_FORWARD_ROWS = 32
_FEWEST_TRIED = 2  # a norm over a batch wants more than one row


@dataclass(frozen=True, kw_only=True)
class Course:
    """One of the trainings of a fit.

    Args:
        tuning: Says which weights learn in it.
        options: How it is trained.
        turn: Which one it is.
        name: What people call it; empty where it is the only one.
        run: Where its state is kept, examined; nowhere if not given.
    """

    tuning: Tuning
    options: TrainOptions
    turn: Turn
    name: str
    run: Run | None = None


def courses(plan: Plan, run: Run | None = None) -> list[Course]:
    """Return the trainings that the tuning goes through, in order; their state is kept by a run, if there is one."""
    cls, options = plan.wanted.tuning.resolve(TUNINGS)
    asked, first = plan.wanted.train, 0
    found = []
    for number, phase in enumerate(cls(options).phases()):
        own = asked if phase.epochs is None else dataclasses.replace(asked, epochs=phase.epochs, max_steps=None)
        found.append(Course(tuning=phase.tuning, options=own, turn=Turn(number, first), name=phase.name, run=run))
        first += own.rounds * -(-len(plan.rows["train"]) // own.batch_size)
    return found


def learn(net: Headed, plan: Plan, stages: Stages, run: Run | None = None) -> tuple[dict[str, Rows], Passes]:
    """Train the network in place, in as many phases as the tuning has, and calibrate what came of it.

    Args:
        net: The network.
        plan: What is known before the first step.
        stages: Told what happens.
        run: Where the state of training is kept; nowhere if not given.

    Returns:
        What the baselines learn from (`features_before`), and what went through the network in training, for the report.

    Raises:
        InterruptedRunError: Somebody asked to stop; the state is kept.
        OptionsError: The tuning or the objective cannot do what was asked for with this network.
    """
    from regraft.training.cost import joined

    todo = courses(plan, run)
    for course in todo:
        _check(net, course.tuning, plan)
    going_on = run.examine(plan, stages) if run else 0
    before: dict[str, Rows] = {}
    passes: list[Passes] = []
    for course in todo[going_on:]:
        if course.name:
            stages.note(f"phase {course.turn.number + 1} of {len(todo)}: {course.name}, {course.options.rounds} epochs")
        with learner(net, plan, stages, course.tuning) as part:
            before = before or features_before(net, part, plan, stages)
            passes.append(train(net, part, plan, stages, course))
            if course is todo[-1]:
                calibrate(part, plan, stages)
    return before, joined(passes)


@contextlib.contextmanager
def learner(net: Headed, plan: Plan, stages: Stages, tuning: Tuning | None = None) -> Iterator[Learner]:
    """Give the part of the network that is trained; what is frozen below it is computed once a row, and kept.

    Args:
        net: The network.
        plan: What is known before the first step.
        stages: Told what happens.
        tuning: Says which weights learn; that of the first training if not given.
    """
    from regraft.training.frozen_parts import learner as made

    tuning = tuning or courses(plan)[0].tuning
    trainable = tuning.trainable(net) - net.fixed
    used = {split: plan.rows[split] for split in SPLITS[:2]}
    with contextlib.ExitStack() as stack:
        with stages("compute what is frozen", sum(map(len, used.values()))):
            setting = _setting(plan, stages)
            if _objective(plan, tuning).varies and setting.cache.enabled:
                stages.note(
                    "what is frozen is computed in every epoch: a regulariser changes rows each time that they are seen"
                )
                setting = dataclasses.replace(setting, cache=dataclasses.replace(setting.cache, enabled=False))
            found = stack.enter_context(made(net, trainable, plan.task.needs, used, setting, stages.progress))
        yield found


def _check(net: Headed, tuning: Tuning, plan: Plan) -> None:
    """Refuse what cannot be learnt here, or not so, before anything is computed.

    Raises:
        OptionsError: All that is wrong with objective, regularisers, optimiser and schedule, at once.
    """
    train, trainable = plan.wanted.train, tuning.trainable(net) - net.fixed
    optimizer, chosen = train.optimizer.resolve(OPTIMIZERS)
    problems: list[Problem] = []
    checks: tuple[Callable[[], None], ...] = (
        functools.partial(_objective(plan, tuning).check, net, trainable, plan.task),
        functools.partial(optimizer(chosen).check, net, trainable),
    )
    for check in checks:
        try:
            check()
        except OptionsError as error:
            problems += error.problems
    if train.schedule.resolve(SCHEDULES)[0].judges and not len(plan.rows["valid"]):
        what, fix = (
            f"the schedule '{train.schedule.name}' follows validations",
            "give validation rows, or choose another schedule",
        )
        problems.append(Problem(what=what, where="train.schedule", got="no validation rows", fix=fix))
    if problems:
        raise OptionsError(problems)


def _objective(plan: Plan, tuning: Tuning) -> Objective:
    """Return how the loss is made and what follows the training, not attached to rows yet."""
    cls, options = plan.wanted.objective.resolve(OBJECTIVES)
    return regularized(cls(options), plan.wanted.train.regularize, tuning.follows())


def _setting(plan: Plan, stages: Stages) -> Setting:
    from regraft.training.frozen import Setting

    machine = plan.wanted.machine
    return Setting(
        cache=machine.cache,
        preprocessing=plan.preprocessing,
        about=plan.base.name,
        threads=machine.threads or default_threads(),
        note=stages.note,
    )


def features_before(net: Headed, learner: Learner, plan: Plan, stages: Stages) -> dict[str, Rows]:
    """Return what the baselines learn from and are tested on: pooled features of the base as it is, and targets."""
    from regraft.evaluation.answer_kind import kind_for
    from regraft.models.forward import pooled
    from regraft.models.transform import original
    from regraft.training.frozen_parts import kept_pooled

    index = {name: np.arange(len(plan.rows[name])) for name in SPLITS}
    groups_N = kind_for(plan.task).groups(plan.targets["train"])
    index["train"] = stratified(groups_N, plan.wanted.judge.probe_rows, plan.wanted.seed)
    found: dict[str, Rows] = {}
    untuned = original(net)  # what is kept is kept under the name of all weights, those that a transform added included
    with stages("features of the base", sum(len(positions) for positions in index.values())):
        done = 0
        for name, positions in index.items():
            progress = functools.partial(lambda n, before: stages.progress(before + n), before=done)
            if learner.cut is not None and name in learner.rows:
                features = pooled(learner.net, learner.rows[name], positions, _FORWARD_ROWS, progress)
            else:
                features = kept_pooled(untuned, plan.rows[name], positions, _setting(plan, stages), progress)
            found[name] = Rows(features, plan.targets[name][positions])
            done += len(positions)
        found["train"] = dataclasses.replace(found["train"], words=_features_of_names(untuned, plan, stages))
    return found


def _features_of_names(net: Headed, plan: Plan, stages: Stages) -> dict[str, FloatArray] | None:
    """Return the features of the names of labels, read as rows, for the baselines that know nothing else.

    None where no baseline asks for them, or the names are no words, the rows no texts, the base not pretrained.

    Raises:
        OptionsError: Such a baseline was asked for by name.
    """
    from regraft.evaluation.answer_kind import kind_for
    from regraft.evaluation.rungs_zero_shot import are_words, as_text
    from regraft.modalities.encoded import EncodedRows
    from regraft.training.frozen_parts import kept_pooled

    asking = [name for name, rung in kind_for(plan.task).rungs(plan.wanted.judge.rungs).items() if rung.reads_names]
    if not asking:
        return None
    worded = [part.task.names for part in plan.task.parts if are_words(part.task.names)]
    names = list(dict.fromkeys(str(name) for labels in worded for name in labels))
    texts = [as_text(name) for name in names]
    readable = all(not plan.modality.problem(text) and plan.modality.running_text(text) == text for text in texts)
    if names and readable and plan.base.pretrained:
        rows = EncodedRows(plan.modality, [texts])
        features_CD = kept_pooled(net, rows, np.arange(len(rows)), _setting(plan, stages), lambda _: None)
        return dict(zip(names, features_CD, strict=True))
    if plan.wanted.judge.rungs is not None:
        what = f"the baseline '{asking[0]}' reads the names of labels as texts, which cannot be done here"
        got = (
            "names that are no words"
            if not names
            else "rows that are no texts"
            if not readable
            else "a base that has learnt nothing"
        )
        fix = "leave it out of judge.rungs"
        raise OptionsError(Problem(what=what, where="judge.rungs", got=got, expected="labels such as 'ham', 'spam'", fix=fix))
    return None


def train(net: Headed, learner: Learner, plan: Plan, stages: Stages, course: Course | None = None) -> Passes:
    """Train the network in place; the best weights by the validation metric are left in it.

    Args:
        net: The network.
        learner: The part of it that is trained.
        plan: What is known before the first step.
        stages: Told what happens.
        course: Which training it is; the first if not given, of which no state is kept.

    Returns:
        What went through the network in training, for the report.

    Raises:
        InterruptedRunError: Somebody asked to stop; the state is kept.
    """
    from regraft.models.dropout import fast_dropouts
    from regraft.models.view import view
    from regraft.training.arithmetic import training_flops
    from regraft.training.checkpoint import OBJECTIVE, WEIGHTS, State, behind, part, put_weights
    from regraft.training.compact import Compacted, compacted, used_ids
    from regraft.training.cost import Meter, Passes
    from regraft.training.event_log import read
    from regraft.training.freeze import changing
    from regraft.training.learnt import shares_by_part
    from regraft.training.loop import NOTHING
    from regraft.training.loop import train as loop
    from regraft.training.savings import savings_in

    wanted, meter, course = plan.wanted, Meter(stages.listen), course or courses(plan)[0]
    run = course.run
    objective = _objective(plan, course.tuning).attach(learner.rows["train"], plan.targets["train"], plan.task)
    course.tuning.begin(net, wanted.seed)
    with contextlib.ExitStack() as stack, stages("train"):
        compact = Compacted(learner.net)
        if wanted.machine.compact:
            used = functools.partial(used_ids, plan.rows["train"])  # asked only where there is one table
            compact = stack.enter_context(compacted(learner.net, learner.trainable, used))
        stages.notes(compact.notes)
        learning = objective.prepared(view(compact.net, fast_dropouts(compact.net)))
        learning, precision, options, arithmetic = _arithmetic(learning, objective, learner, plan, stages, course)
        if run:
            run.require_room(net, *_written_bytes(learning, learner.trainable, options, plan))
        stack.callback(savings_in(learning).loosen)
        keeper = stack.enter_context(run.keeper(plan, course.turn, arithmetic, stages)) if run else None
        ended = keeper.ended() if keeper else None
        left_out = 0
        if ended is not None and keeper:
            put_weights(learning, learner.trainable, ended)
            steps = objective.steps_per_epoch(options.batch_size)
            objective.begin(learning, learner.trainable, ended.step, steps)
            objective.put_back(ended.facts["objective"], part(ended.tensors, OBJECTIVE))
            left_out = int(ended.facts.get("left_out", 0))
            meter.recall(event for event in read(keeper.log.path) if event.step >= course.turn.first)
        else:
            events = loop(
                precision.network(learning),
                objective,
                Decided(learner.trainable, course.tuning.shares(net)),
                options,
                validation=_validation(learning, learner, plan),
                seed=wanted.seed,
                keeper=keeper or NOTHING,
            )
            parts = functools.partial(shares_by_part, net, learning, learner.trainable, options)
            whole = (_whole(event, net, course.turn, parts) for event in stack.enter_context(contextlib.closing(events)))
            step, left_out = _followed(whole, keeper.log if keeper else ignore, meter)
            if keeper:
                weights = {WEIGHTS + name: value.detach() for name, value in changing(learning, learner.trainable)}
                tensors = weights | behind(OBJECTIVE, objective.tensors())
                facts = {"objective": objective.state(), "left_out": left_out}
                keeper.end(State(step - course.turn.first, tensors, facts))
        stages.notes(objective.notes)
    if learner.pooled:
        meter.training.tokens = 0  # the head sees rows
    flops = training_flops(net, learner.trainable, plan.rows["train"].lengths, learner.cut)
    return Passes(meter.training, flops, precision.name, (*objective.notes, *_left_out(left_out), *_resumed(keeper)))


def _left_out(updates: int) -> tuple[str, ...]:
    if not updates:
        return ()
    return (f"{updates} update{'s were' if updates > 1 else ' was'} bad (not finite, or exploding) and left out: see the log",)


def _followed(events: Iterable[Event], log: Callable[[Event], None], meter: Callable[[Event], None]) -> tuple[int, int]:
    """Let a training run and tell what happens; return the step that it came to, and the updates that were left out."""
    step = left_out = 0
    for event in events:
        step = event.step
        left_out = event.left_out if isinstance(event, EndEvent) else left_out
        log(event)
        meter(event)
    return step, left_out


def _written_bytes(net: Headed, trainable: Set[str], options: TrainOptions, plan: Plan) -> tuple[int, int]:
    """Return the bytes of one checkpoint, and of the optimiser's state where that lies in files."""
    from regraft.training.freeze import changing
    from regraft.training.memory import optimizer_bytes
    from regraft.training.savings import savings_in

    weights = [weight for name, weight in net.named_parameters() if name in trainable]
    state, values = optimizer_bytes(options, weights), sum(value.nbytes for _, value in changing(net, trainable))
    best = values if len(plan.rows["valid"]) else 0
    checkpoint = values + state + best if plan.wanted.machine.checkpoint.keep else 0
    return checkpoint, state if savings_in(net).offloads else 0


def _resumed(keeper: RunKeeper | None) -> tuple[str, ...]:
    first = keeper.first if keeper else 0
    return (f"went on after step {first}: seconds, rows and tokens count from there",) if first else ()


def _arithmetic(
    net: Headed, objective: Objective, learner: Learner, plan: Plan, stages: Stages, course: Course
) -> tuple[Headed, Precision, TrainOptions, dict[str, JSON]]:
    """Return the network as it is trained fastest here, its number format, options under which it fits into memory, and all
    that was decided so.

    An interrupted fit that goes on is computed as it was: what is known of it is not measured again.
    """
    from regraft.training.compact import learnt_rows
    from regraft.training.kernels import compiled
    from regraft.training.machine import Profile
    from regraft.training.memory import Demand, fitted
    from regraft.training.optimizers import from_scratch
    from regraft.training.precision import TRIED_POSITIONS, Workload, choose
    from regraft.training.savings import savings_of, with_savings
    from regraft.training.seed import row_generator

    wanted = plan.wanted
    options, run = course.options, course.run
    known = run.computed(course.turn) if run else {}
    size = options.batch_size
    micro_size = min(options.micro_batch_size or size, size)

    def some(rows: int) -> Batch:
        return next(objective.batches(0, rows, rows, row_generator(wanted.seed, 0)))[0]

    def loss_of(batch: Batch) -> Callable[[Headed], torch.Tensor]:
        return lambda tried: objective.loss(tried, batch)[0].total

    names = learner.trainable & {name for name, _ in net.named_parameters()}
    seen = options.rounds * objective.rows_per_epoch()
    mean = max(1.0, float(np.mean(learner.rows["train"].lengths)))
    rows = min(micro_size, max(_FEWEST_TRIED, round(TRIED_POSITIONS / mean)))
    batch = some(rows)
    workload = Workload(
        loss=loss_of(batch),
        trainable=names,
        passes=-(-min(seen, options.max_steps * size if options.max_steps else seen) // rows),
        positions=int(np.count_nonzero(batch.mask_BT)),
        threads=wanted.machine.threads or default_threads(),
    )
    precision = choose(net, known.get("precision", wanted.machine.precision), workload, Profile.load(), stages.note)
    options = options if plan.base.pretrained else from_scratch(options)
    options = dataclasses.replace(options, micro_batch_size=known.get("micro_batch_size", options.micro_batch_size))
    folder = run.folder.folder if run else Path(tempfile.gettempdir())
    saving, savings = savings_of(wanted.machine, net, names, folder)
    savings.resume(known)
    demand = Demand(
        net=precision.network(saving),
        objective=objective,
        options=options,
        trainable=names,
        seed=wanted.seed,
        validates=len(plan.rows["valid"]) > 0,
        savings=savings,
    )
    options = fitted(demand, stages.note)
    if wanted.machine.compile:
        fast = compiled(net, loss_of(some(min(options.micro_batch_size or size, size))), names, stages.note)
        saving = with_savings(fast, savings)
    rows_learnt: JSON = learnt_rows(net)
    arithmetic = {"precision": precision.name, "micro_batch_size": options.micro_batch_size, "rows": rows_learnt}
    return saving, precision, options, {**arithmetic, **savings.state()}


def _whole(event: Event, net: Headed, turn: Turn, parts: Callable[[], Mapping[str, PartShare]]) -> Event:
    """Return an event of one training as one of the fit: steps count from its beginning, and weights are those of all of it.

    Args:
        event: What the loop said, which may have seen only a part of the network.
        net: The whole network.
        turn: Which training it is.
        parts: Says how much of each part of the network learns.
    """
    event = dataclasses.replace(event, step=turn.first + event.step) if turn.first else event
    if isinstance(event, EndEvent):
        return dataclasses.replace(event, best_step=turn.first + event.best_step)
    if isinstance(event, BeginEvent):
        from regraft.models.transform import count_weights

        return dataclasses.replace(
            event, parameters=count_weights(net), total_steps=turn.first + event.total_steps, parts=parts()
        )
    return event


def _validation(net: Headed, learner: Learner, plan: Plan) -> Validation | None:
    """Return how the network is judged while it learns, or nothing where there are no validation rows."""
    from regraft.evaluation.answer_kind import kind_for
    from regraft.models.forward import outputs
    from regraft.training.loop import Validation

    if not len(plan.rows["valid"]):
        return None
    names = list(dict.fromkeys([plan.wanted.train.validation.metric or plan.task.validation_metric, plan.task.metrics[0]]))
    measures = kind_for(plan.task).measures(names)
    names = list(measures)

    def run() -> dict[str, float]:
        judged = plan.task.probabilities(outputs(net, learner.rows["valid"], _FORWARD_ROWS))
        return {name: measure.value(plan.targets["valid"], judged) for name, measure in measures.items()}

    return Validation(run=run, metric=names[0], higher_is_better=bool(measures[names[0]].higher_is_better))

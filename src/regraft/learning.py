"""Where weights learn in a fit: what is frozen is computed once, the rest is trained in the arithmetic that is fastest here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import OptionsError, Problem
from regraft.evaluation.rung import Rows
from regraft.evaluation.sample import stratified
from regraft.objectives import OBJECTIVES
from regraft.planning import SPLITS, Plan
from regraft.training.events import BeginEvent, Event
from regraft.training.stages import Stages
from regraft.training.threads import default_threads
from regraft.tuning import TUNINGS
from regraft.tuning.parts import Decided

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.resuming import Run
    from regraft.training.checkpoint import Keeper
    from regraft.training.cost import Passes
    from regraft.training.frozen import Learner, Setting
    from regraft.training.loop import Validation
    from regraft.training.options import TrainOptions
    from regraft.training.precision import Precision
    from regraft.types import Batch, FloatArray

_FORWARD_ROWS = 32
_FEWEST_TRIED = 2  # a norm over a batch wants more than one row


@contextlib.contextmanager
def learner(net: Headed, plan: Plan, stages: Stages) -> Iterator[Learner]:
    """Give the part of the network that is trained; what is frozen below it is computed once a row, and kept."""
    from regraft.training.frozen_parts import learner as made

    tuning_class, tuning_options = plan.wanted.tuning.resolve(TUNINGS)
    trainable = tuning_class(tuning_options).trainable(net) - net.fixed
    objective_class, objective_options = plan.wanted.objective.resolve(OBJECTIVES)
    objective_class(objective_options).check(net, trainable, plan.task)
    used = {split: plan.rows[split] for split in SPLITS[:2]}
    with contextlib.ExitStack() as stack:
        with stages("compute what is frozen", sum(map(len, used.values()))):
            setting = _setting(plan, stages)
            found = stack.enter_context(made(net, trainable, plan.task.needs, used, setting, stages.progress))
        yield found


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
    from regraft.models.transform import folded
    from regraft.training.frozen_parts import kept_pooled

    index = {name: np.arange(len(plan.rows[name])) for name in SPLITS}
    groups_N = kind_for(plan.task).groups(plan.targets["train"])
    index["train"] = stratified(groups_N, plan.wanted.judge.probe_rows, plan.wanted.seed)
    found: dict[str, Rows] = {}
    untuned = folded(net)  # what a transform added changes nothing yet, but what is kept is kept under the name of all weights
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


def train(net: Headed, learner: Learner, plan: Plan, stages: Stages, run: Run | None = None) -> Passes:
    """Train the network in place; the best weights by the validation metric are left in it.

    Args:
        net: The network.
        learner: The part of it that is trained.
        plan: What is known before the first step.
        stages: Told what happens.
        run: Where the state of training is kept; nowhere if not given.

    Returns:
        What went through the network in training, for the report.

    Raises:
        InterruptedRunError: Somebody asked to stop; the state is kept.
    """
    from regraft.models.dropout import fast_dropouts
    from regraft.models.view import view
    from regraft.training.arithmetic import training_flops
    from regraft.training.compact import Compacted, compacted, used_ids
    from regraft.training.cost import Meter, Passes
    from regraft.training.loop import NOTHING
    from regraft.training.loop import train as loop

    wanted, meter = plan.wanted, Meter(stages.listen)
    objective_class, objective_options = wanted.objective.resolve(OBJECTIVES)
    objective = objective_class(objective_options).attach(learner.rows["train"], plan.targets["train"], plan.task)
    with contextlib.ExitStack() as stack, stages("train"):
        compact = Compacted(learner.net)
        if wanted.machine.compact:
            used = functools.partial(used_ids, plan.rows["train"])  # asked only where there is one table
            compact = stack.enter_context(compacted(learner.net, learner.trainable, used))
        stages.notes(compact.notes)
        learning = view(compact.net, fast_dropouts(compact.net))
        known = run.examine(plan, stages) if run else {}
        learning, precision, options = _arithmetic(learning, objective, learner, plan, stages, known)
        arithmetic = {"precision": precision.name, "micro_batch_size": options.micro_batch_size}
        keeper = stack.enter_context(run.keeper(plan, arithmetic, stages)) if run else NOTHING
        events = loop(
            precision.network(learning),
            objective,
            Decided(learner.trainable),
            options,
            validation=_validation(learning, learner, plan),
            seed=wanted.seed,
            keeper=keeper,
        )
        for event in stack.enter_context(contextlib.closing(events)):
            meter(_whole(event, net))
        stages.notes(objective.notes)
    if learner.pooled:
        meter.training.tokens = 0  # the head sees rows
    flops = training_flops(net, learner.trainable, plan.rows["train"].lengths, learner.cut)
    return Passes(meter.training, flops, precision.name, (*objective.notes, *_resumed(keeper)))


def _resumed(keeper: Keeper) -> tuple[str, ...]:
    first = getattr(keeper, "first", 0)
    return (f"went on after step {first}: seconds, rows and tokens count from there",) if first else ()


def _arithmetic(
    net: Headed, objective: Objective, learner: Learner, plan: Plan, stages: Stages, known: Mapping[str, Any]
) -> tuple[Headed, Precision, TrainOptions]:
    """Return the network as it is trained fastest here, its number format, and options under which it fits into memory.

    An interrupted fit that goes on is computed as it was: what is `known` of it is not measured again.
    """
    from regraft.training.kernels import compiled
    from regraft.training.machine import Profile
    from regraft.training.memory import Demand, fitted
    from regraft.training.optimizers import from_scratch
    from regraft.training.precision import TRIED_POSITIONS, Workload, choose
    from regraft.training.seed import row_generator

    wanted = plan.wanted
    size = wanted.train.batch_size
    micro_size = min(wanted.train.micro_batch_size or size, size)

    def some(rows: int) -> Batch:
        return next(objective.batches(0, rows, rows, row_generator(wanted.seed, 0)))[0]

    def loss_of(batch: Batch) -> Callable[[Headed], torch.Tensor]:
        return lambda tried: objective.loss(tried, batch)[0].total

    names = learner.trainable & {name for name, _ in net.named_parameters()}
    seen = wanted.train.epochs * objective.rows_per_epoch()
    mean = max(1.0, float(np.mean(learner.rows["train"].lengths)))
    rows = min(micro_size, max(_FEWEST_TRIED, round(TRIED_POSITIONS / mean)))
    batch = some(rows)
    workload = Workload(
        loss=loss_of(batch),
        trainable=names,
        passes=-(-min(seen, wanted.train.max_steps * size if wanted.train.max_steps else seen) // rows),
        positions=int(np.count_nonzero(batch.mask_BT)),
        threads=wanted.machine.threads or default_threads(),
    )
    precision = choose(net, known.get("precision", wanted.machine.precision), workload, Profile.load(), stages.note)
    options = wanted.train if plan.base.pretrained else from_scratch(wanted.train)
    options = dataclasses.replace(options, micro_batch_size=known.get("micro_batch_size", options.micro_batch_size))
    demand = Demand(
        net=precision.network(net),
        objective=objective,
        options=options,
        trainable=names,
        seed=wanted.seed,
        validates=len(plan.rows["valid"]) > 0,
    )
    options = fitted(demand, stages.note)
    if wanted.machine.compile:
        net = compiled(net, loss_of(some(min(options.micro_batch_size or size, size))), names, stages.note)
    return net, precision, options


def _whole(event: Event, net: Headed) -> Event:
    """Return an event that counts the weights of the whole network, of which the loop may have seen only a part."""
    if not isinstance(event, BeginEvent):
        return event
    return dataclasses.replace(event, parameters=sum(parameter.numel() for parameter in net.parameters()))


def _validation(net: Headed, learner: Learner, plan: Plan) -> Validation | None:
    """Return how the network is judged while it learns, or nothing where there are no validation rows."""
    from regraft.evaluation.answer_kind import kind_for
    from regraft.models.forward import outputs
    from regraft.training.loop import Validation

    if not len(plan.rows["valid"]):
        return None
    names = list(dict.fromkeys([plan.wanted.train.metric or plan.task.validation_metric, plan.task.metrics[0]]))
    measures = kind_for(plan.task).measures(names)
    names = list(measures)

    def run() -> dict[str, float]:
        judged = plan.task.probabilities(outputs(net, learner.rows["valid"], _FORWARD_ROWS))
        return {name: measure.value(plan.targets["valid"], judged) for name, measure in measures.items()}

    return Validation(run=run, metric=names[0], higher_is_better=bool(measures[names[0]].higher_is_better))

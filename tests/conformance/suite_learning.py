"""What every tuning, objective, optimiser and schedule must do. Each check takes a registered name."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from assembly import assemble, check_error, check_options_class, fit, flat, prepared

from regraft.errors import DataError, MissingExtraError, OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.models.transform import original
from regraft.objectives import OBJECTIVES
from regraft.options import Pick, build
from regraft.regularizers import REGULARIZERS
from regraft.regularizers.regularized import regularized
from regraft.training import OPTIMIZERS, SCHEDULES
from regraft.training.events import EndEvent, StepEvent
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning import TUNINGS

TASK = "classification"


def tunable(name, bases):
    """Yield networks of these bases with the tuning that has prepared them; a base that has not what it needs says so."""
    found = 0
    for base in bases:
        made = assemble(TASK, base)
        try:
            tuning = prepared(made, name)
        except OptionsError as error:
            assert TUNINGS.get(name).needs, f"'{name}' declares no needs and refuses '{base}'"
            check_error(error)
            continue
        found += 1
        yield made, tuning
    assert found


def check_tuning_options(name):
    check_options_class(TUNINGS.get(name).Options)


def check_tuning_names_weights_and_touches_nothing(name):
    for made, tuning in tunable(name, ("mlp", "transformer", "conv", "fusion")):
        net = made.net
        state = flat(net)
        names = tuning.trainable(net)
        assert names
        assert names <= {name for name, _ in net.named_parameters()}
        assert tuning.trainable(net) == names
        assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
        assert torch.equal(flat(net), state)


def check_tuning_lets_learn_what_it_names_and_nothing_else(name):
    made = assemble(TASK, "transformer")
    names = prepared(made, name).trainable(made.net)
    before = {key: value.clone() for key, value in made.net.state_dict().items()}
    fit(made, tuning=name, steps=3)
    changed = {key for key, value in made.net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed <= names
    assert changed, "something learns"
    assert all(parameter.requires_grad for parameter in made.net.parameters())


def check_every_weight_that_a_tuning_names_gets_a_gradient(name):
    bases = ("transformer", "lstm", "cnn", "conv", "fusion", "fusion/gated", "fusion/early", "fusion/late")
    for made, tuning in tunable(name, bases):
        objective = made.objective()
        (batch,) = next(objective.batches(0, 96, 96, np.random.default_rng(0)))
        objective.loss(made.net, batch)[0].total.backward()
        idle = {key for key, parameter in made.net.named_parameters() if parameter.grad is None}
        assert not idle & tuning.trainable(made.net)


def check_tuning_changes_no_answer_before_it_learns_and_prepares_alike(name):
    made, again, fresh = (assemble(TASK, "transformer") for _ in range(3))
    for one in (made, again):
        prepared(one, name)
    cls, expected = TUNINGS.get(name), fresh.outputs(fresh.raws)
    assert np.array_equal(made.outputs(made.raws), expected) == cls.neutral
    assert np.array_equal(_before(made).outputs(made.raws), expected) == cls.keeps_base, "the base can still be asked"
    assert torch.equal(flat(made.net), flat(again.net))


def _before(made):
    return dataclasses.replace(made, net=original(made.net))


def check_tuning_lowers_the_loss_and_repeats_itself(name):
    bases = [base for base in ("mlp", "transformer") if TUNINGS.get(name).needs <= assemble(TASK, base).net.backbone.provides]
    made = [assemble(TASK, bases[0]), assemble(TASK, bases[0])]
    losses = [[event.loss for event in fit(one, tuning=name) if isinstance(event, StepEvent)] for one in made]
    assert losses[0] == losses[1]
    assert torch.equal(flat(made[0].net), flat(made[1].net))
    assert np.mean(losses[0][-5:]) < np.mean(losses[0][:5])


TUNING_CHECKS = (
    check_tuning_options,
    check_tuning_names_weights_and_touches_nothing,
    check_tuning_lets_learn_what_it_names_and_nothing_else,
    check_tuning_changes_no_answer_before_it_learns_and_prepares_alike,
    check_every_weight_that_a_tuning_names_gets_a_gradient,
    check_tuning_lowers_the_loss_and_repeats_itself,
)


def check_objective_options(name):
    check_options_class(OBJECTIVES.get(name).Options)


def check_objective_repeats_its_batches(name):
    objective = assemble(TASK, n=21).objective(name)
    for size, micro in ((8, 8), (8, 3), (1, 1), (50, 50)):
        one, two = (list(objective.batches(0, size, micro, np.random.default_rng(5))) for _ in range(2))
        assert len(one) == objective.steps_per_epoch(size)
        assert sum(batch.size for step in one for batch in step) == objective.rows_per_epoch()
        assert all(batch.size <= micro for step in one for batch in step)
        for left, right in zip((b for step in one for b in step), (b for step in two for b in step), strict=True):
            assert np.array_equal(left.rows_B, right.rows_B)
            assert all(np.array_equal(left.inputs[key], right.inputs[key]) for key in left.inputs)


def check_objective_adds_up_over_micro_batches(name):
    made = assemble(TASK, n=20)
    objective = made.objective(name)
    made.net.eval()
    sums = []
    for micro in (20, 3):
        (step,) = objective.batches(0, 20, micro, np.random.default_rng(1))
        with torch.no_grad():
            losses = [objective.loss(made.net, batch)[0] for batch in step]
        assert all(torch.isfinite(loss.total) and loss.weight > 0 for loss in losses)
        sums.append(sum(float(loss.total) for loss in losses) / sum(float(loss.weight) for loss in losses))
    assert sums[0] == pytest.approx(sums[1], abs=1e-5)


def check_objective_refuses_no_rows(name):
    made = assemble(TASK)
    cls = OBJECTIVES.get(name)
    with pytest.raises(DataError) as caught:
        cls(cls.Options()).attach(EncodedRows(made.modality, []), made.task.targets([]), made.task)
    check_error(caught.value)


def check_objective_can_be_learnt(name):
    made = assemble(TASK)
    events = fit(made, objective=name)
    losses = [event.loss for event in events if isinstance(event, StepEvent)]
    assert isinstance(events[-1], EndEvent)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


OBJECTIVE_CHECKS = (
    check_objective_options,
    check_objective_repeats_its_batches,
    check_objective_adds_up_over_micro_batches,
    check_objective_refuses_no_rows,
    check_objective_can_be_learnt,
)


def buildable(name):
    """Return an optimiser's factory; skip where it says that what it needs is not installed."""
    cls = OPTIMIZERS.get(name)
    made = cls(cls.Options())
    try:
        made.check(assemble(TASK).net, {name for name, _ in assemble(TASK).net.named_parameters()})
    except MissingExtraError as error:
        check_error(error)
        pytest.skip(str(error))
    except OptionsError as error:
        check_error(error)
    return made


def optimised(name, steps, *, rate=0.05, decay=0.0, gradient=None):
    """Minimise |x - 1|^2 (or follow a given gradient) from a fixed start."""
    x = torch.nn.Parameter(torch.tensor([3.0, -2.0, 0.5]))
    optimizer = buildable(name).build([{"params": [x], "lr": rate, "peak": rate, "weight_decay": decay}])
    for _ in range(steps):
        x.grad = 2 * (x.detach() - 1) if gradient is None else gradient.clone()
        optimizer.step()
    return x.detach()


def check_optimizer_options(name):
    check_options_class(OPTIMIZERS.get(name).Options)


def check_optimizer_descends_and_repeats_itself(name):
    start, end = optimised(name, 0), optimised(name, 200)
    assert ((end - 1) ** 2).sum() < 0.1 * ((start - 1) ** 2).sum()
    assert torch.equal(end, optimised(name, 200))


def check_optimizer_obeys_rate_and_decay_of_a_group(name):
    start = optimised(name, 0)
    assert torch.equal(optimised(name, 5, rate=0.0), start)
    nothing = torch.zeros(3)
    assert torch.equal(optimised(name, 5, gradient=nothing), start)
    assert (optimised(name, 5, decay=0.5, gradient=nothing).abs() < start.abs()).all()


def check_optimizer_trains_a_network(name):
    buildable(name)
    losses = [event.loss for event in fit(assemble(TASK), optimizer=name) if isinstance(event, StepEvent)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


OPTIMIZER_CHECKS = (
    check_optimizer_options,
    check_optimizer_descends_and_repeats_itself,
    check_optimizer_obeys_rate_and_decay_of_a_group,
    check_optimizer_trains_a_network,
)


def check_schedule_options(name):
    check_options_class(SCHEDULES.get(name).Options)


def check_schedule_stays_between_nothing_and_the_peak(name):
    cls = SCHEDULES.get(name)
    schedule, again = cls(cls.Options()), cls(cls.Options())
    shares = [schedule.multiplier(progress) for progress in np.linspace(0, 1, 101)[:-1]]
    assert all(0 < share <= 1 for share in shares)
    assert shares[0] == 1
    assert shares == [again.multiplier(progress) for progress in np.linspace(0, 1, 101)[:-1]]


def check_schedule_goes_on_from_its_state(name):
    cls = SCHEDULES.get(name)
    schedule = cls(cls.Options())
    for value in (0.3, 0.1, 0.1, 0.1, 0.1, 0.2):
        schedule.judged(value)
    again = cls(cls.Options())
    again.put_back(json.loads(json.dumps(schedule.state())))
    assert again.multiplier(0.5) == schedule.multiplier(0.5)


def check_schedule_trains_a_network(name):
    events = fit(assemble(TASK), schedule=name)
    losses = [event.loss for event in events if isinstance(event, StepEvent)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


SCHEDULE_CHECKS = (
    check_schedule_options,
    check_schedule_stays_between_nothing_and_the_peak,
    check_schedule_goes_on_from_its_state,
    check_schedule_trains_a_network,
)


REGULARIZED_BASES = ("cnn", "conv", "sound-conv", "table", "fusion")


def regularised(name, base, steps=3):
    """Return losses and weights of a short training with one regulariser; None where it says that it cannot."""
    made, cls = assemble(TASK, base), REGULARIZERS.get(name)
    # Dropout by part is the one that has nothing to do unless it is told what.
    pick = Pick(name, {"layers": 0.2} if "layers" in {field.name for field in dataclasses.fields(cls.Options)} else {})
    supervised = OBJECTIVES.get("supervised")
    objective = regularized(supervised(supervised.Options()), [pick])
    objective.attach(made.rows, made.task.targets(made.values), made.task)
    tuned = prepared(made, "full")
    try:
        objective.check(made.net, tuned.trainable(made.net), made.task)
    except OptionsError as error:
        check_error(error)
        return None
    options = build(TrainOptions, {"epochs": 9, "max_steps": steps, "batch_size": 16, "micro_batch_size": 8})
    events = list(train(objective.prepared(made.net), objective, tuned, options, seed=1))
    return [event.loss for event in events if isinstance(event, StepEvent)], flat(made.net)


def check_regularizer_options(name):
    check_options_class(REGULARIZERS.get(name).Options)


def check_regularizer_trains_every_kind_of_row_or_says_why_not(name):
    found = {base: regularised(name, base) for base in REGULARIZED_BASES}
    done = {base: losses for base, losses in found.items() if losses is not None}
    assert done, f"'{name}' works with none of {', '.join(found)}"
    assert all(np.isfinite(losses).all() for losses, _ in done.values())


def check_regularizer_repeats_itself(name):
    base = next(base for base in REGULARIZED_BASES if regularised(name, base, steps=1) is not None)
    (losses, weights), (again, others) = regularised(name, base), regularised(name, base)
    assert losses == again
    assert np.array_equal(weights, others)


REGULARIZER_CHECKS = (
    check_regularizer_options,
    check_regularizer_trains_every_kind_of_row_or_says_why_not,
    check_regularizer_repeats_itself,
)

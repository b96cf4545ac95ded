"""The loop against loops written out by hand, and everything it must leave as it found it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tiny_net import tiny_judge, tiny_net, tiny_objective
from torch import nn

from regraft.errors import GateError, OptionsError
from regraft.options import Pick, build
from regraft.tasks.task import Loss
from regraft.training.events import BeginEvent, EndEvent, StepEvent, ValidEvent
from regraft.training.loop import Validation, train
from regraft.training.options import TrainOptions
from regraft.training.seed import row_generator
from regraft.tuning.full import Full, FullOptions
from regraft.tuning.head import Head, HeadOptions

FULL, HEAD = Full(FullOptions()), Head(HeadOptions())


def options(**values) -> TrainOptions:
    return build(TrainOptions, {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values})


def weights(net) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def run(net, objective, chosen, tuning=FULL, **rest):
    return list(train(net, objective, tuning, chosen, **rest))


def test_updates_are_those_of_a_loop_written_by_hand():
    """Mean loss, clip_grad_norm_, plain AdamW with decay groups, linear schedule: the textbook, float64."""
    net, objective = tiny_net().double(), tiny_objective()
    hand = copy.deepcopy(net)
    chosen = options(weight_decay=0.1, clip_norm=0.3, warmup_share=0.25, head_learning_rate=3e-2)
    events = run(net, objective, chosen, seed=4)
    used = dict(hand.named_parameters())
    groups = [
        {
            "params": [p],
            "lr": 3e-2 if n.startswith("head") else 1e-2,
            "weight_decay": 0.0 if p.ndim < 2 or "words" in n else 0.1,
        }
        for n, p in used.items()
    ]
    peaks = [group["lr"] for group in groups]
    adam = torch.optim.AdamW(groups, fused=False, foreach=False)
    total, warmup, step, losses = 8, 2, 0, []
    for epoch in range(2):
        for (batch,) in objective.batches(epoch, 8, 8, row_generator(4, epoch)):
            share = (step + 1) / (warmup + 1) if step < warmup else (total - step) / (total - warmup)
            for group, peak in zip(adam.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            adam.zero_grad()
            loss = nn.functional.cross_entropy(hand(*hand.tensors(batch)), torch.from_numpy(batch.targets))
            loss.backward()
            norm = nn.utils.clip_grad_norm_(used.values(), 0.3)
            adam.step()
            losses.append((loss.item(), norm.item()))
            step += 1
    assert torch.allclose(weights(net), weights(hand), atol=1e-7)
    steps = [event for event in events if isinstance(event, StepEvent)]
    np.testing.assert_allclose([(e.loss, e.gradient_norm) for e in steps], losses, rtol=1e-6)
    assert max(norm for _, norm in losses) > 0.3  # clipping was at work


@pytest.mark.parametrize("weighting", ["none", "balanced"])
@pytest.mark.parametrize("micro", [1, 3, 5])
def test_micro_batches_give_the_update_of_the_whole_batch(micro, weighting):
    objective = tiny_objective(n=29, class_weights=weighting, label_smoothing=0.1)
    one, many = tiny_net(), tiny_net()
    whole = run(one, objective, options(weight_decay=0.0))
    parts = run(many, objective, options(weight_decay=0.0, micro_batch_size=micro))
    assert torch.allclose(weights(one), weights(many), atol=1e-6)
    for left, right in zip(whole, parts, strict=True):
        if isinstance(left, StepEvent):
            assert left.loss == pytest.approx(right.loss, abs=1e-6)
            assert left.gradient_norm == pytest.approx(right.gradient_norm, abs=1e-6)
            assert (left.rows, left.positions) == (right.rows, right.positions)
            assert right.padded_positions <= left.padded_positions


def test_same_seed_same_bytes_and_another_seed_other_bytes():
    objective = tiny_objective()
    nets = [tiny_net(dropout=0.3) for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        run(net, objective, options(), seed=seed)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.allclose(weights(nets[0]), weights(nets[2]))


def test_the_callers_random_state_and_what_he_draws_between_events_change_nothing():
    objective, quiet, noisy = tiny_objective(), tiny_net(dropout=0.3), tiny_net(dropout=0.3)
    run(quiet, objective, options())
    torch.manual_seed(11)
    expected = [torch.rand(1).item() for _ in range(10)]
    torch.manual_seed(11)
    found = []
    with torch.no_grad():  # the caller's gradient mode is no concern of the loop's either
        for event in train(noisy, objective, FULL, options()):
            found.append(torch.rand(1).item())
            assert isinstance(event, StepEvent | BeginEvent | EndEvent)
    assert found == expected
    assert torch.equal(weights(quiet), weights(noisy))


def test_dropout_is_drawn_afresh_at_every_step():
    net, objective = tiny_net(dropout=0.5), tiny_objective(n=8)
    masks = []
    net.head.dropout.register_forward_hook(lambda module, args, out: masks.append((out == 0).clone()))
    run(net, objective, options(epochs=3))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_head_tuning_changes_the_head_only_and_runs_the_body_in_evaluation_mode():
    net, objective = tiny_net(dropout=0.5), tiny_objective()
    before = copy.deepcopy(net)
    net.backbone.words.weight.requires_grad_(False)  # whatever was left behind on a module decides nothing
    modes = set()
    for event in train(net, objective, HEAD, options()):
        if isinstance(event, BeginEvent):
            assert event.trainable == sum(p.numel() for p in net.head.parameters())
            assert event.parameters == sum(p.numel() for p in net.parameters())
        modes.add((net.backbone.mix[2].training, net.backbone.training, net.head.training, net.head.dropout.training))
    assert (False, False, True, True) in modes
    for name, parameter in net.named_parameters():
        same = torch.equal(parameter, dict(before.named_parameters())[name])
        assert same == name.startswith("backbone"), name
    assert not net.backbone.words.weight.requires_grad


def test_frozen_batch_norm_keeps_its_statistics_and_a_learning_one_does_not():
    objective = tiny_objective()
    for tuning, moves in ((HEAD, False), (FULL, True)):
        net = tiny_net()
        net.backbone.mix = nn.Sequential(nn.Linear(8, 8), Rows(nn.BatchNorm1d(8)))
        before = net.backbone.mix[1].norm.running_mean.clone()
        run(net, objective, options(), tuning)
        assert torch.equal(net.backbone.mix[1].norm.running_mean, before) is not moves


class Rows(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.flatten(0, 1)).view_as(x)


@pytest.mark.parametrize("ending", ["exhausted", "closed", "interrupted", "error"])
def test_flags_modes_and_gradients_are_put_back_however_it_ends(ending):
    net, objective = tiny_net(), tiny_objective()
    net.backbone.mix.eval()
    net.backbone.words.weight.requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    if ending == "error":
        objective.loss = raising(ValueError("broken objective"))
    if ending == "interrupted":
        objective.loss = raising(KeyboardInterrupt())
    events = train(net, objective, FULL, options())
    next(events)
    if ending == "exhausted":
        list(events)
    elif ending == "closed":
        next(events)
        assert net.backbone.words.weight.requires_grad
        events.close()
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            next(events)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())


def raising(error):
    def loss(net, batch):
        raise error

    return loss


def test_events_tell_the_whole_story_in_order():
    net, objective = tiny_net(), tiny_objective(n=30)
    judge = Validation(run=tiny_judge(net, objective), metric="log-loss", higher_is_better=False)
    events = run(net, objective, options(epochs=2), validation=judge)
    kinds = "".join(type(event).__name__[0] for event in events)
    assert kinds == "BSSSSVSSSSVE"
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert [e.rows for e in steps] == [8, 8, 8, 6] * 2
    assert [e.step for e in steps] == list(range(1, 9))
    assert steps[3].epoch == 1.0
    assert steps[-1].epoch == 2.0
    lengths = objective._rows.lengths
    assert sum(e.positions for e in steps[:4]) == lengths.sum()
    assert all(e.padded_positions >= e.positions for e in steps)
    seconds = [event.seconds for event in events]
    assert seconds == sorted(seconds)
    begin, end = events[0], events[-1]
    assert (begin.total_steps, begin.rows) == (8, 30)
    assert end.reason == "done"
    for event in events:
        assert event.to_json()["event"] in {"begin", "step", "valid", "end"}


def test_validation_every_few_steps_and_once_more_at_the_end():
    net, objective = tiny_net(), tiny_objective(n=30)
    judge = Validation(run=tiny_judge(net, objective), metric="log-loss", higher_is_better=False)
    events = run(net, objective, options(epochs=2, validation={"every": 3}), validation=judge)
    assert [e.step for e in events if isinstance(e, ValidEvent)] == [3, 6, 8]


def scripted(values):
    script = iter(values)
    return lambda: {"score": next(script)}


@pytest.mark.parametrize(
    ("scores", "higher", "best_step", "flags"),
    [
        ([0.1, 0.9, 0.5, 0.9], True, 2, [True, True, False, False]),
        ([0.1, 0.9, 0.5, 0.05], False, 4, [True, False, False, True]),
        ([math.nan, 0.2, math.nan, 0.1], True, 2, [False, True, False, False]),
        ([math.nan] * 4, True, 4, [False] * 4),
    ],
)
def test_the_best_weights_are_put_back(scores, higher, best_step, flags):
    objective, net = tiny_objective(n=8), tiny_net()
    seen = {}
    judge = Validation(run=scripted(scores), metric="score", higher_is_better=higher)
    events = []
    for event in train(net, objective, FULL, options(epochs=4), validation=judge):
        events.append(event)
        if isinstance(event, ValidEvent):
            seen[event.step] = weights(net).clone()
    assert events[-1].best_step == best_step
    assert [e.best for e in events if isinstance(e, ValidEvent)] == flags
    assert torch.equal(weights(net), seen[best_step])
    assert len({tuple(w.tolist()) for w in seen.values()}) == 4


def test_batch_statistics_go_back_together_with_the_best_weights():
    objective, net = tiny_objective(n=8), tiny_net()
    net.backbone.mix = nn.Sequential(nn.Linear(8, 8), Rows(nn.BatchNorm1d(8)))
    judge = Validation(run=scripted([1.0, 0.0, 0.0]), metric="score", higher_is_better=True)
    kept = None
    for event in train(net, objective, FULL, options(epochs=3), validation=judge):
        if isinstance(event, ValidEvent) and event.best:
            kept = copy.deepcopy(net.state_dict())
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())


def test_patience_ends_training_early():
    objective, net = tiny_objective(n=8), tiny_net()
    judge = Validation(run=scripted([0.5, 0.4, 0.6, 0.5, 0.5, 0.9]), metric="score", higher_is_better=True)
    events = run(net, objective, options(epochs=6, validation={"patience": 2}), validation=judge)
    assert events[-1].reason == "no improvement"
    assert (events[-1].step, events[-1].best_step) == (5, 3)


def test_validation_sees_evaluation_mode_and_training_goes_on_as_before():
    objective, net = tiny_objective(), tiny_net(dropout=0.5)
    seen = []

    def run_it():
        seen.append({module.training for module in net.modules()})
        net.train(False)  # what a judge does to the network's modes does not stay
        return {"score": 1.0}

    judge = Validation(run=run_it, metric="score", higher_is_better=True)
    plain = tiny_net(dropout=0.5)
    judged = options(epochs=2, validation={"every": 1})
    list(train(plain, objective, FULL, options(epochs=2)))
    last = Validation(run=lambda: {**run_it(), "score": float(len(seen))}, metric="score", higher_is_better=True)
    list(train(net, objective, FULL, judged, validation=last))
    assert seen == [{False}] * 8
    assert torch.equal(weights(plain), weights(net))
    assert judge.metric == "score"


def test_no_epochs_change_nothing_and_are_judged_once():
    objective, net = tiny_objective(), tiny_net()
    before = weights(net).clone()
    judge = Validation(run=tiny_judge(net, objective), metric="accuracy", higher_is_better=True)
    events = run(net, objective, options(epochs=0), validation=judge)
    assert [type(e) for e in events] == [BeginEvent, ValidEvent, EndEvent]
    assert events[-1].reason == "done"
    assert torch.equal(weights(net), before)
    assert [type(e) for e in run(net, objective, options(epochs=0))] == [BeginEvent, EndEvent]


@pytest.mark.parametrize(
    ("most", "steps", "reason"), [(1, 1, "max steps"), (5, 5, "max steps"), (8, 8, "done"), (99, 8, "done")]
)
def test_max_steps_caps_the_run_and_the_schedule_knows(most, steps, reason):
    objective, net = tiny_objective(), tiny_net()
    events = run(net, objective, options(max_steps=most, warmup_share=0.0))
    rates = [e.learning_rate for e in events if isinstance(e, StepEvent)]
    assert events[0].total_steps == events[-1].step == steps
    assert events[-1].reason == reason
    np.testing.assert_allclose(rates, 1e-2 * (1 - np.arange(steps) / steps))


def test_a_loss_that_is_not_finite_names_step_and_rows_and_leaves_the_weights_alone():
    objective, net = tiny_objective(n=8), tiny_net()
    with torch.no_grad():
        net.head.linear.weight[0, 0] = math.inf
    before = weights(net).clone()
    with pytest.raises(GateError) as caught:
        run(net, objective, options())
    text = str(caught.value)
    for part in (
        "the loss is not a finite number",
        "step 1 of 2, training rows ",
        "(counted from 0)",
        "nan",
        "lower the learning rate",
    ):
        assert part in text
    assert torch.equal(weights(net), before)


def test_a_gradient_that_is_not_finite_names_step_and_rows():
    objective, net = tiny_objective(n=20), tiny_net()
    honest = objective.loss

    def steep(net, batch):
        loss, logs = honest(net, batch)
        return Loss(total=loss.total + torch.sqrt((net.head.linear.bias * 0).sum()), weight=loss.weight), logs

    objective.loss = steep
    before = weights(net).clone()
    with pytest.raises(GateError) as caught:
        run(net, objective, options(batch_size=20))
    assert "the gradient is not a finite number" in str(caught.value)
    assert "and 4 more" in str(caught.value)
    assert torch.equal(weights(net), before)


def test_a_batch_without_weight_is_refused():
    objective, net = tiny_objective(n=8), tiny_net()
    honest = objective.loss
    objective.loss = lambda net, batch: (honest(net, batch)[0]._replace(weight=torch.tensor(0.0)), {})
    with pytest.raises(GateError, match="the loss is not a finite number"):
        run(net, objective, options())


def test_logs_of_an_objective_are_averaged_over_rows():
    objective, net = tiny_objective(n=5), tiny_net()
    honest = objective.loss
    objective.loss = lambda net, batch: (honest(net, batch)[0], {"rows seen": float(batch.size)})
    events = run(net, objective, options(epochs=1, batch_size=5, micro_batch_size=3))
    assert events[1].logs == {"rows seen": pytest.approx((3 * 3 + 2 * 2) / 5)}


def test_a_metric_that_the_validation_does_not_give_is_refused_with_the_nearest():
    objective, net = tiny_objective(n=8), tiny_net()
    judge = Validation(run=lambda: {"accuracy": 1.0}, metric="acuracy", higher_is_better=True)
    with pytest.raises(OptionsError) as caught:
        run(net, objective, options(), validation=judge)
    assert "the validation gives no metric 'acuracy'" in str(caught.value)
    assert "did you mean 'accuracy'?" in str(caught.value)


class Nothing(Full):
    def trainable(self, net):
        return set()


class Ghost(Full):
    def trainable(self, net):
        return {"head.linear.weight", "body.ghost"}


def test_a_tuning_must_name_weights_that_exist():
    objective, net = tiny_objective(n=8), tiny_net()
    with pytest.raises(OptionsError, match="lets nothing learn") as caught:
        run(net, objective, options(), Nothing(FullOptions()))
    assert "choose another tuning" in str(caught.value)
    with pytest.raises(OptionsError, match=r"does not have[\s\S]*body.ghost"):
        run(net, objective, options(), Ghost(FullOptions()))


def test_it_learns():
    objective, net = tiny_objective(n=60), tiny_net()
    judge = tiny_judge(net, objective)
    before = judge()
    run(net, objective, options(epochs=20, optimizer={"name": "adamw", "beta2": 0.99}, schedule=Pick("cosine")))
    after = judge()
    assert after["log-loss"] < 0.6 * before["log-loss"]
    assert after["accuracy"] > 0.85

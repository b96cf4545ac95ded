"""Averages of weights: against closed forms and torch's own, in the loop, and over an interruption."""

import copy

import pytest
import torch
from tiny_net import tiny_judge, tiny_net, tiny_objective
from torch.optim.swa_utils import AveragedModel

from regraft.errors import OptionsError
from regraft.options import Pick, build
from regraft.regularizers.regularized import Regularized, regularized
from regraft.training.events import StepEvent, ValidEvent
from regraft.training.loop import Validation, train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions

FULL = Full(FullOptions())


def fit(picks, steps=12, seed=3, judged=False, watch=None, **values):
    net, plain = tiny_net(dropout=0.3), tiny_objective()
    made = regularized(plain, [pick if isinstance(pick, Pick) else Pick(pick) for pick in picks])
    objective = made if isinstance(made, Regularized) else Regularized(plain, [])
    objective._task = plain._task
    given = {"epochs": 9, "max_steps": steps, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values}
    validation = Validation(run=tiny_judge(net, plain), metric="log-loss", higher_is_better=False) if judged else None
    events = []
    for event in train(net, objective, FULL, build(TrainOptions, given), validation=validation, seed=seed):
        events.append(event)
        if watch is not None and isinstance(event, StepEvent):
            watch(net)
    return net, events


def weights(net) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in net.parameters()])


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.9, True), (0.2, True)])
def test_ema_is_the_closed_form(decay, warmup):
    path = []
    fit([], watch=lambda net: path.append(weights(net)))
    start = weights(tiny_net(dropout=0.3))
    net, _ = fit([Pick("ema", {"decay": decay, "warmup": warmup})])
    expected = start
    for step, moved in enumerate(path, start=1):
        kept = min(decay, (1 + step) / (10 + step)) if warmup else decay
        expected = kept * expected + (1 - kept) * moved
    torch.testing.assert_close(weights(net), expected, rtol=0, atol=1e-6)


def test_swa_is_the_mean_of_the_weights_that_torch_averages():
    nets = []
    fit([], steps=16, watch=lambda net: nets.append(copy.deepcopy(net)))
    reference = torch.stack([weights(net) for net in (nets[7], nets[11], nets[15])]).mean(dim=0)
    net, events = fit([Pick("swa", {"start": 0.25, "every": 4})], steps=16)
    torch.testing.assert_close(weights(net), reference, rtol=0, atol=1e-6)
    again = AveragedModel(nets[7])
    for one in (nets[7], nets[11], nets[15]):
        again.update_parameters(one)
    torch.testing.assert_close(weights(net), weights(again.module), rtol=0, atol=1e-6)


def test_the_average_is_judged_and_the_best_average_is_kept():
    judged, losses = [], []
    net, events = fit([Pick("ema", {"decay": 0.5})], judged=True, validation={"every": 3})
    losses = [event.metrics["log-loss"] for event in events if isinstance(event, ValidEvent)]
    best = min(losses)
    assert tiny_judge(net.eval(), tiny_objective())()["log-loss"] == pytest.approx(best, abs=1e-7)
    plain, plainly = fit([], judged=True, validation={"every": 3})
    judged = [event.metrics["log-loss"] for event in plainly if isinstance(event, ValidEvent)]
    assert losses != judged, "the weights that move were judged"


def test_moving_weights_do_not_feel_the_average():
    paths = ([], [])
    fit([], watch=lambda net: paths[0].append(weights(net)), judged=True, validation={"every": 2})
    fit(["ema"], watch=lambda net: paths[1].append(weights(net)), judged=True, validation={"every": 2})
    assert all(torch.equal(one, other) for one, other in zip(*paths, strict=True))


def test_running_statistics_are_averaged_and_counters_copied():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    from regraft.regularizers.ema import Ema, EmaOptions
    from regraft.regularizers.regularizer import Scene

    ema = Ema(EmaOptions(decay=0.75, warmup=False))
    ema.begin(Scene(net=net, trainable=frozenset(name for name, _ in net.named_parameters()), task=None, objective=None), 4, 4)
    net[1].running_mean.fill_(4.0)
    net[1].num_batches_tracked.fill_(7)
    ema.updated(1)
    with ema.judged():
        assert net[1].running_mean.tolist() == [1.0] * 3
        assert int(net[1].num_batches_tracked) == 7
    assert net[1].running_mean.tolist() == [4.0] * 3


def test_two_that_decide_what_is_kept_are_refused():
    made = regularized(tiny_objective(), [Pick("ema"), Pick("swa")])
    with pytest.raises(OptionsError, match="ema and swa both decide which weights are kept"):
        made.check(tiny_net(), frozenset(), tiny_objective()._task)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("ema", ["ema"]),
        (["ema"], ["ema"]),
        ({"ema": {"decay": 0.5}}, ["ema"]),
        ({"swa": None, "ema": {}}, ["swa", "ema"]),
        ([{"name": "swa", "every": 3}, "ema"], ["swa", "ema"]),
        ([], []),
        (None, []),
    ],
)
def test_regularisers_are_named_in_several_ways(said, names):
    made = build(TrainOptions, {"regularize": said})
    assert [pick.name for pick in made.regularize] == names
    from regraft.options import to_json

    assert build(TrainOptions, to_json(made)) == made


def test_wrong_regularisers_are_refused_all_at_once():
    with pytest.raises(OptionsError) as refused:
        build(TrainOptions, {"regularize": {"emma": {}, "swa": {"start": 2.0}, "ema": {"dekay": 0.1}}})
    said = str(refused.value)
    assert "did you mean 'ema'" in said
    assert "'start' has a value it cannot take" in said
    assert "did you mean 'decay'" in said
    with pytest.raises(OptionsError, match="'ema' is named twice"):
        build(TrainOptions, {"regularize": ["ema", "ema"]})

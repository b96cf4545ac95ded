"""Schedules against the hub's, parameter groups by name, the fused optimiser against the plain one, options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_net import tiny_net
from torch import nn

from regraft.errors import OptionsError
from regraft.options import Pick, build, to_json
from regraft.training import OPTIMIZERS, SCHEDULES
from regraft.training.optimizers import AdamW, AdamWOptions, parameter_groups, peak_rates
from regraft.training.options import TrainOptions
from regraft.training.schedules import share_of_peak
from regraft.tuning.parts import new_parameters


def schedule(name, **options):
    cls, chosen = Pick(name, options).resolve(SCHEDULES)
    return cls(chosen)


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("linear", lambda p: 1 - p),
        ("cosine", lambda p: 0.5 * (1 + math.cos(math.pi * p))),
        ("constant", lambda p: 1.0),
    ],
)
def test_schedules_are_the_hubs_after_warm_up(name, closed):
    from transformers import get_scheduler

    total, warmup = 20, 5
    hub = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    hub_name = "constant_with_warmup" if name == "constant" else name
    steps = get_scheduler(hub_name, hub, num_warmup_steps=warmup, num_training_steps=total)
    theirs = []
    for _ in range(total):
        theirs.append(hub.param_groups[0]["lr"])
        hub.step()
        steps.step()
    ours = [share_of_peak(step, total, 0.25, schedule(name)) for step in range(total)]
    np.testing.assert_allclose(ours[warmup:], theirs[warmup:], rtol=1e-12)
    np.testing.assert_allclose(ours[:warmup], [(s + 1) / 6 for s in range(warmup)])
    assert [schedule(name).multiplier(p) for p in (0.0, 0.3, 0.99)] == pytest.approx([closed(0.0), closed(0.3), closed(0.99)])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_floor_is_where_a_falling_schedule_ends(name):
    fall = schedule(name, floor=0.2)
    assert fall.multiplier(0.0) == 1.0
    assert fall.multiplier(1.0) == pytest.approx(0.2)
    assert fall.multiplier(0.5) == pytest.approx(0.6)


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
def test_every_update_has_a_rate_above_zero_and_not_above_the_peak(name, total, warmup):
    shares = [share_of_peak(step, total, warmup, schedule(name)) for step in range(total)]
    assert all(0 < share <= 1 for share in shares)
    assert 1.0 in shares


def test_norms_and_biases_do_not_decay_and_new_weights_have_their_own_rate():
    net = tiny_net()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    rates = peak_rates(build(TrainOptions, {"learning_rate": 0.1, "head_learning_rate": 0.2}), pretrained=True, only_new=False)
    groups = parameter_groups(net, set(names.values()) - {"backbone.words.weight"}, new_parameters(net), rates, 0.5)
    found = [({names[id(p)] for p in g["params"]}, g["peak"], g["weight_decay"]) for g in groups]
    assert found == [
        ({"backbone.mix.0.weight"}, 0.1, 0.5),
        ({"backbone.mix.0.bias", "backbone.mix.1.weight", "backbone.mix.1.bias"}, 0.1, 0.0),
        ({"head.linear.weight"}, 0.2, 0.5),
        ({"head.linear.bias"}, 0.2, 0.0),
    ]


class OddNorm(nn.Module):
    """A norm over two axes, as image models have them: its scale is a matrix and must not decay."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 4))


def test_a_norm_with_a_matrix_does_not_decay_either():
    net = nn.ModuleDict({"norm": OddNorm(), "layer_norm_2d": nn.LayerNorm((3, 4)), "linear": nn.Linear(3, 4)})
    rates = peak_rates(TrainOptions(), pretrained=False, only_new=False)
    groups = parameter_groups(net, dict(net.named_parameters()).keys(), set(), rates, 0.5)
    assert [len(group["params"]) for group in groups] == [1, 4]


def test_default_rates_depend_on_where_the_weights_come_from():
    fresh, pretrained = (peak_rates(TrainOptions(), pretrained=known, only_new=False) for known in (False, True))
    assert fresh.backbone > pretrained.backbone
    assert fresh.new == pretrained.new
    chosen = peak_rates(TrainOptions(learning_rate=0.5, head_learning_rate=0.25), pretrained=True, only_new=False)
    assert (chosen.backbone, chosen.new) == (0.5, 0.25)
    assert peak_rates(TrainOptions(), pretrained=True, only_new=True).new > pretrained.new
    assert peak_rates(TrainOptions(head_learning_rate=0.25), pretrained=True, only_new=True).new == 0.25


def test_adamw_is_algorithm_2_of_its_paper():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 2)), rng.normal(size=(5, 3, 2))
    parameter = nn.Parameter(torch.tensor(start))
    adamw = AdamW(AdamWOptions(beta1=0.8, beta2=0.95, epsilon=1e-6)).build(
        [{"params": [parameter], "lr": 0.1, "weight_decay": 0.3}]
    )
    x, m, v = start.copy(), np.zeros((3, 2)), np.zeros((3, 2))
    for t, g in enumerate(gradients, start=1):
        parameter.grad = torch.tensor(g)
        adamw.step()
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        x = x - 0.1 * ((m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6) + 0.3 * x)
    np.testing.assert_allclose(parameter.detach().numpy(), x, rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"optimizer": "adamv"}, ["there is no 'adamv' among the optimizers", "did you mean 'adamw'?"]),
        ({"optimizer": {"name": "adamw", "beta2": 1.0}}, ["'beta2'", "less than 1"]),
        ({"schedule": "cosin"}, ["there is no 'cosin' among the schedules", "did you mean 'cosine'?"]),
        ({"schedule": {"name": "constant", "floor": 0.1}}, ["there is no option 'floor'"]),
        ({"epochs": -1}, ["'epochs'", "greater than or equal to 0"]),
        ({"clip_norm": 0.0}, ["'clip_norm'", "greater than 0"]),
        ({"lerning_rate": 1.0}, ["there is no option 'lerning_rate'", "did you mean 'learning_rate' or"]),
    ],
)
def test_wrong_training_options_are_refused(values, texts):
    with pytest.raises(OptionsError) as caught:
        build(TrainOptions, values)
    for text in texts:
        assert text in str(caught.value)


def test_training_options_survive_json():
    chosen = build(TrainOptions, {"optimizer": {"name": "adamw", "beta2": 0.9}, "schedule": "cosine", "patience": 3})
    assert build(TrainOptions, to_json(chosen)) == chosen
    assert set(OPTIMIZERS.names()) >= {"adamw"}


def test_vectors_do_not_decay_whatever_they_are_called():
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "scale": nn.ParameterList([nn.Parameter(torch.ones(4))])})
    rates = peak_rates(TrainOptions(), pretrained=False, only_new=False)
    decaying, plain = parameter_groups(net, dict(net.named_parameters()).keys(), set(), rates, 0.5)
    assert {tuple(p.shape) for p in decaying["params"]} == {(16, 3), (16, 4)}
    assert {tuple(p.shape) for p in plain["params"]} == {(16,), (4,)}
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)

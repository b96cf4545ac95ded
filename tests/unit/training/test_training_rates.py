"""Schedules against the hub's, parameter groups by name, the fused optimiser against the plain one, options."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tiny_net import tiny_net
from torch import nn

from regraft.errors import OptionsError
from regraft.options import Pick, build, to_json
from regraft.training import OPTIMIZERS, SCHEDULES
from regraft.training.fused import FusedAdamW
from regraft.training.optimizers import (
    AdamW,
    AdamWOptions,
    gradient_norm,
    parameter_groups,
    peak_rates,
    scale_gradients,
)
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


def test_norms_biases_and_embeddings_do_not_decay_and_new_weights_have_their_own_rate():
    net = tiny_net()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    rates = peak_rates(build(TrainOptions, {"learning_rate": 0.1, "head_learning_rate": 0.2}), pretrained=True, only_new=False)
    groups = parameter_groups(net, set(names.values()) - {"backbone.mix.1.weight"}, new_parameters(net), rates, 0.5)
    found = [({names[id(p)] for p in g["params"]}, g["peak"], g["weight_decay"]) for g in groups]
    assert found == [
        ({"backbone.mix.0.weight"}, 0.1, 0.5),
        ({"backbone.words.weight", "backbone.mix.0.bias", "backbone.mix.1.bias"}, 0.1, 0.0),
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
        ({"optimizer": "adamv"}, ["there is no 'adamv' among the optimizers", "did you mean 'adamw' or"]),
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
    chosen = build(
        TrainOptions, {"optimizer": {"name": "adamw", "beta2": 0.9}, "schedule": "cosine", "validation": {"patience": 3}}
    )
    assert build(TrainOptions, to_json(chosen)) == chosen
    assert set(OPTIMIZERS.names()) >= {"adamw"}


def test_vectors_do_not_decay_whatever_they_are_called():
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "scale": nn.ParameterList([nn.Parameter(torch.ones(4))])})
    rates = peak_rates(TrainOptions(), pretrained=False, only_new=False)
    decaying, plain = parameter_groups(net, dict(net.named_parameters()).keys(), set(), rates, 0.5)
    assert {tuple(p.shape) for p in decaying["params"]} == {(16, 3), (16, 4)}
    assert {tuple(p.shape) for p in plain["params"]} == {(16,), (4,)}
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)


def three_weights(dtype=torch.float32):
    """Two groups of three weights from a fixed start, and the gradients of six steps; the third has none in the first two."""
    rng = np.random.default_rng(3)
    weights = [nn.Parameter(torch.tensor(rng.normal(size=shape)).to(dtype)) for shape in ((5, 7), (7,), (2, 3))]
    steps = [[torch.tensor(rng.normal(size=tuple(w.shape))).to(dtype) for w in weights] for _ in range(6)]
    for step in steps[:2]:
        step[2] = None
    groups = [{"params": weights[:1], "lr": 0.1, "weight_decay": 0.3}, {"params": weights[1:], "lr": 0.2, "weight_decay": 0.0}]
    return weights, steps, groups


def follow(optimizer, weights, steps, factor=None):
    for gradients in steps:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = None if gradient is None else gradient.clone()
        if factor is not None:
            scale_gradients(optimizer, [weight.grad for weight in weights if weight.grad is not None], factor)
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_way_straight_to_the_kernel_is_torchs_own_bit_for_bit(dtype):
    ours, steps, groups = three_weights(dtype)
    theirs, _, same_groups = three_weights(dtype)
    direct = FusedAdamW(groups, betas=(0.8, 0.95), eps=1e-6)
    fused = torch.optim.AdamW(same_groups, betas=(0.8, 0.95), eps=1e-6, fused=True)
    direct.step()  # no gradients yet: nothing to do
    for left, right in zip(follow(direct, ours, steps), follow(fused, theirs, steps), strict=True):
        assert torch.equal(left, right)
    left, right = direct.state_dict(), fused.state_dict()
    assert left["param_groups"] == right["param_groups"]
    assert left["state"].keys() == right["state"].keys()
    for number, state in left["state"].items():
        assert all(torch.equal(value, right["state"][number][name]) for name, value in state.items())
    resumed = FusedAdamW(three_weights(dtype)[2], betas=(0.8, 0.95), eps=1e-6)
    resumed.load_state_dict(copy.deepcopy(right))
    again = [parameter for group in resumed.param_groups for parameter in group["params"]]
    with torch.no_grad():
        for parameter, weight in zip(again, ours, strict=True):
            parameter.copy_(weight)
    for left, right in zip(follow(resumed, again, steps), follow(fused, theirs, steps), strict=True):
        assert torch.equal(left, right)


def test_the_way_straight_to_the_kernel_goes_past_torchs_bookkeeping(monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("the long way was taken"))
    weights, steps, groups = three_weights()
    follow(FusedAdamW(groups, betas=(0.9, 0.999), eps=1e-8), weights, steps)


OPTIMISERS = {
    "ours": lambda groups: AdamW(AdamWOptions(epsilon=1e-2)).build(groups),
    "fused": lambda groups: torch.optim.AdamW(groups, eps=1e-2, fused=True),
    "foreach": lambda groups: torch.optim.AdamW(groups, eps=1e-2, foreach=True),
    "fused sgd": lambda groups: torch.optim.SGD(groups, fused=True),
    "plain sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_factor_reaches_every_optimiser_on_whichever_way(name, dtype):
    """The reference multiplies the gradients beforehand; a large epsilon keeps AdamW from forgetting the scale."""
    weights, steps, groups = three_weights(dtype)
    expected, _, same_groups = three_weights(dtype)
    found = follow(OPTIMISERS[name](groups), weights, steps, factor=0.37)
    scaled = [[None if g is None else g * 0.37 for g in step] for step in steps]
    for left, right in zip(found, follow(OPTIMISERS[name](same_groups), expected, scaled), strict=True):
        assert torch.allclose(left, right, rtol=2e-6, atol=1e-6) if dtype == torch.float32 else torch.equal(left, right)


def test_a_factor_is_for_one_step_and_one_is_no_factor():
    weights, steps, groups = three_weights()
    optimizer = OPTIMISERS["ours"](groups)
    expected, _, same_groups = three_weights()
    plain = OPTIMISERS["ours"](same_groups)
    for number, factor in enumerate((0.5, 1.0, 4.0, 1.0)):
        follow(optimizer, weights, steps[number : number + 1], factor=factor)
        scaled = [None if g is None else g * factor for g in steps[number]]
        follow(plain, expected, [scaled])
    for left, right in zip(weights, expected, strict=True):
        assert torch.equal(left, right)  # powers of two


def test_the_norm_is_that_of_all_gradients_together():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=size) for size in (1, 7, 3000)]
    tensors = [torch.tensor(part, dtype=torch.float32) for part in parts]
    assert gradient_norm(tensors) == pytest.approx(np.linalg.norm(np.concatenate(parts)), rel=1e-6)
    assert math.isnan(gradient_norm([*tensors, torch.tensor([math.nan])]))
    assert math.isinf(gradient_norm([*tensors, torch.tensor([math.inf])]))

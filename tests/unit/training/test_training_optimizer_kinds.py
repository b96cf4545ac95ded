"""Optimisers against torch's own, the hub's, and their papers in numpy; their memory; schedules against the hub's and torch's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_net import tiny_net
from torch import nn

from regraft.errors import MissingExtraError, OptionsError
from regraft.options import Pick, build
from regraft.registry import installed
from regraft.training import OPTIMIZERS, SCHEDULES
from regraft.training.memory import optimizer_bytes
from regraft.training.optimizers import from_scratch, hidden_weights, parameter_groups, peak_rates
from regraft.training.options import TrainOptions
from regraft.training.schedules import share_of_peak
from regraft.tuning.parts import new_parameters

SHAPES = ((6, 4), (3,), (4, 6), (2, 3, 5))
RATE, DECAY = 0.05, 0.3
needs_bitsandbytes = pytest.mark.skipif(not installed("bitsandbytes"), reason="bitsandbytes is not installed")
NAMES = [pytest.param(name, marks=needs_bitsandbytes if name == "adam8bit" else ()) for name in OPTIMIZERS.names()]


def optimizer(name, **options):
    cls, chosen = Pick(name, options).resolve(OPTIMIZERS)
    return cls(chosen)


def drawn(steps=5, shapes=SHAPES, dtype=torch.float64):
    rng = np.random.default_rng(7)
    weights = [torch.tensor(rng.normal(size=shape), dtype=dtype) for shape in shapes]
    return weights, [[torch.tensor(rng.normal(size=shape), dtype=dtype) for shape in shapes] for _ in range(steps)]


def moved(made, weights, gradients, hidden=False):
    """Return the weights after the steps of a factory, or of a function from groups to an optimiser."""
    learnt = [nn.Parameter(weight.clone()) for weight in weights]
    group = {"params": learnt, "lr": RATE, "peak": RATE, "weight_decay": DECAY}
    stepped = made([{**group, "hidden": [hidden] * len(learnt)}])
    for step in gradients:
        for weight, gradient in zip(learnt, step, strict=True):
            weight.grad = gradient.clone()
        stepped.step()
    return [weight.detach() for weight in learnt]


def alike(found, expected, within=1e-6):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, torch.as_tensor(other, dtype=one.dtype), rtol=0, atol=within)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs_without_decay_and_sgdw_with_it(momentum, nesterov):
    weights, gradients = drawn()
    found = moved(optimizer("sgd", momentum=momentum, nesterov=nesterov).build, weights, gradients)
    expected = []
    for place, weight in enumerate(weights):
        w, v = weight.numpy().copy(), np.zeros(weight.shape)
        for step in gradients:
            g = step[place].numpy()
            v = momentum * v + g
            w = w - RATE * DECAY * w - RATE * (g + momentum * v if nesterov else v)
        expected.append(w)
    alike(found, expected)

    def torchs(groups):
        plain = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
        return torch.optim.SGD(plain, momentum=momentum, nesterov=nesterov and momentum > 0)

    made = optimizer("sgd", momentum=momentum, nesterov=nesterov)
    undecayed = moved(lambda groups: made.build([{**group, "weight_decay": 0.0} for group in groups]), weights, gradients)
    alike(undecayed, moved(torchs, weights, gradients))


def test_lion_is_algorithm_2_of_its_paper():
    weights, gradients = drawn()
    found = moved(optimizer("lion", beta1=0.8, beta2=0.95).build, weights, gradients)
    expected = []
    for place, weight in enumerate(weights):
        w, m = weight.numpy().copy(), np.zeros(weight.shape)
        for step in gradients:
            g = step[place].numpy()
            w = w - RATE * (np.sign(0.8 * m + 0.2 * g) + DECAY * w)
            m = 0.95 * m + 0.05 * g
        expected.append(w)
    alike(found, expected)


def test_adafactor_is_algorithm_4_of_its_paper():
    weights, gradients = drawn()
    found = moved(optimizer("adafactor").build, weights, gradients)
    expected = []
    for place, weight in enumerate(weights):
        x, r, c, v = weight.numpy().copy(), 0.0, 0.0, 0.0
        for t, step in enumerate(gradients, start=1):
            g = step[place].numpy()
            share = 1 - t**-0.8
            if g.ndim > 1:
                r = share * r + (1 - share) * (g * g).mean(axis=-1, keepdims=True)
                c = share * c + (1 - share) * (g * g).mean(axis=-2, keepdims=True)
                v = r * c / r.mean(axis=-2, keepdims=True)
            else:
                v = share * v + (1 - share) * g * g
            u = g / np.sqrt(v)
            u = u / max(1.0, np.sqrt((u * u).mean()))
            size = max(1e-3, np.sqrt((x * x).mean()))
            x = x - RATE * DECAY * x - size * min(RATE, 1 / math.sqrt(t)) * u
        expected.append(x)
    alike(found, expected)


def test_adafactor_is_the_hubs():
    from transformers import Adafactor

    weights, gradients = drawn(dtype=torch.float32)
    made = optimizer("adafactor")
    found = moved(lambda groups: made.build([{**group, "weight_decay": 0.0} for group in groups]), weights, gradients)

    def hubs(groups):
        kept = [{"params": group["params"], "lr": group["lr"]} for group in groups]
        return Adafactor(kept, scale_parameter=True, relative_step=False, warmup_init=False)

    alike(found, moved(hubs, weights, gradients))


def test_muon_is_torchs_inside_layers_and_adamw_elsewhere():
    weights, gradients = drawn(dtype=torch.float32)
    found = moved(optimizer("muon").build, weights, gradients, hidden=True)

    def muon(groups):
        kept = [{"params": [w], "lr": RATE, "weight_decay": DECAY} for g in groups for w in g["params"] if w.ndim == 2]
        return torch.optim.Muon(kept, momentum=0.95, adjust_lr_fn="match_rms_adamw")

    def adamw(groups):
        return torch.optim.AdamW([{"params": g["params"], "lr": RATE, "weight_decay": DECAY} for g in groups])

    theirs, others = moved(muon, weights, gradients), moved(adamw, weights, gradients)
    alike(found, [theirs[0], others[1], theirs[2], others[3]])
    alike(moved(optimizer("muon").build, weights, gradients), others)


def test_muon_makes_the_singular_values_of_its_first_update_about_equal():
    weights, gradients = drawn(1, ((24, 16),), torch.float32)
    (found,) = moved(optimizer("muon").build, weights, gradients, hidden=True)
    update = ((1 - RATE * DECAY) * weights[0] - found) / (RATE * 0.2 * math.sqrt(24))
    assert 0.5 < float(torch.linalg.svdvals(update).min()) <= float(torch.linalg.svdvals(update).max()) < 1.3


@needs_bitsandbytes
def test_adam8bit_is_adamw_for_small_weights_and_near_it_for_large_ones():
    weights, gradients = drawn(5, ((6, 4), (80, 64)), torch.float32)
    found = moved(optimizer("adam8bit").build, weights, gradients)
    expected = moved(optimizer("adamw").build, weights, gradients)
    alike(found[:1], expected[:1])
    gap = (found[1] - expected[1]).abs()
    assert 0 < gap.mean() < 0.1 * (expected[1] - weights[1]).abs().mean()


def test_adam8bit_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr("regraft.registry.installed", lambda _: False)
    with pytest.raises(
        MissingExtraError, match=r"the optimizer 'adam8bit' needs.*bitsandbytes[\s\S]*pip install 'regraft\[bitsandbytes\]'"
    ):
        optimizer("adam8bit").check(tiny_net(), set())


def test_muon_is_refused_where_no_matrix_inside_a_layer_learns():
    net = tiny_net()
    with pytest.raises(OptionsError) as refused:
        optimizer("muon").check(net, {"head.linear.weight"})
    assert "of which none learns here" in str(refused.value)
    assert "--tuning full or top-k" in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_memory_of_an_optimiser_is_what_it_takes(name):
    options = build(TrainOptions, {"optimizer": name})
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((300, 200), (300,), (5, 7, 11), (64, 64))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    made = optimizer(name).build([{"params": weights, "lr": 0.1, "peak": 0.1, "weight_decay": 0.0}])
    made.step()
    kept = [value for state in made.state.values() for key, value in state.items() if hasattr(value, "nbytes") and value.ndim]
    levels = 1024  # bitsandbytes: one table for all weights
    held = sum({value.data_ptr(): value.nbytes for value in kept if value.numel() != 256}.values())
    assert held <= optimizer_bytes(options, weights) <= held + 2 * levels


@pytest.mark.parametrize("name", NAMES)
def test_default_rates_suit_the_optimiser(name):
    options = build(TrainOptions, {"optimizer": name})
    factor = OPTIMIZERS.get(name).rate_factor
    usual, found = (peak_rates(one, pretrained=True, only_new=False) for one in (TrainOptions(), options))
    assert (found.backbone, found.new, found.adapters) == pytest.approx(
        (factor * usual.backbone, factor * usual.new, factor * usual.adapters)
    )
    assert from_scratch(options).learning_rate == pytest.approx(factor * 1e-3)
    said = build(TrainOptions, {"optimizer": name, "learning_rate": 0.5, "head_learning_rate": 0.25})
    rates = peak_rates(said, pretrained=True, only_new=False)
    assert (rates.backbone, rates.new, rates.adapters) == (0.5, 0.25, 0.5)


def test_groups_say_which_weights_lie_inside_layers():
    from regraft.models.blocks import Blocks

    net = tiny_net()
    assert not hidden_weights(net)
    net.backbone.blocks = Blocks(embeddings=("words",), layers=("mix",), final=())
    rates = peak_rates(TrainOptions(), pretrained=True, only_new=False)
    groups = parameter_groups(net, {name for name, _ in net.named_parameters()}, new_parameters(net), rates, 0.1)
    marked = {id(w) for group in groups for w, mark in zip(group["params"], group["hidden"], strict=True) if mark}
    assert marked == {id(weight) for weight in net.backbone.mix.parameters()}


def schedule(name, **options):
    cls, chosen = Pick(name, options).resolve(SCHEDULES)
    return cls(chosen)


def hubs(name, total, warmup, **more):
    from transformers import optimization

    made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = getattr(optimization, name)(made, num_warmup_steps=warmup, **more)
    found = []
    for _ in range(total):
        found.append(made.param_groups[0]["lr"])
        made.step()
        steps.step()
    return found


def test_wsd_polynomial_and_inverse_sqrt_are_the_hubs_after_warm_up():
    total, warmup = 25, 5
    ours = {
        "line": schedule("wsd", decay_share=0.5, shape="line"),
        "power": schedule("polynomial", power=3.0, floor=0.1),
        "root": schedule("inverse-sqrt", time_share=5 / 20),
    }
    theirs = {
        "line": hubs("get_wsd_schedule", total, warmup, num_stable_steps=10, num_decay_steps=10, decay_type="linear"),
        "power": hubs("get_polynomial_decay_schedule_with_warmup", total, warmup, num_training_steps=25, lr_end=0.1, power=3.0),
        "root": hubs("get_inverse_sqrt_schedule", total, warmup, timescale=5),
    }
    for name, one in ours.items():
        found = [share_of_peak(step, total, 0.2, one) for step in range(total)]
        np.testing.assert_allclose(found[warmup:], theirs[name][warmup:], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("shape", "half"), [("exponential", 2.0**-5), ("line", 0.5), ("root", 1 - math.sqrt(0.5))])
def test_wsd_is_flat_and_then_falls(shape, half):
    wsd = schedule("wsd", shape=shape, decay_share=0.2, floor=0.5)
    assert [wsd.multiplier(progress) for progress in (0.0, 0.4, 0.8)] == [1.0, 1.0, 1.0]
    assert wsd.multiplier(0.9) == pytest.approx(0.5 + 0.5 * half)


def test_plateau_is_torchs_and_goes_on_from_its_state():
    values = [0.1, 0.3, 0.3, 0.31, 0.2, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.6, math.nan, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        made, "max", factor=0.3, patience=1, threshold=0.05, threshold_mode="abs", min_lr=0.01
    )
    ours = schedule("plateau", factor=0.3, patience=1, min_change=0.05, floor=0.01)
    for value in values:
        theirs.step(value)
        ours.judged(value)
        again = schedule("plateau", factor=0.3, patience=1, min_change=0.05, floor=0.01)
        again.put_back(ours.state())
        ours = again
        assert ours.multiplier(0.5) == pytest.approx(made.param_groups[0]["lr"], abs=1e-12)
    assert ours.multiplier(0.5) < 0.1

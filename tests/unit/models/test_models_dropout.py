"""Fast dropout against what it says it draws: rates, moments, independence, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from regraft.models.dropout import FastDropout, dropout, fast_dropouts
from regraft.models.view import view


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


@pytest.mark.parametrize("p", [0.004, 0.1, 0.25, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_kept_share_is_within_five_sigma_and_the_scale_is_its_inverse(p, dtype):
    n = 1_000_003  # no multiple of four: the last draw is used in part
    y = dropout(torch.ones(n, dtype=dtype), p)
    kept = float((y != 0).sum()) / n
    asked = 1 - round(p * 65536) / 65536
    assert abs(kept - asked) < 5 * math.sqrt(asked * (1 - asked) / n)
    assert abs(asked - (1 - p)) < 8e-6
    values = y[y != 0].double().unique()
    assert y.dtype == dtype
    assert values.numel() == 1
    assert float(values) == pytest.approx(
        1 / asked, rel=1e-12 if dtype == torch.float64 else 1e-7 if dtype == torch.float32 else 4e-3
    )


def test_mean_and_variance_of_a_value_are_those_of_the_textbook():
    """x z / (1 - p) with z from Bernoulli(1 - p): mean x, variance x^2 p / (1 - p)."""
    x, p, n = torch.tensor([-2.0, 0.5, 3.0]), 0.3, 400_000
    y = dropout(x.expand(n, 3).contiguous(), p).double()
    variance = x.double() ** 2 * p / (1 - p)
    assert ((y.mean(0) - x).abs() < 5 * (variance / n).sqrt()).all()
    assert torch.allclose(y.var(0), variance, rtol=0.02)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 64])
def test_neighbours_are_independent(lag):
    """The correlation of n independent draws has a standard deviation of 1 / sqrt(n); lags up to 3 share a 64-bit draw."""
    z = (dropout(torch.ones(1_000_000), 0.1) == 0).double().numpy()
    assert abs(np.corrcoef(z[:-lag], z[lag:])[0, 1]) < 5 / math.sqrt(len(z))


def test_each_of_the_four_places_in_a_draw_has_the_same_rate():
    z = (dropout(torch.ones(2_000_000), 0.2) == 0).view(-1, 4).double().mean(0)
    assert ((z - 0.2).abs() < 5 * math.sqrt(0.16 / 500_000)).all()


def test_two_draws_differ_and_the_default_generator_decides():
    x = torch.ones(64, 7)
    torch.manual_seed(1)
    one, two = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.5), one)
    assert not torch.equal(one, two)


def test_gradients_are_the_mask_times_the_scale():
    x = torch.randn(3, 5, 7, requires_grad=True)
    y = dropout(x, 0.25)
    y.sum().backward()
    assert torch.allclose(x.grad, torch.where(y == 0, 0.0, 4 / 3))


def test_gradcheck():
    def drawn(x):
        torch.manual_seed(3)
        return dropout(x, 0.4)

    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(drawn, (x,))
    assert torch.autograd.gradgradcheck(drawn, (x,))


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 5), (7, 1, 1, 2)])
def test_any_shape(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_a_tensor_that_does_not_lie_end_to_end():
    x = torch.arange(1.0, 13.0).view(3, 4).T
    y = dropout(x, 0.5)
    assert torch.equal(y[y != 0], 2 * x[y != 0])


def test_the_ends_of_the_range():
    x = torch.randn(1000)
    assert dropout(x, 0.0) is x
    assert torch.equal(dropout(x, 1.0), torch.zeros(1000))
    nearly = dropout(torch.ones(200_000), 1 - 1e-4)
    assert nearly[nearly != 0].tolist() == pytest.approx([1e4] * int((nearly != 0).sum()), rel=1e-3)
    assert 0 < int((nearly != 0).sum()) < 60
    rarely = dropout(torch.ones(200_000), 1e-4)
    assert 0 < int((rarely == 0).sum()) < 60
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="a probability is between 0 and 1"):
            dropout(x, wrong)
        with pytest.raises(ValueError, match="a probability is between 0 and 1"):
            FastDropout(wrong)


def test_the_input_is_left_alone():
    x = torch.ones(100)
    dropout(x, 0.5)
    assert torch.equal(x, torch.ones(100))


def test_the_module_drops_in_training_mode_only():
    module, x = FastDropout(0.5), torch.ones(1000)
    assert 300 < int((module(x) == 0).sum()) < 700
    assert module.eval()(x) is x
    assert "p=0.5" in repr(module)


class Odd(nn.Dropout):
    """Something of its own."""


def test_a_view_takes_fast_dropout_in_place_of_torchs_and_the_network_keeps_its_own():
    hooked, quiet = nn.Dropout(0.2), nn.Dropout(0.3).eval()
    hooked.register_forward_hook(lambda module, args, out: None)
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.ModuleList([quiet]), nn.Dropout(0.2, inplace=True), Odd(), hooked)
    found = fast_dropouts(net)
    assert {path: (type(module), module.p, module.training) for path, module in found.items()} == {
        "1": (FastDropout, 0.1, True),
        "2.0": (FastDropout, 0.3, False),
    }
    other = view(net, found)
    assert type(other[1]) is FastDropout
    assert type(net[1]) is nn.Dropout
    assert other[0] is net[0]


def test_a_hub_model_drops_through_a_view_as_often_as_by_itself():
    """Same answers in evaluation mode; in training mode the outputs spread alike around the same mean."""
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertModel(BertConfig(**sizes, hidden_dropout_prob=0.3), add_pooling_layer=False)
    other = view(model, fast_dropouts(model))
    assert sum(isinstance(module, FastDropout) for module in other.modules()) == 4
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(other.eval()(ids).last_hidden_state, model.eval()(ids).last_hidden_state)
        many = ids.expand(4000, 6)
        theirs, ours = (one.train()(many).last_hidden_state.flatten(1).double() for one in (model, other))
    error = (theirs.var(0) / 4000 + ours.var(0) / 4000).sqrt()
    assert ((theirs.mean(0) - ours.mean(0)).abs() < 5 * error).all()
    assert torch.allclose(theirs.var(0), ours.var(0), rtol=0.2)

"""Poolings against numpy, under padding on either side, and the linear head."""

import numpy as np
import pytest
import torch

from regraft.models import POOLINGS
from regraft.models.heads import LinearHead
from regraft.types import Features

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5, 6)).astype(np.float32)
MASKS = {
    "right": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=bool),
    "left": np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [0, 1, 1, 1, 1]], dtype=bool),
}
QUERY = RNG.normal(size=6).astype(np.float32)


def attention(rows):
    scores = rows @ QUERY / np.sqrt(6)
    weights = np.exp(scores - scores.max())
    return (weights[:, None] * rows).sum(0) / weights.sum()


REFERENCES = {
    "cls": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
    "mean": lambda rows: rows.mean(0),
    "attention": attention,
}


def make(name):
    pooling = POOLINGS.get(name)(6)
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.copy_(torch.from_numpy(QUERY))
    return pooling


def test_every_pooling_is_tried():
    elsewhere = {
        "hub-head": "test_models_hub_head.py",
        "layer-weighted": "test_models_layer_weighted.py",
        **dict.fromkeys(("cls-norm", "mean-norm"), "test_models_picture_families.py"),
    }
    assert {*REFERENCES, *elsewhere} == set(POOLINGS), "those with weights of the hub's own are tried family by family"


@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("name", REFERENCES)
def test_pooling_equals_numpy_and_never_sees_padding(name, side):
    mask = MASKS[side]
    expected = np.stack([REFERENCES[name](rows[real]) for rows, real in zip(X, mask, strict=True)])
    for filler in (0.0, 1e30, float("nan"), float("inf")):
        filled = np.where(mask[..., None], X, np.float32(filler))
        got = make(name)(torch.from_numpy(filled), torch.from_numpy(mask)).detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_row_without_real_positions_gives_zeros(name):
    got = make(name)(torch.from_numpy(X), torch.zeros(4, 5, dtype=torch.bool))
    assert torch.equal(got, torch.zeros(4, 6))


def test_attention_starts_as_the_mean_and_learns():
    pooling = POOLINGS.get("attention")(6)
    x, mask = torch.from_numpy(X), torch.from_numpy(MASKS["right"])
    torch.testing.assert_close(pooling(x, mask), POOLINGS.get("mean")(6)(x, mask))
    pooling(x, mask).square().sum().backward()
    assert pooling.query_D.grad.abs().sum() > 0


def test_the_head_is_a_linear_map_drawn_from_its_generator():
    features = Features(torch.zeros(4, 5, 6), torch.ones(4, 5, dtype=torch.bool), torch.from_numpy(X[:, 0]))
    before = torch.get_rng_state()
    heads = [LinearHead(6, 3, 0.5, torch.Generator().manual_seed(seed)).eval() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    weight, bias = heads[0].linear.weight, heads[0].linear.bias
    assert torch.equal(weight, heads[1].linear.weight)
    assert not torch.equal(weight, heads[2].linear.weight)
    np.testing.assert_allclose(heads[0](features).detach(), X[:, 0] @ weight.detach().numpy().T, atol=1e-6)
    assert not bias.any()
    wide = LinearHead(1000, 50, 0.0, torch.Generator().manual_seed(0))
    assert abs(wide.linear.weight.std().item() - 0.02) < 5e-4


def test_the_heads_dropout_works_in_training_only():
    features = Features(torch.zeros(4, 5, 6), torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 6))
    head = LinearHead(6, 3, 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert len({tuple(row) for row in head.train()(features).tolist()}) > 1
    assert len({tuple(row) for row in head.eval()(features).tolist()}) == 1

"""Mixing the outputs of several heads, against the weighted mean of their probabilities in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.options import build
from regraft.tasks import TASKS
from regraft.types import Ledger

PICKS = [
    ("classification", {}),
    ("multi-label", {}),
    ("ordinal", {}),
    ("regression", {}),
    ("regression", {"quantiles": [0.1, 0.9]}),
]


@pytest.mark.parametrize(("name", "options"), PICKS)
def test_probabilities_of_a_mixture_are_the_weighted_mean(name, options):
    cls = TASKS.get(name)
    task = cls(build(cls.Options, options))
    task.learn(cls.example(60, 0)[1], Ledger())
    generator = torch.Generator().manual_seed(1)
    shape = task.head(4, 0.0)(_features(4)).shape[1:]
    outputs_PBC = 4 * torch.randn(3, 9, *shape, generator=generator, dtype=torch.float64)
    weights_BP = torch.rand(9, 3, generator=generator, dtype=torch.float64)
    weights_BP[0] = torch.tensor([1.0, 0.0, 0.0])
    weights_BP /= weights_BP.sum(dim=1, keepdim=True)
    parts = np.stack([task.probabilities(output.numpy()) for output in outputs_PBC])
    expected = np.einsum("bp,pbc->bc", weights_BP.numpy(), parts)
    np.testing.assert_allclose(task.probabilities(task.mixed(outputs_PBC, weights_BP).numpy()), expected, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), PICKS)
def test_a_mixture_with_a_weight_of_zero_has_finite_gradients(name, options):
    cls = TASKS.get(name)
    task = cls(build(cls.Options, options))
    task.learn(cls.example(60, 0)[1], Ledger())
    shape = task.head(4, 0.0)(_features(4)).shape[1:]
    outputs_PBC = torch.full((2, 3, *shape), 30.0, requires_grad=True)
    scores_BP = torch.tensor([[0.0, torch.finfo(torch.float32).min]] * 3, requires_grad=True)
    task.mixed(outputs_PBC, scores_BP.softmax(dim=1)).sum().backward()
    assert torch.isfinite(outputs_PBC.grad).all()
    assert torch.isfinite(scores_BP.grad).all()
    assert float(outputs_PBC.grad[1].abs().max()) < 1e-25, "a head without weight learns nothing"


def _features(width):
    from regraft.types import Features

    zeros = torch.zeros(1, width)
    return Features(sequence_BTD=zeros[:, None], mask_BT=torch.ones(1, 1, dtype=torch.bool), pooled_BD=zeros)

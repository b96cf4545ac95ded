"""Which weights each tuning names, and that it leaves the network as it was."""

from __future__ import annotations

import pytest
from torch import nn

from regraft.models.net import Headed
from regraft.tuning import TUNINGS
from regraft.tuning.parts import new_parameters


class Body(nn.Module):
    """A body and a pooling that learns."""

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"words": nn.Embedding(3, 2)})
        self.pooling = nn.Linear(2, 1, bias=False)


@pytest.fixture
def net() -> Headed:
    return Headed(Body(), nn.Linear(2, 2))


HEAD = {"head.weight", "head.bias", "backbone.pooling.weight"}


def test_new_parameters_are_the_head_and_a_pooling_that_learns(net):
    assert new_parameters(net) == HEAD


def test_tunings_name_their_weights_and_touch_nothing(net):
    expected = {"full": HEAD | {"backbone.model.words.weight"}, "head": HEAD}
    for name, names in expected.items():
        cls = TUNINGS.get(name)
        before = [(p.requires_grad, p.grad) for p in net.parameters()]
        assert cls(cls.Options()).trainable(net) == names
        assert [(p.requires_grad, p.grad) for p in net.parameters()] == before

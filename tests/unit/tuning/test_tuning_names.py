"""Which weights each tuning names, and that it leaves the network as it was."""

from __future__ import annotations

import pytest
from torch import nn

from regraft.errors import OptionsError
from regraft.models.blocks import Blocks
from regraft.models.net import Headed
from regraft.options import build
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


class Layered(nn.Module):
    """A table, five layers with a norm in each, a final norm, and a pooling that learns."""

    def __init__(self):
        super().__init__()
        layers = [nn.ModuleDict({"map": nn.Linear(2, 2, bias=False), "norm": nn.LayerNorm(2, bias=False)}) for _ in range(5)]
        table, final = nn.Embedding(3, 2), nn.LayerNorm(2, bias=False)
        self.body = nn.ModuleDict({"words": table, "layers": nn.ModuleList(layers), "final": final})
        self.pooling = nn.Linear(2, 1, bias=False)
        self.blocks = Blocks(("body.words",), tuple(f"body.layers.{n}" for n in range(5)), ("body.final",))


@pytest.fixture
def layered() -> Headed:
    return Headed(Layered(), nn.Linear(2, 2))


def top(layers):
    cls = TUNINGS.get("top-k")
    return cls(build(cls.Options, {"layers": layers}))


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_top_k_names_the_last_layers_and_all_that_follows(layered, layers):
    after = HEAD | {"backbone.body.final.weight"}
    numbers = range(5 - layers, 5)
    expected = {f"backbone.body.layers.{n}.{part}.weight" for n in numbers for part in ("map", "norm")}
    before = [(p.requires_grad, p.grad) for p in layered.parameters()]
    assert top(layers).trainable(layered) == after | expected
    assert [(p.requires_grad, p.grad) for p in layered.parameters()] == before


def test_top_k_lets_two_layers_learn_if_nothing_is_said(layered):
    cls = TUNINGS.get("top-k")
    assert cls(cls.Options()).trainable(layered) == top(2).trainable(layered)


def test_more_layers_than_there_are_is_an_error_that_names_how_many(layered):
    with pytest.raises(OptionsError) as caught:
        top(6).trainable(layered)
    for text in (
        "the base does not have so many layers",
        "where: tuning.layers",
        "got: 6",
        "expected: at most 5",
        "set tuning.layers to 5 or less",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("layers", [0, -1])
def test_no_layers_are_refused(layers):
    with pytest.raises(OptionsError, match="greater than or equal to 1"):
        top(layers)

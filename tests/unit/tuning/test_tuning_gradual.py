"""Gradual tuning: which weights learn in which phase, and what cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regraft.errors import OptionsError
from regraft.models.blocks import Blocks
from regraft.models.net import Headed
from regraft.options import build
from regraft.tuning import TUNINGS

GRADUAL = TUNINGS.get("gradual")


class Body(nn.Module):
    """A table and three layers."""

    def __init__(self):
        super().__init__()
        self.words, self.layers = nn.Embedding(3, 2), nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))
        self.blocks = Blocks(("words",), ("layers.0", "layers.1", "layers.2"), ())


def made(**options):
    return GRADUAL(build(GRADUAL.Options, options))


HEAD = {"head.weight", "head.bias"}
LAYERS = [f"backbone.layers.{place}.weight" for place in range(3)]


def test_the_head_learns_first_then_the_layers_then_everything():
    net = Headed(Body(), nn.Linear(2, 2))
    phases = made(layers=[1, 2], head_epochs=7).phases()
    assert [(phase.name, phase.epochs) for phase in phases] == [("head", 7), ("top 1", 1), ("top 2", 1), ("full", None)]
    assert [phase.tuning.trainable(net) for phase in phases] == [
        HEAD,
        HEAD | {LAYERS[2]},
        HEAD | {LAYERS[2], LAYERS[1]},
        {name for name, _ in net.named_parameters()},
    ]
    assert made(layers=[1, 2]).trainable(net) == {name for name, _ in net.named_parameters()}


def test_what_the_last_phase_adds_waits_for_it():
    net = Headed(Body(), nn.Linear(2, 2))
    net.backbone.layers[0].added = ("extra",)
    net.backbone.layers[0].extra = nn.Parameter(torch.zeros(2))
    head, last = made(then={"name": "top-k", "layers": 3}).phases()
    assert head.tuning.trainable(net) == HEAD
    assert "backbone.layers.0.extra" in last.tuning.trainable(net)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"then": "gradual"}, "'gradual' has phases of its own"),
        ({"then": "ful"}, "did you mean 'full'"),
        ({"layers": [2, 1]}, "more and more layers learn from phase to phase"),
        ({"layers": [0]}, "has a value it cannot take"),
        ({"head_epochs": 0}, "has a value it cannot take"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(OptionsError, match=said):
        made(**options)


def test_a_phase_that_is_taken_back_is_refused():
    net = Headed(Body(), nn.Linear(2, 2))
    with pytest.raises(OptionsError, match="what learns in the phase 'top 3' stands still in the last one, 'top-k'"):
        made(layers=[3], then={"name": "top-k", "layers": 1}).trainable(net)
    with pytest.raises(OptionsError, match="the base does not have so many layers"):
        made(layers=[5]).trainable(net)


def test_what_follows_the_training_of_the_last_phase_waits_for_it(monkeypatch):
    class Following(TUNINGS.get("full")):
        def follows(self):
            return (("following", self),)

    monkeypatch.setitem(TUNINGS._table, "following", "nowhere:Following")
    monkeypatch.setitem(TUNINGS._loaded, "following", Following)
    tuned = made(then="following", layers=[1])
    assert [[name for name, _ in phase.tuning.follows()] for phase in tuned.phases()] == [[], [], ["following"]]
    assert [name for name, _ in tuned.follows()] == ["following"]

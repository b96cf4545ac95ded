"""BitFit: every bias of the base and nothing else of it learns, whatever its family calls a bias."""

from __future__ import annotations

import pytest
import torch
from adapted_nets import headed
from tiny_families import FAMILIES

from regraft.errors import OptionsError
from regraft.options import build
from regraft.tuning import TUNINGS

BITFIT = TUNINGS.get("bitfit")
NEW = {"head.linear.weight", "head.linear.bias"}


def named(net, **options):
    return BITFIT(build(BITFIT.Options, options)).trainable(net)


def test_the_biases_of_bert_are_those_of_the_paper():
    inside = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    inside += ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
    expected = {f"backbone.body.encoder.layer.{layer}.{name}.bias" for layer in range(3) for name in inside}
    net = headed("bert")
    assert named(net) == NEW | expected | {"backbone.body.embeddings.LayerNorm.bias"}
    below = {name for name in expected if ".layer.0." in name}
    assert named(net, layers=2) == NEW | expected - below, "nothing below the top two layers learns"


def test_biases_of_recurrent_layers_and_those_with_other_names_count():
    from torch import nn

    from regraft.tuning.bitfit import is_bias

    names = {name for name, value in nn.LSTM(2, 3, bidirectional=True).named_parameters() if is_bias(name, value)}
    assert names == {f"bias_{kind}_l0{way}" for kind in ("ih", "hh") for way in ("", "_reverse")}
    vector, table = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, 3))
    assert [is_bias(name, vector) for name in ("q_bias", "layer.bias", "bias", "weight")] == [True, True, True, False]
    assert not is_bias("relative_attention.bias", table), "a table of offsets is no vector that is added"


def test_a_base_without_biases_and_one_with_fewer_layers_are_refused():
    assert "t5" in FAMILIES
    with pytest.raises(OptionsError, match=r"no biases that could learn(.|\n)*choose another tuning"):
        named(headed("t5"))
    with pytest.raises(OptionsError, match=r"where: tuning\.layers(.|\n)*at most 3"):
        named(headed("bert"), layers=4)

"""Tensors without numbers are not filled; those with numbers are, as without a word from us."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from regraft.models.unfilled import Unfilled, undrawn


def test_what_holds_numbers_is_filled_as_ever() -> None:
    def made() -> list[torch.Tensor]:
        torch.manual_seed(0)
        layers = [nn.Linear(3, 2), nn.Embedding(5, 4, padding_idx=0)]
        drawn = [torch.empty(4).normal_(), torch.empty(4).uniform_(1, 2), torch.arange(3), torch.empty_like(torch.ones(2, 3))]
        nn.init.trunc_normal_(drawn[0])
        return [*drawn[:3], *(weight.detach() for layer in layers for weight in layer.parameters())]

    plain = made()
    with Unfilled():
        assert all(map(torch.equal, made(), plain))


def test_what_holds_none_keeps_its_shape_kind_and_place() -> None:
    def made() -> list[torch.Tensor]:
        with torch.device("meta"):
            first = torch.empty(2, 3, dtype=torch.bfloat16)
            return [
                first.normal_(),
                nn.init.kaiming_uniform_(first, a=2),
                torch.arange(2, 9, 2),
                torch.arange(3.0),
                torch.arange(7).expand((1, -1)),
                torch.empty_like(first),
                torch.empty_like(first, dtype=torch.int8, device="cpu"),
                torch.empty_like(first.t(), device="cpu"),
                nn.LSTM(3, 2).weight_ih_l0,
            ]

    told = [(tuple(t.shape), t.stride(), t.dtype, t.device, type(t)) for t in made()]
    with Unfilled():
        assert [(tuple(t.shape), t.stride(), t.dtype, t.device, type(t)) for t in made()] == told


@pytest.mark.parametrize("kind", [nn.Linear, nn.Bilinear])
def test_a_layer_without_numbers_draws_none(kind: type[nn.Module]) -> None:
    sizes = (4, 3) if kind is nn.Linear else (4, 2, 3)
    before = torch.random.get_rng_state()
    layer = undrawn(kind, *sizes, bias=False, dtype=torch.float64)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = kind(*sizes, bias=False, dtype=torch.float64)
    assert [(n, p.shape, p.dtype, p.device) for n, p in layer.named_parameters()] == [
        (n, p.shape, p.dtype, p.device) for n, p in other.named_parameters()
    ]


def test_a_network_opens_with_the_same_numbers_and_draws_those_that_are_missing(tmp_path) -> None:
    """What its file lacks is drawn after the others were read, on the processor: that stays."""
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    saved = BertModel(config, add_pooling_layer=False)
    saved.save_pretrained(tmp_path)

    def opened() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return {**BertModel.from_pretrained(tmp_path).state_dict(), **dict(BertModel.from_pretrained(tmp_path).named_buffers())}

    plain = opened()
    with Unfilled():
        ours = opened()
    assert plain.keys() == ours.keys()
    assert "pooler.dense.weight" in ours
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
    assert all(torch.equal(ours[name], tensor) for name, tensor in saved.state_dict().items())

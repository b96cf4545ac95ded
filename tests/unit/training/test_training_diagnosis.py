"""A planted row that is no number, one that explodes, a layer that fails: the message names them."""

from __future__ import annotations

import re

import pytest
import torch
from tiny_net import tiny_net, tiny_objective

from regraft.errors import GateError
from regraft.options import build
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions


class Planted(torch.nn.Module):
    """Pass values on, but those of rows with a mark."""

    def __init__(self, mark: float, backwards: bool = False) -> None:
        super().__init__()
        self.mark, self.backwards = mark, backwards

    def forward(self, values):
        marked = (values.detach().abs() > 50).any(-1, keepdim=True)
        if self.backwards:
            # The number is fine, the slope is not: the root of 0.
            return values + torch.sqrt((~marked).to(values) + 0.0 * values[..., :1])
        return values * torch.where(marked, self.mark, 1.0)


def said_of(mark: float, rows: list[int], *, micro: int = 8, backwards: bool = False) -> tuple[str, list[int]]:
    """Train with rows of which the first token is one of a kind that the planted layer answers to; returns the message."""
    net, objective = tiny_net(), tiny_objective(n=30)
    with torch.no_grad():
        net.backbone.words.weight[11] = 100.0
        net.backbone.words.weight[:11].clamp_(-2, 2)
    flat, lengths = objective._rows._flat["input_ids"], objective._rows.lengths
    starts = [0, *lengths.cumsum()[:-1].tolist()]
    flat[flat == 11] = 10
    for row in rows:
        flat[starts[row]] = 11
    net.backbone.mix = torch.nn.Sequential(Planted(mark, backwards), *net.backbone.mix)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(GateError) as caught:
        list(
            train(
                net,
                objective,
                Full(FullOptions()),
                build(TrainOptions, {"epochs": 1, "batch_size": 30, "micro_batch_size": micro, "dropout": 0.0}),
            )
        )
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(weight.grad is None for weight in net.parameters())
    text = str(caught.value)
    named = re.search(r"training rows? ([\d, ]+) alone", text)
    return text, sorted(map(int, named.group(1).split(","))) if named else []


@pytest.mark.parametrize(("mark", "rows"), [(float("nan"), [7]), (float("inf"), [3, 21]), (1e38, [5])])
def test_rows_that_are_planted_are_named_and_the_layer_too(mark, rows):
    text, named = said_of(mark, rows, micro=30)
    assert named == rows
    assert "the loss is not a finite number" in text
    assert "first in the layer 'backbone.mix." in text
    assert "step 1 of 1" in text
    if mark != 1e38:
        assert "'backbone.mix.0'" in text


def test_of_micro_batches_only_the_one_that_failed_is_looked_at():
    text, named = said_of(float("nan"), [7], micro=8)
    assert named == [7], text


def test_a_gradient_that_is_no_number_is_traced_to_its_row():
    text, named = said_of(1.0, [9], micro=30, backwards=True)
    assert "the gradient is not a finite number" in text
    assert named == [9]
    assert "first in the layer 'backbone.words'" in text


def test_where_no_row_alone_fails_the_batch_is_named(monkeypatch: pytest.MonkeyPatch):
    net, objective = tiny_net(), tiny_objective()
    loss = objective.loss

    def together(net, batch):
        part, logs = loss(net, batch)
        return (type(part)(part.total * float("nan"), part.weight), logs) if batch.size > 1 else (part, logs)

    monkeypatch.setattr(objective, "loss", together)
    with pytest.raises(GateError) as caught:
        list(train(net, objective, Full(FullOptions()), build(TrainOptions, {"epochs": 1, "batch_size": 4})))
    assert re.search(r"training rows \d+, \d+, \d+, \d+ \(counted from 0\)", str(caught.value))
    assert "look at the rows of this batch" in str(caught.value)

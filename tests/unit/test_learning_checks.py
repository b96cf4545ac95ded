"""What cannot be learnt so is refused before anything is computed, all of it at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from regraft.errors import OptionsError
from regraft.learning import _check
from regraft.options import Pick, build
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.training.options import TrainOptions
from regraft.tuning.parts import Decided

HEAD = Decided({"head.weight"})


class Words(nn.Module):
    """A backbone of tokens in one table, without layers."""

    part_widths = ()
    architecture = SimpleNamespace(inputs=("input_ids",), masked=True)
    blocks = SimpleNamespace(layers=(), embeddings=())


def plan_of(valid=(), **train):
    wanted = SimpleNamespace(train=build(TrainOptions, train), objective=Pick("supervised"))
    task = Classification(ClassificationOptions())
    return SimpleNamespace(wanted=wanted, rows={"valid": list(valid)}, task=task)


def net_of():
    net = nn.Module()
    net.backbone, net.head, net.fixed = Words(), nn.Linear(2, 2), frozenset()
    return net


def test_all_that_cannot_be_done_is_said_at_once():
    with pytest.raises(OptionsError) as refused:
        _check(net_of(), HEAD, plan_of(regularize=["mixup"], optimizer="muon", schedule="plateau"))
    said = str(refused.value)
    assert "mixup averages numbers" in said
    assert "Muon moves matrices inside the layers of the backbone, of which none learns here" in said
    assert "the schedule 'plateau' follows validations" in said
    assert "give validation rows, or choose another schedule" in said


def test_what_can_be_done_is_not_refused():
    _check(net_of(), HEAD, plan_of(regularize=["ema"], schedule="plateau", valid=[1]))
    _check(net_of(), HEAD, plan_of())

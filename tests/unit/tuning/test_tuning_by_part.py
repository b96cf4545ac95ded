"""By-part tuning: each part learns as it was said, the head and what joins the parts always."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regraft.errors import OptionsError, UsageError
from regraft.models.blocks import Blocks
from regraft.models.net import Headed
from regraft.options import build
from regraft.regularizers import Regularizer
from regraft.tuning import TUNINGS

BY_PART = TUNINGS.get("by-part")


class Part(nn.Module):
    """A table and two layers."""

    def __init__(self):
        super().__init__()
        self.words, self.layers = nn.Embedding(3, 2), nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))
        self.blocks = Blocks(("words",), ("layers.0", "layers.1"), ())


class Parts(nn.Module):
    """Two parts, and what joins them."""

    keys, new = ("title", "photo"), ("pooling.",)

    def __init__(self):
        super().__init__()
        self.parts, self.pooling = nn.ModuleList([Part(), Part()]), nn.Linear(4, 2, bias=False)


def named(net: Headed, **options) -> set[str]:
    tuned = BY_PART(build(BY_PART.Options, options))
    tuned.prepare(net, iter(()), 0)
    return tuned.trainable(net)


NEW = {"head.weight", "head.bias", "backbone.pooling.weight"}


def test_each_part_learns_as_it_was_said_and_the_rest_as_the_others():
    net = Headed(Parts(), nn.Linear(2, 2))
    title = {f"backbone.parts.0.{name}" for name in ("words.weight", "layers.0.weight", "layers.1.weight")}
    assert named(net) == NEW
    assert named(net, parts={"title": "full"}) == NEW | title
    top = {"name": "top-k", "layers": 1}
    assert named(net, parts={"photo": top}) == NEW | {"backbone.parts.1.layers.1.weight"}
    assert named(net, parts={"photo": "head"}, others="full") == NEW | title
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_base_without_parts_learns_as_the_others():
    net = Headed(Part(), nn.Linear(2, 2))
    assert named(net, others="full") == {name for name, _ in net.named_parameters()}
    with pytest.raises(OptionsError, match="the base has no part 'title'"):
        named(net, parts={"title": "full"})


def test_what_cannot_be_says_what_can():
    net = Headed(Parts(), nn.Linear(2, 2))
    with pytest.raises(OptionsError) as caught:
        named(net, parts={"titel": "full"})
    assert "did you mean 'title'" in str(caught.value)
    with pytest.raises(OptionsError) as caught:
        named(net, parts={"title": "lora"})
    assert "cannot do for one part alone" in str(caught.value)
    assert "full or head or top-k or bitfit" in str(caught.value)
    with pytest.raises(UsageError, match=r"no.*'ful'"):
        named(net, parts={"title": "ful"})
    with pytest.raises(OptionsError, match=r"at most 2"):
        named(net, parts={"title": {"name": "top-k", "layers": 3}})
    assert torch.is_grad_enabled()


class Following(TUNINGS.get("full")):
    """Lets everything learn, and something follows that."""

    def follows(self):
        return (("following", Regularizer(None)),)


def test_what_follows_the_whole_training_cannot_be_for_one_part(monkeypatch):
    monkeypatch.setitem(TUNINGS._table, "following", "nowhere:Following")
    monkeypatch.setitem(TUNINGS._loaded, "following", Following)
    with pytest.raises(
        OptionsError, match=r"'following' follows the training, which it cannot do for one part alone"
    ) as caught:
        named(Headed(Parts(), nn.Linear(2, 2)), parts={"title": "following"})
    assert "following" not in str(caught.value.problems[0].expected)

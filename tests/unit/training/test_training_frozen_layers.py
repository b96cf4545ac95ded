"""Under a pooling over layers the means of all layers are kept: pooling and head learn from them as from the whole network."""

import numpy as np
import pytest
import torch
from frozen_net import LONGEST, TUNINGS, Work, difference, frozen_net, same

from regraft.models.backbones import Shapes
from regraft.models.forward import pooled
from regraft.training.frozen import deepest_cut, kept_pooled
from regraft.types import Features

FIXED, PACKED, PADDED = Shapes("fixed", LONGEST), Shapes("packed"), Shapes("padded")
SCORES = "backbone.pooling.scores_L"


def net_of(shapes=FIXED, dropout=0.0, kind="bert"):
    net = frozen_net(kind, dropout, shapes, pooling="layer-weighted")
    with torch.no_grad():
        net.backbone.pooling.scores_L.copy_(torch.tensor([0.4, -0.3, 0.8, 0.1]))
    return net


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_in_fixed_shapes_cached_and_uncached_weights_have_the_same_bits(tmp_path, validate, dropout):
    net, work = net_of(dropout=dropout), Work(tmp_path, "head", validate=validate)
    cached = work.run(net)
    assert work.missing == 54
    assert same(cached, work.run(net, enabled=False))
    moved = {name for name, value in cached.items() if not torch.equal(value, net.state_dict()[name])}
    assert moved == {SCORES, "head.linear.weight", "head.linear.bias"}


@pytest.mark.parametrize(("kind", "shapes"), [("bert", PACKED), ("bert", PADDED), ("regraft-lstm", PADDED), ("t5", PADDED)])
def test_in_other_shapes_they_are_close(tmp_path, kind, shapes):
    net, work = net_of(shapes, 0.3, kind), Work(tmp_path, "head", steps=20, validate=True)
    assert difference(work.run(net), work.run(net, enabled=False)) <= 1e-6


@pytest.mark.parametrize("cache", [{}, {"memory_mb": 0}], ids=["memory", "disk"])
def test_a_second_run_computes_nothing_also_once_the_pooling_has_learnt(tmp_path, cache):
    net, work = net_of(), Work(tmp_path, "head", steps=20)
    first = work.run(net, **cache)
    work.missing = 0
    with torch.no_grad():
        net.backbone.pooling.scores_L.zero_()
    other = work.run(net, **cache)
    assert work.missing == 0
    assert "54 of 54 rows are there" in work.notes[-1]
    assert difference(first, other) > 0.01, "the means are the same, what is made of them is not"


def test_what_is_kept_is_one_vector_a_layer_and_the_head_sees_the_pooled_one(tmp_path):
    net, work = net_of(), Work(tmp_path, "head")
    rows = work.rows()
    with work.learner(net) as part, torch.no_grad():
        assert part.cut == len(net.backbone.blocks.layers) + 1 == deepest_cut(net, part.trainable, {"pooled"})
        assert part.pooled
        inputs, mask = part.net.tensors(part.rows["valid"].batch(np.arange(5)))
        means = net.backbone.eval().layer_means(*net.tensors(rows["valid"].batch(np.arange(5))))
        assert inputs["layers"].shape == (5, 4, 16)
        torch.testing.assert_close(inputs["layers"], means)
        features: Features = part.net.features(inputs, mask)
        whole = net.features(*net.tensors(rows["valid"].batch(np.arange(5))))
        torch.testing.assert_close(features.pooled_BD, whole.pooled_BD)
        assert {name for name, _ in part.net.named_parameters()} == part.trainable
    note = work.notes[0]
    assert "layers features" in note
    assert "in front of the pooling" in note


def test_pooled_vectors_of_the_base_come_from_the_same_means(tmp_path):
    net, work = net_of(), Work(tmp_path, "head")
    work.run(net)
    valid, seen = work.rows()["valid"], []
    found = kept_pooled(net, valid, np.array([3, 1, 1, 7]), work.setting(), seen.append)
    assert "4 of 4 rows are there" in work.notes[-1]
    expected = pooled(net, valid, np.array([3, 1, 1, 7]), 32)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(kept_pooled(net, valid, np.array([3]), work.setting(enabled=False), seen.append), expected[:1])


def test_where_layers_learn_nothing_is_kept_and_it_is_said(tmp_path):
    net, work = net_of(), Work(tmp_path, "top-1", steps=5)
    trained = work.run(net)
    assert not torch.equal(trained[SCORES], net.state_dict()[SCORES])
    assert work.notes == [
        "what is frozen is computed in every epoch: the pooling 'layer-weighted' reads the outputs of all layers, also of those "
        "below a cut"
    ]
    assert not work.files()


def test_a_task_that_reads_positions_is_not_given_pooled_vectors():
    net = net_of()
    trainable = TUNINGS["head"].trainable(net)
    assert deepest_cut(net, trainable, {"pooled", "sequence"}) == len(net.backbone.blocks.layers)

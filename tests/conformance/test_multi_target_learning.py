"""Several targets through the loop: a head that does not count leaves the other's weights as they are, in every tuning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from assembly import Assembly, assemble, fit, flat, prepared, rows_of, tiny_base

from regraft.modalities import MODALITIES
from regraft.models.backbones import Shapes
from regraft.models.net import Headed
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import build
from regraft.tasks import TASKS
from regraft.tuning import TUNINGS
from regraft.types import Ledger

NAME = "multi-target"


def put_together(task, raws, values, base_name="transformer"):
    base = tiny_base(base_name, layers=2)
    modality = base.modality({}, lambda: iter([raws]))
    backbone = base.backbone(modality, 0)
    return Assembly(task, modality, Headed(backbone, backbone.head(task, 0.1, 0)), raws, values)


def made(base_name="transformer", **options):
    """One network for two targets and one for the first of them alone, over the same rows."""
    cls = TASKS.get(NAME)
    signal, values = cls.example(48, 0)
    values = [{"band": value["band"] or "low", "height": value["height"] or 0.0} for value in values]
    both = cls(build(cls.Options, {**cls.example_options, **options}))
    both.learn(values, Ledger())
    alone = type(both.parts[0].task)(both.parts[0].task.options)
    bands = [value["band"] for value in values]
    alone.learn(bands, Ledger())
    raws = MODALITIES.get(tiny_base(base_name).modality_name).example(signal, 0)
    return put_together(both, raws, values, base_name), put_together(alone, raws, bands, base_name)


@pytest.mark.parametrize("tuning", TUNINGS.names())
def test_a_head_of_weight_0_changes_no_bit_of_the_others(tuning):
    two, one = made(weights={"height": 0.0})
    for each in (two, one):
        fit(each, tuning=tuning, steps=6, clip_norm=None)  # zeros more would move the last bit of a norm
    ours = {name.replace("head.heads.0.", "head."): value for name, value in two.net.state_dict().items()}
    for name, value in one.net.state_dict().items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("weighting", ["static", "uncertainty", "gradnorm"])
def test_both_heads_learn_at_once(weighting):
    two, _ = made("mlp", weighting=weighting)
    before = flat(two.net.head)
    events = fit(two, steps=40)
    losses = [event.loss for event in events if hasattr(event, "loss")]
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(before, flat(two.net.head))
    weights = two.net.head.log_variances_K
    assert (weights is not None) == (weighting == "uncertainty")
    assert weights is None or (weights.detach().abs() > 1e-3).all()


def test_micro_batches_make_the_same_update_where_rows_lack_targets():
    found = []
    for micro in (32, 5):
        two = assemble(NAME)  # its example lacks some targets
        fit(two, steps=4, micro_batch_size=micro)
        found.append(flat(two.net))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_backbone_runs_once_for_all_heads():
    two, _ = made()
    calls: list[int] = []
    two.net.backbone.register_forward_hook(lambda *_: calls.append(1))
    objective = Supervised(SupervisedOptions()).attach(two.rows, two.task.targets(two.values), two.task)
    (batch,) = next(objective.batches(0, 16, 16, np.random.default_rng(0)))
    loss, _ = objective.loss(two.net, batch)
    loss.total.backward()
    assert len(calls) == 1
    assert all(head.linear.weight.grad.any() for head in two.net.head.heads)
    output = two.outputs(two.raws[:9])
    assert len(calls) == 2
    assert [set(answer.value) for answer in two.task.decode(output)] == [{"band", "height"}] * 9


def test_packed_rows_answer_as_padded_ones():
    two, _ = made()
    prepared(two, "full")
    rows = rows_of(two.modality, two.raws)
    batch = rows.batch(np.arange(12))
    two.net.eval()
    found = []
    for shapes in ("padded", "packed"):
        two.net.backbone.shapes = Shapes(shapes, two.modality.longest)
        with torch.no_grad():
            found.append(two.net(*two.net.tensors(batch)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)

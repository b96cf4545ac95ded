"""Adapters and the parts of training that look inside a network: the cut below what learns, dropout, rates, token tables."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from frozen_net import TUNINGS, Work, difference, frozen_net, number_rows, same
from tiny_net import Numbers

from regraft.modalities.encoded import EncodedRows
from regraft.models import transform
from regraft.models.backbones import Shapes
from regraft.models.dropout import fast_dropouts
from regraft.models.view import view
from regraft.training.compact import compacted
from regraft.training.freeze import learning
from regraft.training.frozen import deepest_cut
from regraft.training.optimizers import parameter_groups, peak_rates
from regraft.training.options import TrainOptions
from regraft.tuning.lora import Lora, LoraOptions
from regraft.tuning.parts import new_parameters


def adapted(layers=None, kind="bert", dropout=0.0, **options):
    net = frozen_net(kind, **options)
    tuning = Lora(LoraOptions(rank=2, layers=layers, dropout=dropout))
    rows = EncodedRows(Numbers(), [number_rows()[0]])
    tuning.prepare(net, iter([rows.batch(np.arange(4))]), 0)
    return net, tuning


@pytest.mark.parametrize(("layers", "cut"), [(None, 0), (3, 0), (2, 1), (1, 2)])
def test_the_cut_lies_below_the_first_adapted_layer(layers, cut):
    net, tuning = adapted(layers)
    assert deepest_cut(net, tuning.trainable(net), {"pooled"}) == cut


@pytest.mark.parametrize("shapes", ["packed", "padded", "fixed"])
def test_trained_above_a_cut_it_learns_what_it_learns_on_the_whole_and_nothing_else_moves(tmp_path, monkeypatch, shapes):
    net, tuning = adapted(2, shapes=Shapes(shapes, 16 if shapes == "fixed" else None))
    monkeypatch.setitem(TUNINGS, "lora", tuning)
    before = copy.deepcopy(net.state_dict())
    work = Work(tmp_path, "lora", steps=12)
    whole = work.run(net, enabled=False)
    assert not work.files()
    cold, warm = work.run(net), work.run(net)
    assert "54 of 54 rows" in work.notes[-1], "the second time everything is there"
    assert same(cold, warm)
    assert difference(whole, cold) <= 1e-6
    moved = {name for name, value in cold.items() if not torch.equal(value, before[name])}
    learnt = tuning.trainable(net)
    assert moved <= learnt
    assert {name for name in moved if "lora_B" in name} == {name for name in learnt if "lora_B" in name}
    assert torch.equal(
        cold["backbone.body.encoder.layer.2.output.dense.weight"], before["backbone.body.encoder.layer.2.output.dense.weight"]
    )


def test_with_adapters_in_the_lowest_layer_nothing_is_kept(tmp_path, monkeypatch):
    net, tuning = adapted()
    monkeypatch.setitem(TUNINGS, "lora", tuning)
    work = Work(tmp_path, "lora", steps=2)
    work.run(net)
    assert not work.files()


def test_dropout_drops_what_enters_an_adapter_while_it_learns_and_only_then():
    net, tuning = adapted(1, dropout=0.5)
    with torch.no_grad():
        for name in transform.added_names(net):
            net.get_parameter(name).normal_(generator=torch.Generator().manual_seed(0))
    rows = EncodedRows(Numbers(), [number_rows()[0]])
    given = net.tensors(rows.batch(np.arange(6)))
    fast = view(net, fast_dropouts(net))
    for trained in (net, fast):
        trained.eval()
        with torch.no_grad():
            assert torch.equal(trained(*given), trained(*given))
            with learning(trained, tuning.trainable(trained)):
                torch.manual_seed(1)
                first = trained(*given)
                assert not torch.equal(first, trained(*given))
                torch.manual_seed(1)
                assert torch.equal(trained(*given), first)
    layer = net.backbone.body.encoder.layer[2].output.dense
    layer.requires_grad_(False)
    x = torch.ones(400, 24)
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    layer.train()
    torch.manual_seed(0)
    mean = (layer(x) - plain).mean(dim=0)  # dropout keeps the mean of what an adapter adds
    layer.eval()
    expected = (layer(x) - plain)[0]
    assert float((mean - expected).abs().max()) < 0.15 * float(expected.abs().max())


def test_adapters_have_a_rate_of_their_own_and_decay():
    net, tuning = adapted()
    names, new = tuning.trainable(net), new_parameters(net)
    assert names == new
    only_new = names <= new - transform.added_names(net)
    for options, adapters, head in (({}, 1e-3, 1e-3), ({"learning_rate": 0.02}, 0.02, 1e-3)):
        rates = peak_rates(TrainOptions(**options), pretrained=True, only_new=only_new)
        groups = parameter_groups(net, names, new, rates, 0.1)
        found = {(group["peak"], group["weight_decay"]): len(group["params"]) for group in groups}
        both = {(adapters, 0.1): 36} if adapters != head else {}
        if both:
            assert found == {**both, (head, 0.1): 1, (head, 0.0): 1}
        else:
            assert [len(group["params"]) for group in groups] == [36, 1, 1]
            assert {group["peak"] for group in groups} == {1e-3}


def test_the_token_table_stays_as_it_is():
    net, tuning = adapted()
    with compacted(net, tuning.trainable(net), lambda: pytest.fail("no row of the table learns")) as compact:
        assert compact.net is net

"""Compact tables against dense ones: the same final weights, the same answers, and nothing as large as the table."""

from __future__ import annotations

import copy
from types import MappingProxyType

import numpy as np
import pytest
import torch
import transformers
from tiny_net import Numbers, tiny_objective
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from regraft.errors import DataError
from regraft.modalities.encoded import EncodedRows
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.models.scratch_networks import CnnConfig, LstmConfig, MlpConfig
from regraft.options import build
from regraft.training.compact import CompactEmbedding, compacted, used_ids
from regraft.training.events import ValidEvent
from regraft.training.loop import Validation, train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions
from regraft.tuning.head import Head, HeadOptions

VOCABULARY = 150
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
SCRATCH = {"vocab_size": VOCABULARY, "hidden_size": 16}
SPECIALS = {"bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "bert": ("BertConfig", SIZES),
    "roberta": ("RobertaConfig", {**SIZES, "pad_token_id": 1}),
    "distilbert": ("DistilBertConfig", {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}),
    "modernbert": ("ModernBertConfig", {**SIZES, **SPECIALS, "cls_token_id": 1, "sep_token_id": 2}),
    "electra": ("ElectraConfig", {**SIZES, "embedding_size": 8}),
    "deberta-v2": ("DebertaV2Config", SIZES),
    "mpnet": ("MPNetConfig", {**SIZES, "pad_token_id": 1}),
    "albert": ("AlbertConfig", {**SIZES, "embedding_size": 8}),
    "t5": ("T5Config", T5),
    "gpt2": ("GPT2Config", {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, **SPECIALS}),
    "llama": ("LlamaConfig", {**SIZES, "num_key_value_heads": 2, **SPECIALS}),
    "regraft-lstm": (LstmConfig, SCRATCH),
    "regraft-cnn": (CnnConfig, SCRATCH),
    "regraft-mlp": (MlpConfig, SCRATCH),
}
FULL = Full(FullOptions())


def family_net(name: str = "bert") -> Headed:
    chosen, sizes = FAMILIES[name]
    config = (getattr(transformers, chosen) if isinstance(chosen, str) else chosen)(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        make = transformers.T5EncoderModel if name == "t5" else transformers.AutoModel.from_config
        model = make(config).eval()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        backbone = Backbone(Body(model, ARCHITECTURES[name]), PoolingChoice("mean", "for a test"))
        return Headed(backbone, LinearHead(backbone.width, 2, 0.1))


def options(steps: int, **values) -> TrainOptions:
    given = {"epochs": 100, "max_steps": steps, "batch_size": 8, "learning_rate": 5e-3, "weight_decay": 0.1, "clip_norm": 0.5}
    return build(TrainOptions, {**given, **values})


def learnable(net: Headed) -> set[str]:
    return {name for name, _ in net.named_parameters()}


def fit(net: Headed, steps: int, judging=None, **values) -> list:
    return list(train(net, tiny_objective(), FULL, options(steps, **values), validation=judging, seed=3))


def fit_compact(net: Headed, steps: int, **values) -> None:
    with compacted(net, learnable(net), lambda: used_ids(tiny_objective()._rows)) as compact:
        assert compact.net is not net
        fit(compact.net, steps, **values)


def same_weights(one: Headed, other: Headed) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.allclose(value, right[name], rtol=0, atol=1e-6), name


def table_of(net: Headed) -> torch.Tensor:
    return net.backbone.body.get_input_embeddings().weight.detach()


@pytest.mark.parametrize("name", ["bert", "regraft-mlp"])
def test_fifty_steps_end_where_dense_training_ends_and_unused_rows_are_the_bases(name):
    """With dropout, decay, clipping and a schedule; the fastest learner of all rows is the table."""
    dense, sparse = family_net(name), family_net(name)
    before = table_of(sparse).clone()
    fit(dense, 50)
    fit_compact(sparse, 50)
    same_weights(dense, sparse)
    used = used_ids(tiny_objective()._rows)
    unused = np.setdiff1d(np.arange(VOCABULARY), used)
    assert torch.equal(table_of(sparse)[unused], before[unused])
    assert torch.equal(table_of(dense)[unused], before[unused]), "embeddings do not decay"
    assert ((table_of(sparse) - before)[used[used > 0]].abs() > 1e-3).any(dim=1).all()
    assert torch.equal(table_of(sparse)[0], before[0]), "the padding row does not learn"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_the_same_with_a_compact_table(name):
    dense, sparse = family_net(name), family_net(name)
    trainable = learnable(sparse)
    fit(dense, 4)
    with compacted(sparse, trainable, used_ids(tiny_objective()._rows)) as compact:
        assert learnable(compact.net) == trainable
        assert sum(isinstance(module, CompactEmbedding) for module in compact.net.modules()) == 1
        fit(compact.net, 4)
    same_weights(dense, sparse)
    assert not any(isinstance(module, CompactEmbedding) for module in sparse.modules())


def judge(net: Headed) -> Validation:
    """Judge by tokens that training never sees, with scores that make the second validation the best."""
    script = iter([0.3, 0.9, 0.1, 0.2])
    ids, seen = torch.arange(VOCABULARY)[None, :30] + 100, []

    def run():
        with torch.inference_mode():
            seen.append(net({"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool)))
        return {"score": next(script)}

    run.seen = seen
    return Validation(run=run, metric="score", higher_is_better=True)


def test_validation_sees_rows_that_do_not_learn_and_the_best_weights_are_written_back():
    dense, sparse = family_net(), family_net()
    of_dense = judge(dense)
    events = fit(dense, 12, of_dense, validation={"every": 3})
    with compacted(sparse, learnable(sparse), used_ids(tiny_objective()._rows)) as compact:
        of_view = judge(compact.net)
        same = fit(compact.net, 12, of_view, validation={"every": 3})
    assert [e.best for e in same if isinstance(e, ValidEvent)] == [True, True, False, False]
    assert same[-1].best_step == events[-1].best_step == 6
    for left, right in zip(of_dense.run.seen, of_view.run.seen, strict=True):
        assert torch.allclose(left, right, atol=1e-5)
    same_weights(dense, sparse)


def test_in_evaluation_mode_the_view_answers_as_the_network_will():
    net = family_net()
    ids = torch.tensor([[3, 149, 5], [77, 3, 0]])
    with compacted(net, learnable(net), np.array([0, 3, 5])) as compact:
        with torch.no_grad():
            compact.net.backbone.body.get_input_embeddings().weight.add_(1.0)
        found = compact.net.eval()({"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool))
        known = compact.net({"input_ids": ids[:, [0, 2]]}, torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(found, net.eval()({"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool)))
    assert torch.equal(known, net({"input_ids": ids[:, [0, 2]]}, torch.ones(2, 2, dtype=torch.bool)))


def test_gradients_reach_the_rows_also_where_others_stand_beside_them():
    table = nn.Embedding(6, 2, padding_idx=4)
    compact = CompactEmbedding(table, torch.tensor([1, 4])).eval()
    compact(torch.tensor([1, 5, 4, 1])).sum().backward()
    assert compact.weight.grad.tolist() == [[2.0, 2.0], [0.0, 0.0]]
    assert table.weight.grad is None
    assert compact.padding_idx == 1
    assert CompactEmbedding(table, torch.tensor([1, 2])).padding_idx is None
    assert "of 6 rows" in repr(compact)


def test_a_token_that_does_not_learn_is_an_error_in_training_mode():
    net = family_net()
    with pytest.raises(DataError) as caught, compacted(net, learnable(net), np.arange(5)) as compact:
        fit(compact.net, 1)
    for part in (
        "a batch holds tokens whose rows of the embedding table do not learn",
        "got: ",
        "expected: only the 5 tokens that were named as in use",
        "name every token that training can meet",
    ):
        assert part in str(caught.value)
    compact = CompactEmbedding(nn.Embedding(40, 2), torch.tensor([0]))
    with pytest.raises(DataError, match="and 31 more"):
        compact(torch.arange(40))
    for wrong in (-1, 40):
        with pytest.raises(IndexError):
            compact.eval()(torch.tensor([0, wrong]))


class Largest(TorchDispatchMode):
    """Note the largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_nothing_in_training_is_as_large_as_the_table():
    """No gradient, no moment, no copy of the best weights: every result of every operation over three steps and a validation."""
    config = transformers.BertConfig(**{**SIZES, "vocab_size": 5000})
    backbone = Backbone(
        Body(transformers.BertModel(config, add_pooling_layer=False), ARCHITECTURES["bert"]), PoolingChoice("mean", "")
    )
    net = Headed(backbone, LinearHead(16, 2, 0.0))
    size = 5000 * 16
    with compacted(net, learnable(net), used_ids(tiny_objective()._rows)) as compact, Largest() as mode:
        fit(compact.net, 3, judge(compact.net), validation={"every": 2})
    assert mode.largest < size / 5
    with Largest() as mode:
        fit(net, 1)
    assert mode.largest >= size


@pytest.mark.parametrize("ending", ["error", "closed", "left early"])
def test_rows_are_written_back_however_it_ends(ending):
    net = family_net()
    before = table_of(net).clone()
    flags = [parameter.requires_grad for parameter in net.parameters()]

    def run():
        with compacted(net, learnable(net), used_ids(tiny_objective()._rows)) as compact:
            events = train(compact.net, tiny_objective(), FULL, options(9))
            for number, _ in enumerate(events):
                if number == 4:
                    if ending == "error":
                        raise KeyError("something else")
                    if ending == "closed":
                        events.close()
                    return compact.net.backbone.body.get_input_embeddings().weight.detach().clone()
        raise AssertionError

    if ending == "error":
        with pytest.raises(KeyError):
            run()
    else:
        learnt = run()
        assert torch.equal(table_of(net)[used_ids(tiny_objective()._rows)], learnt)
    assert not torch.equal(table_of(net), before)
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())


def never():
    raise AssertionError("ids were looked for without need")


def test_a_table_that_does_not_learn_is_left_alone():
    net = family_net()
    for trainable in (Head(HeadOptions()).trainable(net), set()):
        with compacted(net, trainable, never) as compact:
            assert (compact.net, compact.notes) == (net, ())


class Scaled(nn.Embedding):
    """A table of its own kind."""


def make_tied(net):
    net.head.linear = nn.Linear(16, VOCABULARY, bias=False)
    net.head.linear.weight = net.backbone.body.get_input_embeddings().weight


def swap(make):
    return lambda net: net.backbone.body.set_input_embeddings(make())


def listened(net):
    net.backbone.body.get_input_embeddings().register_forward_hook(lambda module, args, out: None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (swap(lambda: Scaled(VOCABULARY, 16)), "it is a Scaled, which may do more than look rows up"),
        (
            swap(lambda: nn.Embedding(VOCABULARY, 16, max_norm=1.0)),
            "it renormalises, weighs by frequency or has sparse gradients",
        ),
        (
            swap(lambda: nn.Embedding(VOCABULARY, 16, sparse=True)),
            "it renormalises, weighs by frequency or has sparse gradients",
        ),
        (
            swap(lambda: nn.Embedding(VOCABULARY, 16, scale_grad_by_freq=True)),
            "it renormalises, weighs by frequency or has sparse gradients",
        ),
        (listened, "something listens to it"),
        (make_tied, "another part of the network shares its weight"),
    ],
)
def test_what_cannot_be_made_compact_is_trained_whole_and_says_why(change, why):
    net = family_net()
    change(net)
    with compacted(net, learnable(net), never) as compact:
        assert compact.net is net
        path = "backbone.body.embeddings.word_embeddings"
        assert compact.notes == (f"the token table '{path}' is trained whole: {why}",)


def test_a_table_of_which_most_is_used_is_trained_whole():
    net = family_net()
    with compacted(net, learnable(net), np.arange(100)) as compact:
        assert compact.net is net
        (note,) = compact.notes
        assert note.endswith("is trained whole: training uses 100 of its 150 rows")
    with compacted(net, learnable(net), np.arange(60)[::-1].repeat(2)) as compact:
        assert compact.net is not net
        (note,) = compact.notes
        assert note.endswith("trains 60 of 150 rows: those that the training rows use")


@pytest.mark.parametrize("ids", [[0, 150], [-1, 3]])
def test_a_token_without_a_row_is_refused(ids):
    net = family_net()
    with pytest.raises(DataError) as caught, compacted(net, learnable(net), np.array(ids)):
        pass
    assert "a token has no row in the table of token vectors" in str(caught.value)
    assert f"got: ids from {ids[0]} to {ids[1]}" in str(caught.value)
    assert "expected: ids from 0 to 149" in str(caught.value)


class Silent(nn.Module):
    """A body of the hub that has no tokens."""

    def get_input_embeddings(self):
        raise NotImplementedError


@pytest.mark.parametrize("body", [Silent(), nn.Linear(2, 2), None])
def test_a_body_without_a_table_is_left_alone(body):
    net = family_net()
    net.backbone.body = body
    with compacted(net, learnable(net), never) as compact:
        assert compact.net is net


class Padded(Numbers):
    padding = MappingProxyType({"input_ids": 400})


def test_ids_in_use_are_those_of_the_rows_and_of_padding(monkeypatch):
    raws = [[5, 9], [9], [9, 300, 5, 5], [7]]
    monkeypatch.setattr("regraft.training.compact._SCANNED_ROWS", 3)
    assert used_ids(EncodedRows(Numbers(), [raws])).tolist() == [0, 5, 7, 9, 300]
    assert used_ids(EncodedRows(Padded(), [raws])).tolist() == [5, 7, 9, 300, 400]
    assert used_ids(EncodedRows(Numbers(), [])).tolist() == [0]


def test_the_network_can_be_copied_and_trained_again_afterwards():
    dense, sparse = family_net(), family_net()
    fit(dense, 5)
    fit_compact(sparse, 5)
    again = copy.deepcopy(sparse)
    fit(dense, 5)
    fit_compact(again, 5)
    same_weights(dense, again)

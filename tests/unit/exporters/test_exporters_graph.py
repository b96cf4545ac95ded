from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from export_making import LONGEST, SCRATCH, batch_of, make_rows, make_source
from transformers import AutoModel, ResNetConfig

from regraft.exporters import graph as graphs
from regraft.exporters.graph import answers_of, arrays_of, example_batch, graph_of, token_tables, trial_batches
from regraft.exporters.read_positions import smallest, without_unread_positions
from regraft.exporters.recurrence import plain
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice
from regraft.models.heads import LinearHead
from regraft.models.memory_layout import channels_last
from regraft.models.net import Headed

ROWS = [*make_rows(20, seed=3), "w1"]


def answers(graph, batch) -> np.ndarray:
    with torch.no_grad():
        return graph(*graph.arguments(batch)).numpy()


@pytest.mark.parametrize("name", SCRATCH)
@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
def test_a_graph_answers_as_its_source(name, pooling):
    source = make_source(name, pooling)
    graph = graph_of(source, plain)
    for batch in (batch_of(source, ROWS), *(batch for _, batch in trial_batches(source.modality))):
        np.testing.assert_allclose(answers(graph, batch), answers_of(source.network(), batch), atol=1e-5)


def test_a_graph_has_named_arguments_the_mask_last():
    graph = graph_of(make_source())
    assert list(inspect.signature(graph.forward).parameters) == ["input_ids", "token_type_ids", "attention_mask"]
    assert graph.names == ("input_ids", "token_type_ids", "attention_mask")
    batch = example_batch(make_source().modality)
    named = dict(zip(graph.names, graph.arguments(batch), strict=True))
    with torch.no_grad():
        assert torch.equal(graph(**named), graph(*graph.arguments(batch)))
        assert torch.equal(
            graph(named["input_ids"], attention_mask=named["attention_mask"], token_type_ids=named["token_type_ids"]),
            graph(**named),
        )


def test_a_graph_shares_every_weight_and_changes_nothing_of_its_source():
    source = make_source("lstm")
    net = source.network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kind, attention = net.backbone.shapes.kind, net.backbone.body.config._attn_implementation
    graph = graph_of(source, plain)
    assert {id(weight) for weight in graph.parameters()} == {id(weight) for weight in net.parameters()}
    assert net.backbone.shapes.kind == kind
    assert net.backbone.body.config._attn_implementation == attention
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert type(net.backbone.body.layers[0]).__name__ == "RecurrentLayer"


def test_the_table_of_tokens_is_known():
    source = make_source()
    graph = graph_of(source)
    assert token_tables(graph) == {"net.backbone.body.embeddings.word_embeddings.weight"}


def test_trial_batches_have_extreme_shapes_and_honest_masks():
    modality = make_source().modality
    found = dict(trial_batches(modality))
    assert list(found) == ["1 x 1", "1 x 2", "5 x 7", f"2 x {LONGEST}", f"1 x {LONGEST}"]
    for told, batch in found.items():
        assert f"{batch.size} x {batch.mask_BT.shape[1]}" == told
        assert (np.diff(batch.mask_BT.astype(int), axis=1) <= 0).all()
        assert batch.mask_BT.any(axis=1).all()
        assert (batch.inputs["input_ids"][~batch.mask_BT] == modality.pad_id).all()
        assert set(arrays_of(batch)) == {"input_ids", "token_type_ids", "attention_mask"}
        assert arrays_of(batch)["attention_mask"].dtype == np.int64


@pytest.mark.parametrize(("kind", "name"), [("lstm", "LSTM"), ("gru", "GRU")])
def test_recurrence_in_plain_steps_is_the_packed_one_row_by_row(kind, name):
    """Each row alone, without padding, through torch's own bidirectional layer."""
    layer = make_source(kind).network().backbone.body.layers[0]
    assert type(layer.recurrence).__name__ == name
    lengths = [9, 1, 4, 6]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    x = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(0)).masked_fill(~mask[..., None], 0.0)
    with torch.no_grad():
        made = plain(layer)(x, mask)
        for row, length in enumerate(lengths):
            alone = x[row : row + 1, :length]
            expected = alone + layer.recurrence(alone)[0]
            np.testing.assert_allclose(made[row : row + 1, :length].numpy(), expected.numpy(), atol=1e-6)
        assert (made[~mask] == 0).all()


def captured(graph, batch):
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return torch.export.export(graph, graph.arguments(batch), dynamic_shapes=dict.fromkeys(graph.names, free)).module()


def products(module) -> int:
    return sum("linear" in str(node.target) for node in module.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_only_positions_that_are_read_are_computed_in_the_last_layer(pooling):
    source = make_source("transformer", pooling)
    graph = graph_of(source)
    made = smallest(graph, graph.arguments(example_batch(source.modality)))
    assert made is not graph
    wide = []

    class Watch(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            result = super().call_function(target, args, kwargs)
            if "linear" in str(target):
                wide.append(tuple(result.shape))
            return result

    batch = batch_of(source, ROWS)
    with torch.no_grad():
        Watch(made).run(*graph.arguments(batch))
    rows, positions = batch.mask_BT.shape
    # Two layers of six matrix products: of the last only keys and values see every position; then the head.
    assert sorted(shape[1] for shape in wide if len(shape) == 3) == [1] * 4 + [positions] * 8
    assert wide[-1] == (rows, 3)
    for batch in (batch_of(source, ROWS), *(batch for _, batch in trial_batches(source.modality))):
        with torch.no_grad():
            got = made(*graph.arguments(batch)).numpy()
        np.testing.assert_allclose(got, answers_of(source.network(), batch), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_where_every_position_is_read_the_graph_stays(pooling):
    source = make_source("transformer", pooling)
    graph = graph_of(source)
    assert smallest(graph, graph.arguments(example_batch(source.modality))) is graph


def test_a_step_that_is_not_known_keeps_everything_before_it(monkeypatch):
    from regraft.exporters import read_positions

    source = make_source("transformer", "cls")
    graph = graph_of(source)
    module = captured(graph, example_batch(source.modality))
    monkeypatch.setattr(
        read_positions, "_RULES", {name: rule for name, rule in read_positions._RULES.items() if name != "softmax"}
    )
    made = without_unread_positions(module)
    batch = batch_of(source, ROWS)
    with torch.no_grad():
        np.testing.assert_allclose(made(*graph.arguments(batch)).numpy(), answers_of(source.network(), batch), atol=1e-5)
    monkeypatch.setattr(read_positions, "_RULES", {})
    assert without_unread_positions(module) is module


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_every_family_answers_alike_without_unread_positions(pooling):
    from tiny_families import FAMILIES

    less = []
    for name in FAMILIES:
        source = make_source(name, pooling)
        graph = graph_of(source)
        made = smallest(graph, graph.arguments(example_batch(source.modality)))
        less += [name] if made is not graph else []
        for batch in (batch_of(source, ROWS), *(batch for _, batch in trial_batches(source.modality))):
            with torch.no_grad():
                got = made(*graph.arguments(batch)).numpy()
            np.testing.assert_allclose(got, answers_of(source.network(), batch), atol=1e-5, err_msg=name)
    assert set(less) >= {"bert", "roberta", "distilbert", "electra", "llama", "qwen3"}


def test_the_module_of_graphs_names_the_mask_as_the_hub_does():
    assert (graphs.MASK, graphs.OUTPUT) == ("attention_mask", "logits")


def test_weights_that_lie_channels_last_become_copies_in_the_order_of_their_axes():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    body = Body(AutoModel.from_config(config).eval(), ARCHITECTURES["resnet"])
    backbone = Backbone(body, PoolingChoice("mean", "chosen by option"))
    channels_last(backbone)  # on every processor
    net = Headed(backbone, LinearHead(backbone.width, 3, 0.0, torch.Generator().manual_seed(0)))
    before = {name: (weight, weight.stride()) for name, weight in net.named_parameters()}
    twin = dict(graphs._padded(net).named_parameters())
    laid_out = {name for name, (weight, _) in before.items() if not weight.is_contiguous()}
    assert laid_out
    for name, (weight, stride) in before.items():
        assert weight.stride() == stride, "the source stays as it is"
        assert twin[name].is_contiguous()
        assert torch.equal(twin[name], weight)
        assert (twin[name] is weight) is (name not in laid_out)

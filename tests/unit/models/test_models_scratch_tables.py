"""Untrained networks for tables: each style, each way it can be cut, and its arithmetic against numpy and torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from regraft.errors import OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.series import Series, SeriesOptions, State
from regraft.modalities.table import Table
from regraft.models.cuts import HIDDEN, halves
from regraft.models.scratch_table_networks import STYLES, Categories, ColumnEmbeddings, ColumnLayer, TableConfig, Waves
from regraft.models.scratch_tables import ScratchTableOptions, TableBase
from regraft.options import build

STYLE = pytest.mark.parametrize("style", list(STYLES))
RNG = np.random.default_rng(0)
RAWS = Table.example(RNG.random((30, 2)), 0)
NUMBERS = [{"a": float(a), "b": float(b)} for a, b in RNG.random((30, 2))]
WORDS = [{"a": "xyz"[i % 3], "b": "uv"[i % 2]} for i in range(30)]


def made(style="mlp", seed=0, raws=RAWS, **options):
    base = TableBase("table", build(ScratchTableOptions, {"style": style, "width": 16, "layers": 2, "heads": 2, **options}))
    modality = base.modality({}, lambda: iter([raws]))
    return modality, base.backbone(modality, seed).eval()


def tensors(modality, raws):
    batch = EncodedRows(modality, [raws]).batch(np.arange(len(raws)))
    return {name: torch.from_numpy(array) for name, array in batch.inputs.items()}, torch.from_numpy(batch.mask_BT)


@STYLE
@pytest.mark.parametrize("numbers", ["linear", "periodic"])
@pytest.mark.parametrize("raws", [RAWS, NUMBERS, WORDS], ids=["all", "numbers", "words"])
def test_a_row_says_the_same_beside_any_others_and_when_it_is_cut(style, numbers, raws):
    modality, backbone = made(style, raws=raws, numbers=numbers)
    inputs, mask = tensors(modality, raws)
    with torch.no_grad():
        whole = backbone(inputs, mask)
        alone = backbone({name: values[3:4] for name, values in inputs.items()}, mask[3:4])
        torch.testing.assert_close(whole.pooled_BD[3:4], alone.pooled_BD)
        for cut in range(3):
            cutting = halves(backbone, cut)
            again = cutting.suffix({HIDDEN: cutting.prefix(inputs, mask)}, mask)
            assert torch.equal(again.pooled_BD, whole.pooled_BD)
    positions = 1 if style == "mlp" else 1 + len(modality.columns)
    assert whole.sequence_BTD.shape == (len(raws), positions, 16)
    assert torch.equal(whole.pooled_BD, whole.sequence_BTD[:, 0])


@STYLE
def test_every_column_and_every_kind_of_it_counts(style):
    modality, backbone = made(style)
    row = RAWS[0]
    others = {"number_1": 55.0, "word_0": "all", "day_1": "2024-11-30", "high_0": "no" if row["high_0"] == "yes" else "yes"}
    changed = [{**row, name: None if row[name] == value else value} for name, value in others.items()]
    inputs, mask = tensors(modality, [row, *changed, {**row, "number_1": None}])
    with torch.no_grad():
        pooled = backbone(inputs, mask).pooled_BD
    assert (torch.cdist(pooled[:1], pooled[1:]) > 1e-4).all()


@STYLE
def test_what_training_rows_never_showed_adds_nothing(style):
    modality, backbone = made(style, raws=WORDS)
    categories = backbone.body.embeddings.categories
    starts = [0, 5]
    assert modality.layout.sizes == (5, 4)
    for start in starts:
        assert (categories.weight[start : start + 2] == 0).all()
    assert (categories.weight.abs().sum(dim=1) > 0).sum() == 5


def test_waves_are_the_formula():
    config = TableConfig(frequencies=3, frequency_scale=0.7)
    torch.manual_seed(0)
    waves = Waves(2, 4, config)
    x = RNG.standard_normal((5, 2)).astype(np.float32)
    rates, weight, bias = (value.detach().numpy() for value in (waves.rates_VF, waves.weight_VFE, waves.bias_VE))
    expected = np.zeros((5, 2, 4))
    for v in range(2):
        angles = 2 * np.pi * x[:, v, None] * rates[v]
        expected[:, v] = np.maximum(0, np.concatenate([np.cos(angles), np.sin(angles)], 1) @ weight[v] + bias[v])
    np.testing.assert_allclose(waves(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-6)


def test_column_vectors_are_the_formula():
    config = TableConfig(number_widths=[1, 3], category_sizes=[4, 3], hidden_size=8)
    torch.manual_seed(0)
    made_of = ColumnEmbeddings(config)
    x, ids = torch.randn(2, 4), torch.tensor([[2, 4 + 2], [3, 4 + 0]])
    got = made_of(x, ids).detach()
    weight, table = made_of.numbers.weight_VE, made_of.categories.weight
    assert torch.equal(got[:, 0], made_of.whole_D.expand(2, -1))
    torch.testing.assert_close(got[:, 1], x[:, :1] * weight[0] + made_of.column_KD[0])
    torch.testing.assert_close(got[:, 2], x[:, 1:] @ weight[1:] + made_of.column_KD[1])
    torch.testing.assert_close(got[:, 3:], table[ids] + made_of.column_KD[2:])


def test_attention_between_columns_is_torchs():
    config = TableConfig(hidden_size=12, num_attention_heads=3, hidden_dropout_prob=0.0)
    torch.manual_seed(0)
    layer = ColumnLayer(config, 0).eval()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(layer.asked.weight)
        theirs.in_proj_bias.copy_(layer.asked.bias)
        theirs.out_proj.load_state_dict(layer.joined.state_dict())
        x = torch.randn(2, 5, 12)
        middle = x + theirs(x, x, x)[0]
        value, gate = layer.wide(layer.wide_norm(middle)).split(16, dim=2)
        expected = middle + layer.narrow(value * gate.clamp(min=0))
        torch.testing.assert_close(layer(x), expected)
    assert isinstance(layer.norm, nn.Identity)
    assert isinstance(ColumnLayer(config, 1).norm, nn.LayerNorm)


def test_categories_that_nobody_has_learn_nothing():
    torch.manual_seed(0)
    table = Categories((4, 3), 8)
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
    table(torch.tensor([[2, 6]])).sum().backward()
    optimizer.step()
    assert (table.weight[[0, 1, 4, 5]] == 0).all()


def test_heads_divide_the_width():
    base = TableBase("table", build(ScratchTableOptions, {"width": 16, "heads": 3}))
    with pytest.raises(OptionsError) as caught:
        base.fetch()
    text = str(caught.value)
    assert "the option 'heads' has a value it cannot take" in text
    assert "a divisor of the width 16" in text
    assert "change 'heads'" in text


def test_it_reads_tables_only():
    base = TableBase("table", ScratchTableOptions())
    with pytest.raises(TypeError, match="'table' reads table, not Series"):
        base.backbone(Series(SeriesOptions(), State(channels=1)), 0)

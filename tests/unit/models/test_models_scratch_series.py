"""Untrained networks for series: each style, each way it can be cut, and its arithmetic against torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regraft.errors import DataError, OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.series import Series
from regraft.models.architectures import width_of
from regraft.models.backbones import Backbone, Shapes
from regraft.models.cuts import HIDDEN, halves
from regraft.models.net import Headed
from regraft.models.scratch_series import ScratchSeriesOptions, SeriesBase
from regraft.models.scratch_series_inception import InceptionLayer, InceptionModule, StepNorm
from regraft.models.scratch_series_networks import STYLES, DilatedLayer, PatchLayer, PatchProjection, SeriesConfig
from regraft.options import build
from regraft.training.frozen import deepest_cut

STYLE = pytest.mark.parametrize("style", list(STYLES))
RNG = np.random.default_rng(0)
RAWS = [RNG.standard_normal((length, 2)).tolist() for length in (1, 2, 7, 8, 9, 16, 17, 30)]


def made(style="cnn", seed=0, **options):
    base = SeriesBase("series", build(ScratchSeriesOptions, {"style": style, "width": 16, "layers": 2, "heads": 2, **options}))
    modality = base.modality({"max_length": 64}, lambda: iter([RAWS]))
    return modality, base.backbone(modality, seed).eval()


def features(modality, backbone, raws=RAWS):
    batch = EncodedRows(modality, [raws]).batch(np.arange(len(raws)))
    with torch.no_grad():
        return backbone({k: torch.from_numpy(v) for k, v in batch.inputs.items()}, torch.from_numpy(batch.mask_BT))


@STYLE
@pytest.mark.parametrize("kind", ["packed", "fixed"])
def test_padding_changes_nothing(style, kind):
    modality, backbone = made(style)
    backbone.shapes = Shapes(kind, 64 if kind == "fixed" else None)
    together = features(modality, backbone)
    for row, raw in enumerate(RAWS):
        alone = features(modality, backbone, [raw])
        assert torch.allclose(alone.pooled_BD[0], together.pooled_BD[row], atol=1e-5)
        assert torch.allclose(alone.sequence_BTD[0], together.sequence_BTD[row, : len(raw)], atol=1e-5)


@STYLE
def test_what_stands_in_the_padding_is_not_looked_at(style):
    modality, backbone = made(style)
    values, mask = torch.randn(2, 20, 2), torch.arange(20) < torch.tensor([[20], [5]])
    with torch.no_grad():
        one, two = (
            backbone({"values": torch.where(mask[..., None], values, rubbish)}, mask).pooled_BD for rubbish in (0.0, 1e4)
        )
    assert torch.equal(one, two)


@STYLE
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_two_halves_are_the_whole(style, cut):
    modality, backbone = made(style)
    batch = EncodedRows(modality, [RAWS]).batch(np.arange(len(RAWS)))
    inputs, mask = {"values": torch.from_numpy(batch.inputs["values"])}, torch.from_numpy(batch.mask_BT)
    parts = halves(backbone, cut)
    with torch.no_grad():
        hidden = parts.prefix(inputs, mask)
        assert torch.equal(parts.suffix({HIDDEN: hidden}, mask).pooled_BD, backbone(inputs, mask).pooled_BD)
    above = {id(weight) for path in backbone.blocks.layers[:cut] for weight in backbone.get_submodule(path).parameters()}
    assert not above & {id(weight) for weight in parts.suffix.parameters()}


@STYLE
def test_weights_come_from_the_seed_and_go_through_a_folder(style, tmp_path):
    modality, backbone = made(style)
    backbone.save(tmp_path)
    again = Backbone.load(tmp_path, backbone.spec()).eval()
    assert torch.equal(features(modality, backbone).pooled_BD, features(modality, again).pooled_BD)
    assert torch.equal(features(modality, backbone).pooled_BD, features(*made(style)).pooled_BD)
    assert not torch.equal(features(modality, backbone).pooled_BD, features(*made(style, seed=1)).pooled_BD)
    assert width_of(backbone.body.config) == backbone.width == 16


@STYLE
def test_where_it_can_be_frozen(style):
    _, backbone = made(style)
    net = Headed(backbone, nn.Linear(16, 2))
    names = {name for name, _ in net.named_parameters()}
    assert deepest_cut(net, names, {"pooled"}) is None
    assert deepest_cut(net, {name for name in names if ".layers.1." in name or name.startswith("head.")}, {"pooled"}) == 1
    assert deepest_cut(net, {"head.weight"}, {"pooled"}) == 3


def test_the_patch_layer_is_torchs_own_layer():
    config = SeriesConfig(hidden_size=16, num_attention_heads=4, patch_size=1, hidden_dropout_prob=0.0)
    ours = PatchLayer(config).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 64, 0.0, activation="gelu", batch_first=True, norm_first=True).eval()
    pairs = [(theirs.self_attn.out_proj, ours.joined), (theirs.linear1, ours.wide), (theirs.linear2, ours.narrow)]
    pairs += [(theirs.norm1, ours.norm), (theirs.norm2, ours.wide_norm)]
    with torch.no_grad():
        for left, right in pairs:
            left.load_state_dict(right.state_dict())
        theirs.self_attn.in_proj_weight.copy_(ours.asked.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.asked.bias)
        x, mask = torch.randn(3, 9, 16), torch.arange(9) < torch.tensor([[9], [4], [1]])
        expected = theirs(x, src_key_padding_mask=~mask)
        assert torch.allclose(ours(x, mask)[mask], expected[mask], atol=1e-5)


def test_a_patch_is_its_steps_end_to_end():
    config = SeriesConfig(num_channels=2, hidden_size=8, patch_size=3, num_patches=4, hidden_dropout_prob=0.0)
    projection = PatchProjection(config)
    values = torch.randn(1, 7, 2)
    with torch.no_grad():
        found = projection(values)
        last = torch.cat([values[0, 6], torch.zeros(4)]) @ projection.projection.weight.T + projection.projection.bias
        first = values[0, :3].flatten() @ projection.projection.weight.T + projection.projection.bias
    assert torch.allclose(found[0, :3], (first + projection.table[0]).expand(3, -1), atol=1e-6)
    assert torch.allclose(found[0, 6], last + projection.table[2], atol=1e-6)


def test_what_a_step_sees_doubles_from_layer_to_layer():
    config = SeriesConfig(hidden_size=8, kernel_size=3, hidden_dropout_prob=0.0)
    for place, reach in ((0, 2), (1, 4), (2, 8)):
        x = torch.randn(1, 41, 8, requires_grad=True)
        DilatedLayer(config, place)(x, torch.ones(1, 41, dtype=torch.bool))[0, 20].sum().backward()
        seen = torch.nonzero(x.grad[0].abs().sum(dim=1)).flatten()
        assert (int(seen.min()), int(seen.max())) == (20 - reach, 20 + reach)


def test_a_norm_over_steps_is_torchs_own_over_the_real_ones():
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    x = torch.randn(3, 9, 5).masked_fill(~mask[..., None], 0.0)
    ours, theirs = StepNorm(5), nn.BatchNorm1d(5)
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 5))
            norm.bias.copy_(torch.linspace(-1, 1, 5))
    given = [x.clone().requires_grad_() for _ in range(2)]
    aim = torch.randn(3, 9, 5)
    for _ in range(3):
        found = ours(given[0].transpose(1, 2), ~mask.unsqueeze(1)).transpose(1, 2)
        expected = theirs(given[1][mask])
        assert torch.allclose(found[mask], expected, atol=1e-6)
        (found * aim)[mask].sum().backward()
        (expected * aim[mask]).sum().backward()
    assert torch.allclose(given[0].grad[mask], given[1].grad[mask], atol=1e-5)
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, atol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6), name
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x.transpose(1, 2), ~mask.unsqueeze(1)).transpose(1, 2)[mask], theirs(x[mask]), atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_a_module_is_the_papers(training):
    """Rows of one length, by torch's own layers."""
    module = InceptionModule(16, 9).train(training)
    x = torch.randn(3, 16, 20)
    norm = nn.BatchNorm1d(16).train(training)
    with torch.no_grad():
        narrow = F.conv1d(x, module.bottleneck.weight)
        parts = [F.conv1d(narrow, window.weight, padding="same") for window in module.windows]
        parts.append(F.conv1d(nn.MaxPool1d(3, 1, 1)(x), module.highest.weight))
        found = module(x, torch.zeros(3, 1, 20, dtype=torch.bool))
        assert torch.allclose(found, norm(torch.cat(parts, dim=1)), atol=1e-5)
    assert [window.kernel_size[0] for window in module.windows] == [9, 5, 3]
    assert [window.kernel_size[0] for window in InceptionModule(16, 39).windows] == [39, 19, 9]


def test_a_layer_of_modules_has_a_shortcut():
    layer = InceptionLayer(SeriesConfig(hidden_size=8, kernel_size=3, hidden_dropout_prob=0.0)).eval()
    x, mask = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        for window in (*layer.turns[-1].windows, layer.turns[-1].highest):
            window.weight.zero_()
        expected = F.relu(nn.BatchNorm1d(8).eval()(layer.shortcut(x.transpose(1, 2)))).transpose(1, 2)
        assert torch.allclose(layer(x, mask), expected, atol=1e-6)


def test_a_style_says_how_wide_its_windows_are():
    assert made("cnn")[1].body.config.kernel_size == 7
    assert made("inception")[1].body.config.kernel_size == 39
    assert made("inception", kernel=5)[1].body.config.kernel_size == 5


def test_an_mlp_knows_the_order_of_steps():
    modality, backbone = made("mlp")
    there, back = features(modality, backbone, [RAWS[-1], RAWS[-1][::-1]]).pooled_BD
    assert not torch.allclose(there, back, atol=1e-4)


def test_gaps_in_the_training_rows_give_the_network_a_mask():
    base = SeriesBase("series", build(ScratchSeriesOptions, {"width": 8, "heads": 1, "layers": 1}))
    modality = base.modality({}, lambda: iter([[[1.0, None, 2.0], [3.0, 1.0]]]))
    assert isinstance(modality, Series)
    assert base.config(modality)["num_channels"] == modality.channels == 2
    assert features(modality, base.backbone(modality, 0), [[1.0, None]]).pooled_BD.shape == (1, 8)


def test_options_that_do_not_go_together_are_refused_at_once():
    base = SeriesBase("series", build(ScratchSeriesOptions, {"kernel": 4, "heads": 3}))
    with pytest.raises(OptionsError) as caught:
        base.fetch()
    assert len(caught.value.problems) == 2
    assert "an odd number" in str(caught.value)
    assert "a divisor of the width 64" in str(caught.value)
    with pytest.raises(DataError, match="there is no series to learn from"):
        base.modality({}, lambda: iter([]))

"""PatchTST and PatchTSMixer out of a folder of the hub: the vectors of AutoModel, windows, cuts, the way through a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel

from regraft.errors import OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.models.backbones import Backbone
from regraft.models.cuts import HIDDEN, halves
from regraft.models.hub import HubBase, HubOptions

SIZES = {"num_input_channels": 2, "context_length": 24, "patch_length": 6, "patch_stride": 4, "d_model": 16, "dropout": 0.0}
CONFIGS = {
    "patchtst": transformers.PatchTSTConfig(**SIZES, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, scaling="std"),
    "patchtst-mean": transformers.PatchTSTConfig(
        **SIZES, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, scaling="mean"
    ),
    "patchtsmixer": transformers.PatchTSMixerConfig(**SIZES, num_layers=2, scaling="std", mode="mix_channel"),
}
FAMILY = pytest.mark.parametrize("name", list(CONFIGS))
RNG = np.random.default_rng(0)
RAWS = [RNG.normal(5, 2, (length, 2)).tolist() for length in (24, 1, 30, 10)] + [
    [[1.0, None], None, [3.0, 2.0]],
    [[1.0, None]] * 9,
]


def folder_of(name, path, **more):
    torch.manual_seed(0)
    config = type(CONFIGS[name]).from_dict({**CONFIGS[name].to_dict(), **more})
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    model.eval().save_pretrained(path)
    return model


def opened(path, **options):
    base = HubBase("hub", HubOptions(source=str(path)))
    assert base.reads == "series"
    modality = base.modality(options, lambda: iter(()))
    return modality, base.backbone(modality, 0).eval()


def tensors(modality, raws):
    batch = EncodedRows(modality, [raws]).batch(np.arange(len(raws)))
    return {name: torch.from_numpy(array) for name, array in batch.inputs.items()}, torch.from_numpy(batch.mask_BT)


def by_hand(raw):
    """Return a row as the hub takes it: the last 24 steps, zeros before them, and what was measured."""
    values = np.array([[np.nan, np.nan] if step is None else step for step in raw], dtype=float)[-24:]
    numbers = np.array(
        [np.interp(np.arange(len(c)), np.flatnonzero(c == c), c[c == c]) if (c == c).any() else c * 0 for c in values.T]
    ).T
    before = ((24 - len(values), 0), (0, 0))
    return np.pad(np.nan_to_num(numbers), before), np.pad(values == values, before)


@FAMILY
def test_features_are_those_of_auto_model(name, tmp_path):
    model = folder_of(name, tmp_path)
    modality, backbone = opened(tmp_path)
    rows = RAWS[:5]  # what a channel without any number is scaled by depends on other rows in the hub's own
    pairs = [by_hand(raw) for raw in rows]
    numbers, measured = (torch.tensor(np.stack(part), dtype=torch.float32) for part in zip(*pairs, strict=True))
    mask_name = "observed_mask" if "mixer" in name else "past_observed_mask"
    with torch.no_grad():
        expected = model(numbers, **{mask_name: measured}).last_hidden_state.flatten(1, 2)
        found = backbone(*tensors(modality, rows))
    assert torch.allclose(found.sequence_BTD, expected, atol=1e-6)
    assert torch.allclose(found.pooled_BD, expected.mean(dim=1), atol=1e-6)
    assert found.mask_BT.all()
    assert found.mask_BT.shape == expected.shape[:2]


@FAMILY
def test_a_row_does_not_depend_on_its_batch(name, tmp_path):
    folder_of(name, tmp_path)
    modality, backbone = opened(tmp_path)
    with torch.no_grad():
        together = backbone(*tensors(modality, RAWS)).pooled_BD
        for row, raw in enumerate(RAWS):
            assert torch.allclose(backbone(*tensors(modality, [raw])).pooled_BD[0], together[row], atol=1e-5)


@FAMILY
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_two_halves_are_the_whole(name, cut, tmp_path):
    folder_of(name, tmp_path)
    modality, backbone = opened(tmp_path)
    inputs, mask = tensors(modality, RAWS)
    parts = halves(backbone, cut)
    with torch.no_grad():
        hidden = parts.prefix(inputs, mask)
        assert torch.equal(parts.suffix({HIDDEN: hidden}, mask).pooled_BD, backbone(inputs, mask).pooled_BD)


@FAMILY
def test_what_is_saved_is_an_ordinary_folder(name, tmp_path):
    model = folder_of(name, tmp_path / "one")
    modality, backbone = opened(tmp_path / "one")
    (tmp_path / "two").mkdir()
    backbone.save(tmp_path / "two")
    again = AutoModel.from_pretrained(tmp_path / "two")
    assert type(again) is type(model)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["architectures"] == [type(model).__name__]
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    loaded = Backbone.load(tmp_path / "two", backbone.spec()).eval()
    with torch.no_grad():
        assert torch.equal(loaded(*tensors(modality, RAWS)).pooled_BD, backbone(*tensors(modality, RAWS)).pooled_BD)


def test_a_pretraining_that_hid_patches_hides_none_here(tmp_path):
    folder_of("patchtst", tmp_path, do_mask_input=True)
    modality, backbone = opened(tmp_path)
    with torch.no_grad():
        one, two = (backbone(*tensors(modality, RAWS)).pooled_BD for _ in range(2))
    assert torch.equal(one, two)


def test_what_a_window_cannot_do_is_refused(tmp_path):
    folder_of("patchtst", tmp_path)
    with pytest.raises(OptionsError) as caught:
        opened(tmp_path, mask=False, scaling="train")
    assert "modality.mask" in str(caught.value)
    assert "modality.scaling" in str(caught.value)
    modality, _ = opened(tmp_path)
    assert modality.problem([1.0, 2.0]) == "a series of 2 channels is expected, got 1 channel"
    assert modality.encode([RAWS[2]])[0].dropped == 6

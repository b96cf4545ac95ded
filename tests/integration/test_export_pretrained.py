"""Networks of the hub for pictures, sound and series, and the real bases, exported: the gate passes for each, or it says why not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModel

import regraft as rg
from regraft.errors import BaseError
from regraft.modalities.pictures import png
from regraft.modalities.recordings import wav_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning"),
    # The hub's WavLM gives torch two masks of different types.
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning"),
]

FORMATS = dict.fromkeys(("resnet", "wav2vec2", "patchtst"), ("onnx", "openvino", "torch"))
"""Where it is not only the graph that both runtimes compute: the other formats go through the same capture."""
SIDE, RATE, STEPS = 32, 16_000, 24
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PATCHES = {**TRANSFORMER, "image_size": SIDE, "patch_size": 8}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": SIDE}
EFFICIENT = {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640, "image_size": SIDE, "num_hidden_layers": 4}
WINDOWS = {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": SIDE}
PICTURES: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT,
    "vit": PATCHES,
    "deit": PATCHES,
    "dinov2": {**TRANSFORMER, "image_size": SIDE, "patch_size": 8, "mlp_ratio": 2},
    "beit": PATCHES,
    "swin": WINDOWS,
    "efficientnet": EFFICIENT,
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": SIDE},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": SIDE},
    "clip_vision_model": PATCHES,
    "siglip_vision_model": PATCHES,
}
CONVOLUTIONS = {"conv_dim": [8, 8, 8], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3}
WAVES = {**TRANSFORMER, **CONVOLUTIONS, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
SOUND: dict[str, dict[str, Any]] = {
    "wav2vec2": WAVES,
    "hubert": WAVES,
    "wavlm": WAVES,
    "audio-spectrogram-transformer": {**TRANSFORMER, "max_length": 32, "num_mel_bins": 16, "patch_size": 8}
    | {"frequency_stride": 8, "time_stride": 8},
}
PATCHED = {"num_input_channels": 1, "context_length": STEPS, "patch_length": 6, "patch_stride": 6, "d_model": 16}
SERIES: dict[str, dict[str, Any]] = {
    "patchtst": {**PATCHED, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32, "scaling": "std"},
    "patchtsmixer": {**PATCHED, "num_layers": 2, "scaling": "std"},
}
RNG = np.random.default_rng(0)


def pictures(rows: int) -> list[Any]:
    made = [Image.fromarray(RNG.integers(0, 256, (40, 36, 3)).astype(np.uint8)) for _ in range(rows)]
    return [base64.b64encode(png(picture)).decode() for picture in made]


def sounds(rows: int) -> list[Any]:
    made = [0.3 * RNG.standard_normal(int(RNG.integers(600, 2400))) for _ in range(rows)]
    return [base64.b64encode(wav_bytes(samples, RATE)).decode() for samples in made]


def series(rows: int) -> list[Any]:
    return [RNG.normal(3.0, 2.0, int(RNG.integers(6, 2 * STEPS))).tolist() for _ in range(rows)]


def texts(rows: int) -> list[Any]:
    words = ["the", "free", "prize", "kernel", "patch", "meeting", "lunch", "invoice", "claim", "now"]
    return [" ".join(RNG.choice(words, int(RNG.integers(1, 30)))) for _ in range(rows)]


MADE = {"image": pictures, "audio": sounds, "series": series, "text": texts}
TINY = [("image", name) for name in PICTURES] + [("audio", name) for name in SOUND] + [("series", name) for name in SERIES]
REAL = {"minilm": "text", "efficientnet-lite0": "image", "whisper-tiny-en": "audio", "ge2e": "audio"}


def folder_of(column: str, name: str, folder: Path) -> Path:
    """Save a tiny random network of the hub with what prepares its rows."""
    torch.manual_seed(0)
    sizes = {"image": PICTURES, "audio": SOUND, "series": SERIES}[column][name]
    model = AutoModel.from_config(AutoConfig.for_model(name, **sizes)).eval()
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.1 * torch.randn_like(tensor) + ("var" in key or ("norm" in key and "weight" in key)))
                tensor.abs_() if "var" in key else None
    model.save_pretrained(folder)
    if column == "image":
        square = {"height": SIDE, "width": SIDE}
        transformers.ViTImageProcessorPil(size=square).save_pretrained(folder)
    elif name in {"wav2vec2", "hubert", "wavlm"}:
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    elif column == "audio":
        transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=32).save_pretrained(folder)
    return folder


def exported_alike(column: str, base: dict[str, Any], formats: tuple[str, ...], tmp_path: Path) -> None:
    """Fit a head for no time and export: the gate replays rows in a process without torch, and compares."""
    raws = MADE[column](40)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({column: raw, "label": "ab"[place % 2]}) + "\n" for place, raw in enumerate(raws)))
    artifact = rg.fit(
        rows,
        target="label",
        out=tmp_path / "model",
        base=base,
        tuning="head",
        train={"epochs": 1, "learning_rate": 1e-2},
        judge={"resamples": 100},
        machine={"threads": 1, "cache": {"disk_mb": 0}},
        **{column: column},
    )
    here = np.array([list(one.probabilities.values()) for one in rg.load(artifact, threads=1).predict(raws)])
    for name in formats:
        made = rg.export(artifact, format=name, out=tmp_path / name, rows=str(rows), machine={"threads": 1})
        assert made.manifest.export is not None
        assert all(runtime["rows"] >= len(raws) for runtime in made.manifest.export.gate["runtimes"].values())
        there = np.array([list(one.probabilities.values()) for one in rg.load(made, threads=1).predict(raws)])
        np.testing.assert_allclose(there, here, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("column", "name"), TINY, ids=[name for _, name in TINY])
def test_a_family_of_the_hub_passes_the_gate(column: str, name: str, tmp_path: Path):
    source = folder_of(column, name, tmp_path / "hub")
    exported_alike(column, {"name": "hub", "source": str(source)}, FORMATS.get(name, ("onnx",)), tmp_path)


def test_a_weighted_sum_over_layers_passes_the_gate(tmp_path: Path):
    base = {"name": "hub", "source": str(folder_of("audio", "wav2vec2", tmp_path / "hub")), "pooling": "layer-weighted"}
    exported_alike("audio", base, ("onnx",), tmp_path)


@pytest.mark.parametrize("name", REAL)
def test_a_real_base_passes_the_gate(name: str, tmp_path: Path):
    try:
        exported_alike(REAL[name], {"name": name}, ("onnx",), tmp_path)
    except BaseError as error:
        if "cannot be fetched" not in str(error):
            raise
        pytest.skip(f"the base {name} is not on this machine")

"""Tiny networks of every family with adapters beside their linear layers, and what else the tests of adapters share."""

from __future__ import annotations

import torch
import transformers
from packed_families import rows
from tiny_families import FAMILIES, tiny_model

from regraft.models import series_networks
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice, detach_unused
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.models.sound_networks import AstSound, HubertSound, Wav2Vec2Sound, WavLMSound, WhisperSound
from regraft.models.transform import added_names
from regraft.options import build
from regraft.tuning import TUNINGS
from regraft.tuning.lora import Lora, LoraOptions
from regraft.types import Batch

_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "image_size": 16,
    "patch_size": 4,
}
_WAVES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
_WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "num_mel_bins": 8,
    "max_source_positions": 10,
}
_AST = {
    **{key: _VIT[key] for key in list(_VIT)[:4]},
    "num_mel_bins": 16,
    "max_length": 32,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
}
_SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
_PATCHES = {"context_length": 32, "num_input_channels": 2, "patch_length": 8, "patch_stride": 8, "d_model": 16}
OTHERS = {
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**_VIT), add_pooling_layer=False),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**_VIT)),
    "swin": lambda: transformers.SwinModel(transformers.SwinConfig(**_SWIN), add_pooling_layer=False),
    "clip_vision_model": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**_VIT)),
    "wav2vec2": lambda: Wav2Vec2Sound(transformers.Wav2Vec2Config(**_WAVES)),
    "hubert": lambda: HubertSound(transformers.HubertConfig(**_WAVES)),
    "wavlm": lambda: WavLMSound(transformers.WavLMConfig(**_WAVES)),
    "whisper": lambda: WhisperSound(transformers.WhisperConfig(**_WHISPER)),
    "audio-spectrogram-transformer": lambda: AstSound(transformers.ASTConfig(**_AST)),
    "patchtst": lambda: series_networks.PatchTSTModel(
        transformers.PatchTSTConfig(num_hidden_layers=2, num_attention_heads=4, ffn_dim=24, **_PATCHES)
    ),
    "patchtsmixer": lambda: series_networks.PatchTSMixerModel(transformers.PatchTSMixerConfig(num_layers=2, **_PATCHES)),
}
EVERY = (*FAMILIES, *OTHERS)


def body_of(name):
    """Return a family's random hub model without what plays no part; biases and norms are not at their neutral start."""
    if name in FAMILIES:
        model = tiny_model(name)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = OTHERS[name]()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    detach_unused(model, keep=False)
    return model.eval()


def headed(name, classes=3):
    """Return a network of a family with a head."""
    body = body_of(name)
    pooling = "mean" if ARCHITECTURES[name].norm == "" else ARCHITECTURES[name].pooling
    backbone = Backbone(Body(body, ARCHITECTURES[name]), PoolingChoice(pooling, ""))
    head = LinearHead(backbone.width, classes, 0.0, torch.Generator().manual_seed(0))
    return Headed(backbone, head).eval()


def given(name, seed=0):
    """Return a few rows as a family takes them: inputs and mask."""
    architecture = ARCHITECTURES[name]
    if architecture.reads == "text":
        return rows([3, 7, 5, 12], seed)
    generator = torch.Generator().manual_seed(seed)
    if architecture.reads == "image":
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator)}, torch.ones(4, 1, dtype=torch.bool)
    if architecture.reads == "series":
        values = torch.cat([torch.randn(4, 32, 2, generator=generator), torch.ones(4, 32, 2)], dim=2)
        return {"values": values}, torch.ones(4, 1, dtype=torch.bool)
    if name in {"wav2vec2", "hubert", "wavlm"}:
        mask = torch.arange(200) < torch.tensor([[200], [90], [140], [31]])
        return {"input_values": torch.randn(mask.shape, generator=generator) * mask}, mask
    mask = torch.arange(20) < torch.tensor([[18], [20], [13], [17]])
    if name == "whisper":
        return {"input_features": torch.randn(4, 20, 8, generator=generator)}, mask
    return {"input_values": torch.randn(4, 20, 16, generator=generator)}, mask


def batch_of(inputs, mask):
    """Return the same rows as numpy."""
    return Batch(inputs={name: values.numpy() for name, values in inputs.items()}, mask_BT=mask.numpy())


def adapted(name, seed=0, filled=True, **options):
    """Return a network with adapters; filled, they are not at their neutral start."""
    net = headed(name)
    Lora(LoraOptions(**{"rank": 4, **options})).prepare(net, iter([batch_of(*given(name))]), seed)
    if filled:
        fill(net)
    return net


def fill(net, seed=1):
    """Give B numbers, as if it had learnt."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith("lora_B.weight"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def outputs(net, rows):
    """Return the answers of a network in evaluation mode."""
    net.eval()
    with torch.no_grad():
        return net(*rows)


def tuned(name, tuning, seed=0, filled=True, **options):
    """Return a network that a tuning with this name has prepared; filled, what it added is not at its neutral start."""
    cls = TUNINGS.get(tuning)
    net = headed(name)
    cls(build(cls.Options, options)).prepare(net, iter([batch_of(*given(name))]), seed)
    if filled:
        stir(net)
    return net


def stir(net, seed=1):
    """Move everything that a transform added and that can learn, as if it had learnt."""
    generator = torch.Generator().manual_seed(seed)
    added = added_names(net)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key in added:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

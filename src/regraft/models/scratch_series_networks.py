"""Untrained encoders of series of our own as an ordinary hub model: MLP, dilated convolutions, InceptionTime, LSTM, GRU,
transformer.

Importing this module registers them with the hub's `AutoConfig` and `AutoModel`, so that a saved folder is an ordinary one. In
each, padding changes nothing, and each gives one vector a step: those of the transformer, which looks at patches of steps, are
the vector of their patch.

Shapes: B rows, T steps, P patches, K channels, D width, H heads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from regraft.models.scratch_networks import BagLayer, RecurrentLayer
from regraft.models.scratch_series_inception import InceptionLayer

_LONGEST_WAVE = 10_000.0


class SeriesConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an untrained encoder of series, under the hub's own names where it has any."""

    model_type = "regraft-series"
    num_channels: int = 1
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    style: str = "cnn"
    kernel_size: int = 0  # as the style has it
    patch_size: int = 8
    num_patches: int = 256
    hidden_dropout_prob: float = 0.1


class Projection(nn.Module):
    """Each step by itself as a vector.

    Args:
        config: The sizes.
    """

    def __init__(self, config: SeriesConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.num_channels, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, values_BTK: torch.Tensor) -> torch.Tensor:
        """Return vectors (B, T, D)."""
        x_BTD: torch.Tensor = self.dropout(self.projection(values_BTK) + self.places(values_BTK))
        return x_BTD

    def places(self, values_BTK: torch.Tensor) -> torch.Tensor:
        """Return what is added for the place of a step: nothing."""
        return values_BTK.new_zeros(())


class PlacedProjection(Projection):
    """Each step with its place, as sines and cosines (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""

    def places(self, values_BTK: torch.Tensor) -> torch.Tensor:
        """Return sines and cosines (T, D)."""
        half = self.projection.out_features // 2
        steps_T1 = torch.arange(values_BTK.shape[1], device=values_BTK.device, dtype=torch.float32)[:, None]
        rates_1D = torch.exp(torch.arange(half, device=values_BTK.device) * (-math.log(_LONGEST_WAVE) / half))[None, :]
        angles_TD = steps_T1 * rates_1D
        return torch.cat([angles_TD.sin(), angles_TD.cos()], dim=1)


class PatchProjection(nn.Module):
    """Some steps together as one vector with a learnt place (Nie et al. 2022, arXiv:2211.14730, section 3.1, without overlap).

    Args:
        config: The sizes.
    """

    def __init__(self, config: SeriesConfig) -> None:
        super().__init__()
        self.size = config.patch_size
        self.projection = nn.Linear(config.patch_size * config.num_channels, config.hidden_size)
        self.table = nn.Parameter(torch.empty(config.num_patches, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        nn.init.normal_(self.table, std=0.02)

    def forward(self, values_BTK: torch.Tensor) -> torch.Tensor:
        """Return for every step the vector of its patch (B, T, D)."""
        steps = values_BTK.shape[1]
        patches = (steps + self.size - 1) // self.size
        filled = F.pad(values_BTK, (0, 0, 0, patches * self.size - steps))
        x_BPD = self.projection(filled.reshape(values_BTK.shape[0], patches, -1)) + self.table[:patches]
        return _each_step(self.dropout(x_BPD), self.size, steps)


class DilatedLayer(nn.Module):
    """Norm, two convolutions with gaps, residual: what a step sees doubles from layer to layer.

    The residual block of Bai et al. 2018 (arXiv:1803.01271, figure 1b), looking both ways, with a layer norm before it in the
    place of the weight norm.

    Args:
        config: The sizes.
        place: Number of the layer, from 0.
    """

    def __init__(self, config: SeriesConfig, place: int) -> None:
        super().__init__()
        width, kernel, gap = config.hidden_size, config.kernel_size, 2**place
        self.norm = nn.LayerNorm(width)
        self.first = nn.Conv1d(width, width, kernel, padding=gap * (kernel // 2), dilation=gap)
        self.second = nn.Conv1d(width, width, kernel, padding=gap * (kernel // 2), dilation=gap)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D); what is padding is zeros, as beyond the ends."""
        outside_B1T = ~mask_BT.unsqueeze(1)
        y_BDT = self.norm(x_BTD).transpose(1, 2).masked_fill(outside_B1T, 0.0)
        y_BDT = self.dropout(F.gelu(self.first(y_BDT))).masked_fill(outside_B1T, 0.0)
        y_BDT = self.dropout(F.gelu(self.second(y_BDT)))
        next_BTD: torch.Tensor = x_BTD + y_BDT.transpose(1, 2)
        return next_BTD


class PatchLayer(nn.Module):
    """Attention between patches and an MLP, norms first (Xiong et al. 2020, arXiv:2002.04745, figure 1b).

    Args:
        config: The sizes.
    """

    def __init__(self, config: SeriesConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.size = config.num_attention_heads, config.patch_size
        self.norm, self.wide_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D); a patch is real where its first step is."""
        x_BPD, mask_BP = x_BTD[:, :: self.size], mask_BT[:, :: self.size]
        x_BPD = x_BPD + self.dropout(self.joined(self._attended(self.norm(x_BPD), mask_BP)))
        x_BPD = x_BPD + self.dropout(self.narrow(F.gelu(self.wide(self.wide_norm(x_BPD)))))
        return _each_step(x_BPD, self.size, x_BTD.shape[1])

    def _attended(self, x_BPD: torch.Tensor, mask_BP: torch.Tensor) -> torch.Tensor:
        rows, patches, width = x_BPD.shape
        split = self.asked(x_BPD).view(rows, patches, 3, self.heads, width // self.heads)
        query, key, value = (part.squeeze(2).transpose(1, 2) for part in split.split(1, dim=2))
        scores_BHPP = (query @ key.transpose(2, 3)) * (width // self.heads) ** -0.5
        lowest = torch.finfo(scores_BHPP.dtype).min
        weights_BHPP = scores_BHPP.masked_fill(~mask_BP[:, None, None, :], lowest).softmax(dim=-1)
        found: torch.Tensor = (weights_BHPP @ value).transpose(1, 2).reshape(rows, patches, width)
        return found


def _each_step(x_BPD: torch.Tensor, size: int, steps: int) -> torch.Tensor:
    """Return for every step the vector of its patch (B, T, D)."""
    rows, patches, width = x_BPD.shape
    return x_BPD.unsqueeze(2).expand(-1, -1, size, -1).reshape(rows, patches * size, width)[:, :steps]


class Style(ABC):
    """How an encoder of series is built."""

    embeddings: type[nn.Module] = Projection
    final: type[nn.Module] = nn.LayerNorm
    kernel = 7
    """Steps that its convolutions cover where nothing is said."""

    @staticmethod
    @abstractmethod
    def layer(config: SeriesConfig, place: int) -> nn.Module:
        """Return one layer: vectors (B, T, D) and mask (B, T) to vectors (B, T, D)."""


class MlpStyle(Style):
    """An MLP on each step with its place, beside the mean of all of them."""

    embeddings = PlacedProjection

    @staticmethod
    def layer(config: SeriesConfig, place: int) -> nn.Module:
        """Return one layer."""
        return BagLayer(config)


class CnnStyle(Style):
    """Dilated convolutions."""

    @staticmethod
    def layer(config: SeriesConfig, place: int) -> nn.Module:
        """Return one layer."""
        return DilatedLayer(config, place)


class InceptionStyle(Style):
    """Windows of several widths beside each other. What leaves them is at least zero and pooled as it is."""

    final = nn.Identity
    kernel = 39  # the paper's 40, made odd

    @staticmethod
    def layer(config: SeriesConfig, place: int) -> nn.Module:
        """Return one layer."""
        return InceptionLayer(config)


class LstmStyle(Style):
    """Bidirectional LSTM layers."""

    @staticmethod
    def layer(config: SeriesConfig, place: int) -> nn.Module:
        """Return one layer."""
        return RecurrentLayer(config, nn.LSTM)


class GruStyle(Style):
    """Bidirectional GRU layers."""

    @staticmethod
    def layer(config: SeriesConfig, place: int) -> nn.Module:
        """Return one layer."""
        return RecurrentLayer(config, nn.GRU)


class TransformerStyle(Style):
    """Attention between patches."""

    embeddings = PatchProjection

    @staticmethod
    def layer(config: SeriesConfig, place: int) -> nn.Module:
        """Return one layer."""
        return PatchLayer(config)


STYLES: Mapping[str, type[Style]] = {
    "mlp": MlpStyle,
    "cnn": CnnStyle,
    "inception": InceptionStyle,
    "lstm": LstmStyle,
    "gru": GruStyle,
    "transformer": TransformerStyle,
}


class SeriesModel(PreTrainedModel):  # type: ignore[misc]
    """Steps as vectors, layers that take the mask, and a final norm.

    Args:
        config: The sizes.
    """

    config_class = SeriesConfig
    base_model_prefix = "model"
    main_input_name = "values"

    def __init__(self, config: SeriesConfig) -> None:
        super().__init__(config)
        style = STYLES[config.style]
        config.kernel_size = config.kernel_size or style.kernel
        self.embeddings = style.embeddings(config)
        self.layers = nn.ModuleList(style.layer(config, place) for place in range(config.num_hidden_layers))
        self.norm = style.final(config.hidden_size)
        self.post_init()

    def forward(
        self, values: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool = True, **_: Any
    ) -> Any:
        """Return one vector a step.

        Args:
            values: Series (B, T, K), padded on the right.
            attention_mask: 1 where a step is real (B, T); all are if not given.
            return_dict: Whether the answer is named.
        """
        mask_BT = values.new_ones(values.shape[:2]).bool() if attention_mask is None else attention_mask.bool()
        outside_BT1 = ~mask_BT.unsqueeze(-1)
        x_BTD = self.embeddings(values.masked_fill(outside_BT1, 0.0)).masked_fill(outside_BT1, 0.0)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT)
        x_BTD = self.norm(x_BTD)
        return BaseModelOutput(last_hidden_state=x_BTD) if return_dict else (x_BTD,)

    def stand_in(self, mask_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return inputs without meaning for rows with this mask."""
        shape = (*mask_BT.shape, int(self.config.num_channels))
        values = torch.arange(math.prod(shape), device=mask_BT.device, dtype=torch.float32).mul(0.7).sin().view(shape)
        return {"values": values.masked_fill(~mask_BT.unsqueeze(-1), 0.0)}

    def _init_weights(self, module: nn.Module) -> None:
        """Every module draws its own weights when it is made."""


AutoConfig.register(SeriesConfig.model_type, SeriesConfig, exist_ok=True)
AutoModel.register(SeriesConfig, SeriesModel, exist_ok=True)

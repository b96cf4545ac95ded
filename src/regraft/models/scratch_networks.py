"""Untrained encoders of our own as ordinary hub models: LSTM, GRU, 1-D convolutions, MLP over the bag of tokens.

Importing this module registers them with the hub's `AutoConfig` and `AutoModel`, so that a saved folder is an ordinary one. In
each, padding changes nothing: recurrences run over packed rows, convolutions and means see zeros where nothing is.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class ScratchConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an untrained encoder, under the hub's own names."""

    vocab_size: int = 8000
    hidden_size: int = 128
    num_hidden_layers: int = 1
    kernel_size: int = 5
    hidden_dropout_prob: float = 0.1
    pad_token_id: int | None = 0


class LstmConfig(ScratchConfig):
    """A bidirectional LSTM."""

    model_type = "regraft-lstm"


class GruConfig(ScratchConfig):
    """A bidirectional GRU."""

    model_type = "regraft-gru"


class CnnConfig(ScratchConfig):
    """Residual 1-D convolutions."""

    model_type = "regraft-cnn"


class MlpConfig(ScratchConfig):
    """An MLP over the bag of tokens."""

    model_type = "regraft-mlp"


class ScratchModel(PreTrainedModel, ABC):  # type: ignore[misc]
    """Embeddings, layers that take the mask, and a final norm.

    Args:
        config: The sizes.
    """

    base_model_prefix = "model"
    main_input_name = "input_ids"

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(self._layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool = True, **_: Any
    ) -> Any:
        """Return one vector a position.

        Args:
            input_ids: Tokens (B, T).
            attention_mask: 1 where a position is real; all are if not given.
            return_dict: Whether the answer is named.
        """
        mask_BT = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        x_BTD = self.dropout(self.embeddings(input_ids)).masked_fill(~mask_BT.unsqueeze(-1), 0.0)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT)
        x_BTD = self.norm(x_BTD)
        return BaseModelOutput(last_hidden_state=x_BTD) if return_dict else (x_BTD,)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token vectors."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the table of token vectors."""
        self.embeddings = value

    @staticmethod
    @abstractmethod
    def _layer(config: ScratchConfig) -> nn.Module:
        """Return one layer: vectors (B, T, D) and mask (B, T) to vectors (B, T, D)."""

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the embeddings small; every other module draws its own weights when it is made."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
            if module.padding_idx is not None:
                with torch.no_grad():
                    module.weight[module.padding_idx].zero_()


class RecurrentLayer(nn.Module):
    """One bidirectional recurrent layer with a residual connection, over packed rows: padding is never seen.

    Args:
        config: The sizes.
        kind: `nn.LSTM` or `nn.GRU`.
    """

    def __init__(self, config: ScratchConfig, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.recurrence = kind(config.hidden_size, config.hidden_size // 2, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D); rows are padded on the right."""
        lengths_B = mask_BT.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(x_BTD, lengths_B, batch_first=True, enforce_sorted=False)
        out_BTD, _ = pad_packed_sequence(self.recurrence(packed)[0], batch_first=True, total_length=x_BTD.shape[1])
        next_BTD: torch.Tensor = x_BTD + self.dropout(out_BTD)
        return next_BTD


class ConvolutionLayer(nn.Module):
    """Norm, convolution, GELU, residual; positions without a token are zeros, as beyond the ends.

    Args:
        config: The sizes.
    """

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.convolution = nn.Conv1d(
            config.hidden_size, config.hidden_size, config.kernel_size, padding=config.kernel_size // 2
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D)."""
        real_BTD = self.norm(x_BTD).masked_fill(~mask_BT.unsqueeze(-1), 0.0)
        out_BTD = self.convolution(real_BTD.transpose(1, 2)).transpose(1, 2)
        next_BTD: torch.Tensor = x_BTD + self.dropout(F.gelu(out_BTD))
        return next_BTD


class BagLayer(nn.Module):
    """An MLP on each token beside the mean of all of them; the order of tokens plays no part (Zaheer et al. 2017, eq. 4).

    Args:
        config: The sizes.
    """

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.wide = nn.Linear(2 * config.hidden_size, 2 * config.hidden_size)
        self.narrow = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D)."""
        real_BTD = self.norm(x_BTD).masked_fill(~mask_BT.unsqueeze(-1), 0.0)
        bag_B1D = real_BTD.sum(dim=1, keepdim=True) / mask_BT.sum(dim=1).clamp(min=1).view(-1, 1, 1)
        both_BTE = torch.cat([real_BTD, bag_B1D.expand_as(real_BTD)], dim=-1)
        next_BTD: torch.Tensor = x_BTD + self.dropout(self.narrow(F.gelu(self.wide(both_BTE))))
        return next_BTD


class LstmModel(ScratchModel):
    """A stack of bidirectional LSTM layers (Hochreiter and Schmidhuber 1997)."""

    config_class = LstmConfig

    @staticmethod
    def _layer(config: ScratchConfig) -> nn.Module:
        return RecurrentLayer(config, nn.LSTM)


class GruModel(ScratchModel):
    """A stack of bidirectional GRU layers (Cho et al. 2014, arXiv:1406.1078)."""

    config_class = GruConfig

    @staticmethod
    def _layer(config: ScratchConfig) -> nn.Module:
        return RecurrentLayer(config, nn.GRU)


class CnnModel(ScratchModel):
    """A stack of residual convolutions over positions."""

    config_class = CnnConfig

    @staticmethod
    def _layer(config: ScratchConfig) -> nn.Module:
        return ConvolutionLayer(config)


class MlpModel(ScratchModel):
    """A stack of MLPs over the bag of tokens."""

    config_class = MlpConfig

    @staticmethod
    def _layer(config: ScratchConfig) -> nn.Module:
        return BagLayer(config)


for _config, _model in ((LstmConfig, LstmModel), (GruConfig, GruModel), (CnnConfig, CnnModel), (MlpConfig, MlpModel)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)

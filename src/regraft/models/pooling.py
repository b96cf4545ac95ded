"""From one vector a position to one vector a row. A row without real positions gives zeros, never NaN.

Shapes: B rows, T positions, D width. The mask may leave out positions at either end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import nn

from regraft.models.architectures import width_of
from regraft.models.remade import masked


class Pooling(nn.Module, ABC):
    """Turn a sequence of vectors into one.

    Args:
        width: Width D of the vectors.
    """

    head_bias: bool = True
    """Whether the linear map over the pooled vector has a bias that learns; without, it stays zero."""
    over_layers: ClassVar[bool] = False
    """Whether its positions are the outputs of the embeddings and of all layers, each the mean over the real positions of a row
    (`regraft.models.layer_means`), and not the positions of the last one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @classmethod
    def for_body(cls, body: Any, unused: Mapping[str, torch.Tensor], seed: int = 0) -> Self:
        """Return the pooling for a body; most need to know nothing of it but its width.

        Args:
            body: The hub's model.
            unused: Weights that came with it and play no part in the vectors of positions (a pretrained pooler).
            seed: Draws new weights.
        """
        return cls(width_of(body.config))

    @abstractmethod
    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return one vector a row (B, D).

        Args:
            sequence_BTD: One vector a position.
            mask_BT: True where a position is real.
        """


class ClsPooling(Pooling):
    """The vector of the first real position, where BERT-like models are trained to gather the meaning of the whole."""

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the first real vector of each row (B, D)."""
        return _pick(sequence_BTD, mask_BT, mask_BT.to(torch.int64).argmax(dim=1))


class LastPooling(Pooling):
    """The vector of the last real position, the only one that has seen the whole text in a causal model."""

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the last real vector of each row (B, D)."""
        from_end_B = mask_BT.flip(1).to(torch.int64).argmax(dim=1)
        return _pick(sequence_BTD, mask_BT, mask_BT.shape[1] - 1 - from_end_B)


class MeanPooling(Pooling):
    """The mean over real positions (Reimers and Gurevych 2019, arXiv:1908.10084)."""

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the mean of the real vectors of each row (B, D)."""
        mask_BT1 = mask_BT.unsqueeze(-1)
        total_BD = masked(sequence_BTD, mask_BT1).sum(dim=1)
        return total_BD / mask_BT1.sum(dim=1).clamp(min=1).to(total_BD.dtype)


class AttentionPooling(Pooling):
    """A weighted mean whose weights are learnt: softmax(x q / sqrt(D)) over real positions (one query of Vaswani et al. 2017).

    The query starts at zero, where the weights are equal: training starts from mean pooling.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.query_D = nn.Parameter(torch.zeros(width))

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean of the real vectors of each row (B, D)."""
        real_BTD = sequence_BTD.masked_fill(~mask_BT.unsqueeze(-1), 0.0)
        scores_BT = real_BTD @ self.query_D / math.sqrt(self.width)
        lowest = torch.finfo(scores_BT.dtype).min
        weights_BT = scores_BT.masked_fill(~mask_BT, lowest).softmax(dim=1)
        return (weights_BT.unsqueeze(-1) * real_BTD).sum(dim=1)


def _pick(sequence_BTD: torch.Tensor, mask_BT: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
    index_B11 = position_B.view(-1, 1, 1).expand(-1, 1, sequence_BTD.shape[2])
    picked_BD = sequence_BTD.gather(1, index_B11).squeeze(1)
    return picked_BD.masked_fill(~mask_BT.any(dim=1, keepdim=True), 0.0)

"""What a task adds on top of a backbone."""

from __future__ import annotations

import torch
from torch import nn

from regraft.types import Features


class LinearHead(nn.Module):
    """Dropout and one linear map from the pooled features.

    Weights are drawn from N(0, 0.02) as in BERT (Devlin et al. 2018, arXiv:1810.04805, code), biases are zero.

    Args:
        width: Width D of the features.
        outputs: Numbers a row.
        dropout: Share of features dropped in training.
        generator: Draws the weights; torch's current one if not given.
    """

    def __init__(self, width: int, outputs: int, dropout: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs, device="meta").to_empty(device="cpu")  # so that nothing is drawn twice
        nn.init.normal_(self.linear.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features) -> torch.Tensor:
        """Return the output (B, outputs)."""
        output: torch.Tensor = self.linear(self.dropout(features.pooled_BD))
        return output

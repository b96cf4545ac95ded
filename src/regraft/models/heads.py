"""What a task adds on top of a backbone."""

from __future__ import annotations

from collections.abc import Sequence

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


class HeadsOfTargets(nn.Module):
    """The heads of several targets over the same features, their outputs side by side.

    Where the weights of their losses are learnt, the logarithms of the variances that they follow from are weights of the head
    (Kendall, Gal & Cipolla 2018, arXiv:1705.07115, section 3.2), which in training stand after the outputs.

    Args:
        heads: One a target.
        learns_weights: Whether the weights of their losses are learnt.
    """

    def __init__(self, heads: Sequence[nn.Module], *, learns_weights: bool = False) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.log_variances_K = nn.Parameter(torch.zeros(len(heads))) if learns_weights else None

    def forward(self, features: Features) -> torch.Tensor:
        """Return the outputs (B, C); in training with learnt weights (B, C + K)."""
        outputs = [head(features) for head in self.heads]
        if self.training and self.log_variances_K is not None:
            outputs.append(self.log_variances_K.to(outputs[0]).expand(len(outputs[0]), -1))
        return torch.cat(outputs, dim=1)

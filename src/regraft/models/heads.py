"""What a task adds on top of a backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from regraft.models.unfilled import undrawn
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
        self.linear = undrawn(nn.Linear, width, outputs)
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


class Tower(nn.Module):
    """Bring the pooled features of one part of a row into the space that all parts share: z = e^s W x / |W x|.

    x are the features after layer norm and dropout, or what one hidden layer makes of them (GELU, dropout). As CLIP does it
    (Radford et al. 2021, arXiv:2103.00020, figure 3, there without a hidden layer), but that each tower carries its own share s
    of the logarithm of the scale: the inner product of two towers' vectors is the cosine times e^(s + s'), so that whoever has
    the vectors has the logits. CLIP's limit, a scale of 100, is kept by both halves.

    With a bias (Zhai et al. 2023, arXiv:2303.15343, algorithm 1) the tower's own share of it follows as one more number: the
    logit is the inner product plus both shares. That loss knows no limit of the scale.

    Args:
        sizes: Width D of the features, of the hidden layer (0 for none), and W of the shared space.
        dropout: Share of features dropped in training.
        scale: Of the inner product of two towers, before it is learnt.
        generator: Draws the weights; torch's current one if not given.
        bias: What is added to the inner product of two towers, before it is learnt; None for nothing.
    """

    LARGEST = 100.0

    def __init__(
        self,
        sizes: tuple[int, int, int],
        dropout: float,
        scale: float,
        generator: torch.Generator | None = None,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        width, hidden, outputs = sizes
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.hidden = _drawn(width, hidden, generator) if hidden else None
        self.linear = _drawn(hidden or width, outputs, generator)
        self.log_scale = nn.Parameter(torch.tensor(0.5 * math.log(scale)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(0.5 * bias))

    def forward(self, features: Features) -> torch.Tensor:
        """Return the vectors (B, W), all of length e^s; with a bias its share beside each (B, W + 1)."""
        x_BD = self.dropout(self.norm(features.pooled_BD))
        if self.hidden is not None:
            x_BD = self.dropout(functional.gelu(self.hidden(x_BD)))
        z_BW = functional.normalize(self.linear(x_BD), dim=-1)
        if self.bias is not None:
            return torch.cat([z_BW * self.log_scale.exp(), self.bias.expand(z_BW.shape[0], 1)], dim=1)
        # Beyond the limit the gradient still flows, so that the scale can come down again.
        beyond = (self.log_scale - 0.5 * math.log(self.LARGEST)).clamp(min=0.0).detach()
        output_BW: torch.Tensor = z_BW * (self.log_scale - beyond).exp()
        return output_BW


def _drawn(width: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """Return a linear map without bias, weights from N(0, 1 / width) as CLIP's projections."""
    made = undrawn(nn.Linear, width, outputs, bias=False)
    nn.init.normal_(made.weight, std=width**-0.5, generator=generator)
    return made

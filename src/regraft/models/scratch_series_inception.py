"""The layers of InceptionTime (Ismail Fawaz et al. 2019, arXiv:1909.04939, section 3.1) for series of any length.

A module looks at the same steps through windows of three widths and through a maximum of three steps:

    x (B, D, T) -> bottleneck, D/4   -> windows of k, k/2, k/4 steps, D/4 each -+-> beside each other -> batch norm -> ReLU
                -> maximum of 3 steps -> D/4 -----------------------------------+

A layer is three modules with a shortcut around them. Batch norms count real steps alone, so that padding changes nothing.

Shapes: B rows, T steps, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from regraft.models.scratch_series_networks import SeriesConfig

_MODULES = 3
_WINDOWS = 3


class StepNorm(nn.BatchNorm1d):
    """A batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167) whose mean and variance are those of the real steps."""

    def forward(self, x_BDT: torch.Tensor, outside_B1T: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return normed vectors (B, D, T).

        Args:
            x_BDT: Vectors, zeros where steps are padding.
            outside_B1T: Where they are.
        """
        if not self.training:
            found: torch.Tensor = super().forward(x_BDT)
            return found
        wide_BDT = x_BDT.float()
        steps = (~outside_B1T).sum().float()
        mean_D = wide_BDT.sum(dim=(0, 2)) / steps
        apart_BDT = (wide_BDT - mean_D[:, None]).masked_fill(outside_B1T, 0.0)
        variance_D = apart_BDT.square().sum(dim=(0, 2)) / steps
        self._follow(mean_D.detach(), (variance_D * (steps / (steps - 1).clamp(min=1))).detach())
        normed_BDT = apart_BDT * (variance_D + self.eps).rsqrt()[:, None] * self.weight[:, None] + self.bias[:, None]
        return normed_BDT.to(x_BDT.dtype)

    @torch.no_grad()
    def _follow(self, mean_D: torch.Tensor, variance_D: torch.Tensor) -> None:
        """Move the means that are used outside training towards those of this batch, as torch's own batch norm does."""
        for kept, now in ((self.running_mean, mean_D), (self.running_var, variance_D)):
            if kept is not None:
                kept.lerp_(now, self.momentum or 0.0)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class InceptionModule(nn.Module):
    """Windows of three widths and a maximum, beside each other.

    Args:
        width: Of what comes in and goes out.
        kernel: Steps that the widest window covers; an odd number.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        share = width // (_WINDOWS + 1)
        spans = [kernel // 2**step // 2 * 2 + 1 for step in range(_WINDOWS)]
        self.bottleneck = nn.Conv1d(width, share, 1, bias=False)
        self.windows = nn.ModuleList(nn.Conv1d(share, share, span, padding=span // 2, bias=False) for span in spans)
        self.highest = nn.Conv1d(width, width - _WINDOWS * share, 1, bias=False)
        self.norm = StepNorm(width)

    def forward(self, x_BDT: torch.Tensor, outside_B1T: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, D, T), not yet cut at zero; those of padding have no meaning."""
        narrow_BST = self.bottleneck(x_BDT)
        highest_BDT = _highest_of_three(x_BDT, outside_B1T).masked_fill(outside_B1T, 0.0)
        beside_BDT = torch.cat([*(window(narrow_BST) for window in self.windows), self.highest(highest_BDT)], dim=1)
        normed_BDT: torch.Tensor = self.norm(beside_BDT.masked_fill(outside_B1T, 0.0), outside_B1T)
        return normed_BDT


class InceptionLayer(nn.Module):
    """Three modules and a shortcut around them (figure 1 of the paper).

    Args:
        config: The sizes.
    """

    def __init__(self, config: SeriesConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.turns = nn.ModuleList(InceptionModule(width, config.kernel_size) for _ in range(_MODULES))
        self.shortcut = nn.Conv1d(width, width, 1, bias=False)
        self.shortcut_norm = StepNorm(width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D); what is padding is zeros, as beyond the ends."""
        outside_B1T = ~mask_BT.unsqueeze(1)
        given_BDT = y_BDT = x_BTD.transpose(1, 2)
        for module in self.turns[:-1]:
            y_BDT = F.relu(module(y_BDT, outside_B1T)).masked_fill(outside_B1T, 0.0)
        # Zeros already; said once more, no exporter folds the norm into the weights in an arithmetic of its own.
        short_BDT = self.shortcut(given_BDT).masked_fill(outside_B1T, 0.0)
        y_BDT = self.turns[-1](y_BDT, outside_B1T) + self.shortcut_norm(short_BDT, outside_B1T)
        next_BDT: torch.Tensor = self.dropout(F.relu(y_BDT).masked_fill(outside_B1T, 0.0))
        return next_BDT.transpose(1, 2)


def _highest_of_three(x_BDT: torch.Tensor, outside_B1T: torch.Tensor) -> torch.Tensor:
    """Return the maximum of each step and the real ones beside it (B, D, T); torch's own pooling holds T fast in a graph."""
    lowest = torch.finfo(x_BDT.dtype).min
    ends_BDT = F.pad(x_BDT.masked_fill(outside_B1T, lowest), (1, 1), value=lowest)
    return torch.maximum(torch.maximum(ends_BDT[..., :-2], ends_BDT[..., 1:-1]), ends_BDT[..., 2:])

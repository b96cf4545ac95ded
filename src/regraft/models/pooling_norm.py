"""Pooling with a norm behind it, as networks for pictures have it: ConvNeXT over the mean, CLIP over the first vector.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn

from regraft.models.architectures import ARCHITECTURES, width_of
from regraft.models.pooling import ClsPooling, MeanPooling, Pooling


class NormPooling(Pooling):
    """A pooling and a layer norm; the norm is the one that came with the body, where one did.

    Args:
        width: Width D of the vectors.
        eps: Added to the variance.
    """

    inner: type[Pooling]

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__(width)
        self.pooling = self.inner(width)
        self.norm = nn.LayerNorm(width, eps=eps)

    @classmethod
    def for_body(cls, body: Any, unused: Mapping[str, torch.Tensor], seed: int = 0) -> Self:
        """Return the pooling with the norm that came with a body; nothing of it is drawn."""
        made = cls(width_of(body.config), float(getattr(body.config, "layer_norm_eps", 1e-6)))
        name = ARCHITECTURES[body.config.model_type].norm
        found = {key: unused[f"{name}.{key}"] for key in ("weight", "bias") if f"{name}.{key}" in unused}
        if found:
            made.norm.load_state_dict(found)
        return made

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the norm of the pooled vector of each row (B, D)."""
        pooled_BD: torch.Tensor = self.norm(self.pooling(sequence_BTD, mask_BT))
        return pooled_BD


class MeanNormPooling(NormPooling):
    """The mean over real positions, then a layer norm (Liu et al. 2022, arXiv:2201.03545, code)."""

    inner = MeanPooling


class ClsNormPooling(NormPooling):
    """The first real vector, then a layer norm (Radford et al. 2021, arXiv:2103.00020, code)."""

    inner = ClsPooling

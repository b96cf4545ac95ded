"""The headed network: any backbone with a head over its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from regraft.types import Batch, Features

if TYPE_CHECKING:
    from regraft.models.backbones import Backbone


class Headed(nn.Module):
    """A backbone and a head; the only network that training, judging and serving see.

    Args:
        backbone: Gives `Features`.
        head: Called with `Features`, gives the output (B, ...).
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> Features:
        """Return the features of a batch of tensors."""
        features: Features = self.backbone(inputs, mask_BT)
        return features

    def forward(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the head's output (B, ...) for a batch of tensors."""
        output: torch.Tensor = self.head(self.features(inputs, mask_BT))
        return output

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tensors(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the inputs and mask of a numpy batch as tensors where the weights are."""
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in batch.inputs.items()}
        return inputs, torch.from_numpy(batch.mask_BT).to(self.device)

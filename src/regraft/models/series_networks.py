"""PatchTST and PatchTSMixer of the hub, fed as rows of series come: one window with what was measured beside the numbers.

Both take windows of one length only; shorter rows come filled up on the left with zeros that count as not measured, which is
what their own scalers are made for. Vectors are given for every patch of every channel, channel by channel.

Shapes: B rows, L steps of the window, K channels, C = 2 K, P patches, D width.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutput


class _OfWindow:
    """Take the numbers and what was measured in one array, and give the vectors of all patches in one row."""

    hub: ClassVar[Any]
    measured: ClassVar[str]
    config: Any

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Return what the hub's class returns, so that older names of weights are understood, the network as this class."""
        found = cls.hub.from_pretrained(*args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        model.__class__ = cls
        if getattr(
            model.config, "do_mask_input", None
        ):  # saved by a pretraining that guessed patches which were hidden at random
            model.config.do_mask_input = model.do_mask_input = False
            model.masking = nn.Identity()
        return found

    def forward(self, values: torch.Tensor, return_dict: bool = True, **_: Any) -> Any:
        """Return one vector for every patch of every channel (B, K * P, D).

        Args:
            values: Numbers and, in as many channels more, 1 where they were measured (B, L, C).
            return_dict: Whether the answer is named.
        """
        numbers_BLK, measured_BLK = values.chunk(2, dim=2)
        # A scaler of the hub takes the scale of the other rows for a channel of which nothing was measured; it is zeros here.
        measured_BLK = torch.where(measured_BLK.amax(dim=1, keepdim=True) > 0, measured_BLK, 1.0)
        found = self.hub.forward(self, numbers_BLK, **{self.measured: measured_BLK}, return_dict=True)
        x_BND = found.last_hidden_state.flatten(1, 2)
        return BaseModelOutput(last_hidden_state=x_BND) if return_dict else (x_BND,)

    def stand_in(self, mask_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return inputs without meaning for as many rows."""
        shape = (len(mask_BT), int(self.config.context_length), int(self.config.num_input_channels))
        numbers = torch.arange(math.prod(shape), device=mask_BT.device, dtype=torch.float32).mul(0.7).sin().view(shape)
        return {"values": torch.cat([numbers, torch.ones_like(numbers)], dim=2)}


class PatchTSTModel(_OfWindow, transformers.PatchTSTModel):  # type: ignore[misc]
    """A transformer over patches (Nie et al. 2022, arXiv:2211.14730)."""

    hub = transformers.PatchTSTModel
    measured = "past_observed_mask"


class PatchTSMixerModel(_OfWindow, transformers.PatchTSMixerModel):  # type: ignore[misc]
    """An MLP-Mixer over patches (Ekambaram et al. 2023, arXiv:2306.09364)."""

    hub = transformers.PatchTSMixerModel
    measured = "observed_mask"

"""The pooling of the hub's own classes: what they compute between the body and their last linear map.

Shapes: B rows, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn

from regraft.errors import OptionsError, Problem
from regraft.models import POOLINGS
from regraft.models.hub_heads import HUB_HEADS, HubHead
from regraft.models.pooling import Pooling
from regraft.models.unfilled import undrawn

_STREAM = 0x9E3779B97F4A7C15  # the head is drawn from the same seed and must not repeat these numbers


class HubHeadPooling(Pooling):
    """What the hub's class for classifying sequences of this architecture does before its last linear map.

    A network fitted with it is, weight for weight, the hub's own class (`regraft export --format transformers`). The vector of
    one position, or the mean, goes through a dense layer where the class has one: BERT's pretrained pooler, which goes on to
    learn, or a new one. The class's dropout in front of the dense layer is left out; the head's dropout stands after it.

    Args:
        width: Width D of the vectors.
        head: How the hub's class does it.
        config: The architecture's configuration as JSON.
        seed: Draws a new dense layer.
    """

    def __init__(self, width: int, head: HubHead, config: Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(width)
        self.head_bias = head.bias
        self.taken = POOLINGS.get(head.vector(config))(width)
        self.dense: nn.Linear | None = None
        self.norm: nn.Module = nn.Identity()
        if head.dense:
            from transformers.activations import ACT2FN

            self.dense = _drawn(width, config, seed)
            self.activation: nn.Module = ACT2FN[head.function(config)]
        if head.norm:
            self.norm = nn.LayerNorm(width, eps=float(config["norm_eps"]), bias=bool(config["norm_bias"]))

    @classmethod
    def for_body(cls, body: Any, unused: Mapping[str, torch.Tensor], seed: int = 0) -> Self:
        """Return the pooling of a body's family; its dense layer starts from the body's own, where one came with it.

        Raises:
            OptionsError: The hub has no class for classifying sequences with this body.
        """
        config = body.config.to_dict()
        kind = str(config["model_type"])
        if kind not in HUB_HEADS:
            what = f"the hub has no class for classifying sequences that the encoder '{kind}' alone would fit"
            fix = "choose another pooling (regraft list poolings)"
            expected = f"one of {', '.join(sorted(HUB_HEADS))}"
            raise OptionsError(Problem(what=what, where="base.pooling", got=kind, expected=expected, fix=fix))
        head = HUB_HEADS[kind]
        made = cls(int(body.config.hidden_size), head, config, seed)
        path = head.pretrained_dense()
        if made.dense is not None and f"{path}.weight" in unused:
            made.dense.load_state_dict({name: unused[f"{path}.{name}"] for name in made.dense.state_dict()})
        return made

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return what the hub's last linear map is given, for each row (B, D)."""
        vector_BD: torch.Tensor = self.taken(sequence_BTD, mask_BT)
        if self.dense is None:
            return vector_BD
        pooled_BD: torch.Tensor = self.norm(self.activation(self.dense(vector_BD)))
        return pooled_BD.masked_fill(~mask_BT.any(dim=1, keepdim=True), 0.0)


def _drawn(width: int, config: Mapping[str, Any], seed: int) -> nn.Linear:
    """Return a dense layer as the hub draws new ones: N(0, initializer_range), biases zero; torch's generator is left alone."""
    dense = undrawn(nn.Linear, width, width, bias=bool(config.get("classifier_bias", True)))
    generator = torch.Generator().manual_seed((seed + _STREAM) % 2**63)
    nn.init.normal_(dense.weight, std=float(config.get("initializer_range") or 0.02), generator=generator)
    if dense.bias is not None:
        nn.init.zeros_(dense.bias)
    return dense

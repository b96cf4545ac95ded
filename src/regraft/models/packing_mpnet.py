"""MPNet on real positions only: its attention adds a bias by distance and does not go through the hub's registry.

Shapes: N real positions of all rows, H heads, D width of a head, L longest row.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from regraft.models.attention import NAME, Heads, RowMask, current_layout, in_rows
from regraft.models.view import view, with_children


def packed_mpnet(body: Any) -> Any:
    """Return a view of an MPNet body whose attention stays inside rows that lie end to end."""
    layers = {
        f"encoder.layer.{number}.attention.attn": _PackedAttention(layer.attention.attn)
        for number, layer in enumerate(body.encoder.layer)
        if hasattr(layer, "attention")
    }
    made = view(body, {"encoder": with_children(body.encoder, body.encoder._modules), **layers})
    made.config = copy.copy(body.config)
    made.config._attn_implementation = NAME  # of the mask alone: MPNet's attention does not ask for it
    made.encoder.compute_position_bias = _bias_of_longest(body.encoder)
    return made


def _bias_of_longest(encoder: Any) -> Any:
    # Made for the longest row; the one long row of all positions, which the encoder would take, is many times longer.
    def bias(hidden: torch.Tensor) -> torch.Tensor:
        layout = current_layout()
        made: torch.Tensor = encoder.compute_position_bias(hidden.new_empty((1, layout.lengths[-1] if layout else 1)))
        return made

    return bias


class _PackedAttention(nn.Module):
    """The hub's `MPNetSelfAttention`, bucket by bucket; its weights are those of the module that it stands for."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self, hidden_1ND: torch.Tensor, attention_mask: RowMask, position_bias_1HLL: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor]:
        attention, layout = self.attention, current_layout()
        if layout is None:
            raise ValueError("packed attention was called without a layout of its rows")
        shape = (-1, attention.num_attention_heads, attention.attention_head_size)
        heads = Heads(*(linear(hidden_1ND.squeeze(0)).view(shape) for linear in (attention.q, attention.k, attention.v)))
        dropout = attention.dropout.p if attention.training else 0.0
        found = in_rows(heads, layout, attention_mask, dropout, position_bias_1HLL)
        out: torch.Tensor = attention.o(found.flatten(1)).unsqueeze(0)
        return (out,)

"""Modules in other words for OpenVINO 2026.4: the same numbers, in steps that it computes rightly.

An LSTM or GRU of two directions that is given the length of each row answers otherwise than in ONNX Runtime where rows may be
of any length (outputs moved by 0.1 to 0.7): here each direction is an operator of its own over all positions, and what a row's
padding would change is set right around it, as in `PaddedRecurrence`. A matrix times a vector, then scaled, cannot be opened:
here the vector is a matrix of one column.

Shapes: B rows, T positions, D width, H width of a direction.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from regraft.exporters.recurrence import GATES, OPERATORS, PaddedRecurrence
from regraft.models.pooling import AttentionPooling
from regraft.models.scratch_networks import RecurrentLayer


def in_other_words(module: nn.Module) -> nn.Module | None:
    """Return a module in steps that OpenVINO computes rightly, or nothing where it does anyway; weights are shared."""
    if isinstance(module, RecurrentLayer):
        return PaddedRecurrence(module, OneWay)
    return with_one_column(module)


def with_one_column(module: nn.Module) -> nn.Module | None:
    """Return attention pooling as a linear layer, or nothing for any other module; ExecuTorch needs that too."""
    return OneColumn(module) if isinstance(module, AttentionPooling) else None


class OneColumn(nn.Module):
    """`AttentionPooling` with its query as a matrix of one column.

    Args:
        source: Whose query is used.
    """

    over_layers = AttentionPooling.over_layers

    def __init__(self, source: AttentionPooling) -> None:
        super().__init__()
        self.width = source.width
        self.query_D = source.query_D

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean of the real vectors of each row (B, D)."""
        mask_BT1 = mask_BT.unsqueeze(-1)
        real_BTD = sequence_BTD.masked_fill(~mask_BT1, 0.0)
        scores_BT1 = F.linear(real_BTD, self.query_D.unsqueeze(0)) / math.sqrt(self.width)
        weights_BT1 = scores_BT1.masked_fill(~mask_BT1, torch.finfo(scores_BT1.dtype).min).softmax(dim=1)
        return (weights_BT1 * real_BTD).sum(dim=1)


class OneWay(nn.Module):
    """One direction as the operator LSTM or GRU of ONNX (https://onnx.ai/onnx/operators/onnx__LSTM.html).

    Only for a graph that becomes ONNX; computed in torch it gives zeros.

    Args:
        source: One layer, one direction, rows first; its weights are used in the order that ONNX wants.
    """

    input_weights: torch.Tensor
    state_weights: torch.Tensor
    biases: torch.Tensor

    def __init__(self, source: nn.RNNBase) -> None:
        super().__init__()
        kind = type(source)
        self.operator, self.settings = OPERATORS[kind]
        self.width = source.hidden_size
        order = GATES[kind]
        with torch.no_grad():
            self.register_buffer("input_weights", _ordered(source, ("weight_ih_l0",), order))
            self.register_buffer("state_weights", _ordered(source, ("weight_hh_l0",), order))
            self.register_buffer("biases", _ordered(source, ("bias_ih_l0", "bias_hh_l0"), order))

    def forward(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor]:
        """Return one vector a position (B, T, H)."""
        x_TBD = x_BTD.transpose(0, 1)
        steps, rows, _ = x_TBD.shape
        out_T1BH = torch.onnx.ops.symbolic(
            self.operator,
            (x_TBD, self.input_weights, self.state_weights, self.biases),
            {"hidden_size": self.width, "direction": "forward", **self.settings},
            dtype=x_TBD.dtype,
            shape=(steps, 1, rows, self.width),
        )
        return (out_T1BH.squeeze(1).transpose(0, 1),)


def _ordered(source: nn.RNNBase, names: tuple[str, ...], order: tuple[int, ...]) -> torch.Tensor:
    """Return weights (1, gates * H, ...) end to end, the gates of each in another order."""
    gates = [getattr(source, name).detach().chunk(len(order)) for name in names]
    return torch.cat([found[gate] for found in gates for gate in order]).unsqueeze(0)

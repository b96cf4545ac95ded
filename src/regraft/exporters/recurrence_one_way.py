"""Recurrent layers as operators of ONNX that know nothing of the lengths of rows: what OpenVINO computes rightly.

OpenVINO 2026.4 answers otherwise than ONNX Runtime where an LSTM or GRU of two directions is given the length of each row and
rows may be of any length (outputs moved by 0.1 to 0.7). So each direction is an operator of its own over all positions, and
what a row's padding would change is set right around it, as in `PaddedRecurrence`.

Shapes: B rows, T positions, D width, H width of a direction.
"""

from __future__ import annotations

import torch
from torch import nn

from regraft.exporters.recurrence import GATES, OPERATORS, PaddedRecurrence
from regraft.models.scratch_networks import RecurrentLayer


def one_way(module: nn.Module) -> nn.Module | None:
    """Return a recurrent layer as two operators of ONNX, or nothing for any other module."""
    if not isinstance(module, RecurrentLayer):
        return None
    layer = PaddedRecurrence(module)
    layer.forwards, layer.backwards = (OneWay(one) for one in (layer.forwards, layer.backwards))
    return layer


class OneWay(nn.Module):
    """One direction as the operator LSTM or GRU of ONNX (https://onnx.ai/onnx/operators/onnx__LSTM.html).

    Only for a graph that becomes ONNX; computed in torch it gives zeros.

    Args:
        source: One layer, one direction, rows first; its weights are used in the order that ONNX wants.
    """

    def __init__(self, source: nn.RNNBase) -> None:
        super().__init__()
        kind = type(source)
        self.operator, self.settings = OPERATORS[kind]
        self.width = source.hidden_size
        order = GATES[kind]
        with torch.no_grad():
            self.register_buffer("input_weights", _ordered(source.weight_ih_l0, order).unsqueeze(0))
            self.register_buffer("state_weights", _ordered(source.weight_hh_l0, order).unsqueeze(0))
            biases = [_ordered(bias, order) for bias in (source.bias_ih_l0, source.bias_hh_l0)]
            self.register_buffer("biases", torch.cat(biases).unsqueeze(0))

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


def _ordered(weight: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return a weight (gates * H, ...) with its gates in another order."""
    gates = weight.detach().chunk(len(order))
    return torch.cat([gates[gate] for gate in order])

"""Recurrent layers over padded rows, for graphs: a packed sequence has no place in them.

A row's backward direction must begin at its last real position, wherever the padding ends. `plain` reverses each row inside its
own length and runs it forward, in plain steps; `as_operator` makes it one operator of ONNX, which takes the length of each row.
Both give zeros where nothing is, as unpacking does.

Shapes: B rows, T positions, D width, H width of a direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from regraft.models.scratch_networks import RecurrentLayer

_DIRECTIONS = ("", "_reverse")
# Order of the gates in torch (input, forget, cell, output; reset, update, new) -> in ONNX (i, o, f, c; z, r, h).
GATES = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}
OPERATORS: dict[type[nn.RNNBase], tuple[str, dict[str, Any]]] = {
    nn.LSTM: ("LSTM", {}),
    nn.GRU: ("GRU", {"linear_before_reset": 1}),
}


def plain(module: nn.Module) -> nn.Module | None:
    """Return a recurrent layer in plain steps, or nothing for any other module; weights are shared."""
    return PaddedRecurrence(module) if isinstance(module, RecurrentLayer) else None


def as_operator(module: nn.Module) -> nn.Module | None:
    """Return a recurrent layer as one operator of ONNX, or nothing for any other module."""
    return OnnxRecurrence(module) if isinstance(module, RecurrentLayer) else None


def turned(x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Return rows (B, T, D) with their real positions in reverse order; padding stays where it is."""
    steps_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True)
    index_BT = torch.where(mask_BT, lengths_B1 - 1 - steps_T, steps_T)
    return x_BTD.gather(1, index_BT.unsqueeze(-1).expand(-1, -1, x_BTD.shape[2]))


class PaddedRecurrence(nn.Module):
    """A bidirectional layer as two unidirectional ones.

    Args:
        layer: Whose weights are used.
        direction: Called with each direction as a layer of its own; gives what computes it.
    """

    def __init__(self, layer: RecurrentLayer, direction: Callable[[nn.RNNBase], nn.Module] = lambda one: one) -> None:
        super().__init__()
        self.forwards, self.backwards = (direction(_one_way(layer.recurrence, name)) for name in _DIRECTIONS)

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D); rows are padded on the right."""
        there_BTH = self.forwards(x_BTD)[0]
        back_BTH = turned(self.backwards(turned(x_BTD, mask_BT))[0], mask_BT)
        out_BTD = torch.cat([there_BTH, back_BTH], dim=-1)
        return x_BTD + out_BTD.masked_fill(~mask_BT.unsqueeze(-1), 0.0)


def _one_way(source: nn.RNNBase, direction: str) -> nn.RNNBase:
    """Return one direction of a recurrent layer as a layer of its own that shares its weights."""
    kind = cast(type[nn.LSTM], type(source))  # or nn.GRU, which is made alike
    made = kind(source.input_size, source.hidden_size, batch_first=True, device="meta")
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        setattr(made, name, getattr(source, name + direction))
    return made


class OnnxRecurrence(nn.Module):
    """A bidirectional layer as the operator LSTM or GRU of ONNX (https://onnx.ai/onnx/operators/onnx__LSTM.html).

    Only for a graph that becomes ONNX; computed in torch it gives zeros.

    Args:
        layer: Whose weights are used, in the order that ONNX wants.
    """

    def __init__(self, layer: RecurrentLayer) -> None:
        super().__init__()
        source = layer.recurrence
        kind = type(source)
        self.operator, self.settings = OPERATORS[kind]
        self.width = source.hidden_size
        self.input_weights, self.state_weights, self.biases = (
            nn.Buffer(_stacked(source, names, GATES[kind]))
            for names in (("weight_ih_l0",), ("weight_hh_l0",), ("bias_ih_l0", "bias_hh_l0"))
        )

    def forward(self, x_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D); rows are padded on the right."""
        x_TBD = x_BTD.transpose(0, 1)
        steps, rows, _ = x_TBD.shape
        out_TNBH = torch.onnx.ops.symbolic(
            self.operator,
            (x_TBD, self.input_weights, self.state_weights, self.biases, mask_BT.sum(dim=1).to(torch.int32)),
            {"hidden_size": self.width, "direction": "bidirectional", **self.settings},
            dtype=x_TBD.dtype,
            shape=(steps, len(_DIRECTIONS), rows, self.width),
        )
        return x_BTD + out_TNBH.permute(2, 0, 1, 3).flatten(2)


def _stacked(source: nn.RNNBase, names: tuple[str, ...], order: tuple[int, ...]) -> torch.Tensor:
    """Return weights of both directions (2, gates * H, ...), their gates in another order."""
    both = []
    for direction in _DIRECTIONS:
        parts = []
        for name in names:
            gates = getattr(source, name + direction).detach().chunk(len(order))
            parts += [gates[gate] for gate in order]
        both.append(torch.cat(parts))
    return torch.stack(both)

"""Recurrent layers as one operator of torch each, in a program that takes rows of any length.

While it captures a program, torch takes LSTM and GRU apart into one step a position, so that the program would only take rows
as long as the example. Here they are captured as an operator of our own that is not looked into, and become torch's own in
the program that comes out.

Shapes: B rows, T positions, D width, H width of a direction.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from regraft.exporters.recurrence import PaddedRecurrence
from regraft.models.scratch_networks import RecurrentLayer

_LIBRARY = "regraft_capture"
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
_REST = (
    "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first)"
    " -> (Tensor, Tensor"
)
# has_biases, num_layers, dropout, train, bidirectional, batch_first
_SETTINGS = (True, 1, 0.0, False, False, True)


def as_call(module: nn.Module) -> nn.Module | None:
    """Return a recurrent layer whose recurrences are captured whole, or nothing for any other module; weights are shared."""
    return PaddedRecurrence(module, Call) if isinstance(module, RecurrentLayer) else None


def with_own_operators(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program in which what was captured whole is torch's own operator."""
    for node in program.graph.nodes:
        for ours, theirs in _operators().values():
            if node.target is ours:
                node.target = theirs
    program.graph_module.recompile()
    return program


class Call(nn.Module):
    """One direction of a recurrent layer, as one operator.

    Args:
        source: One layer, one direction, rows first; its weights are shared.
    """

    def __init__(self, source: nn.RNNBase) -> None:
        super().__init__()
        self.kind = type(source)
        self.width = source.hidden_size
        for name in _WEIGHTS:
            setattr(self, name, getattr(source, name))

    def forward(self, x_BTD: torch.Tensor) -> tuple[Any, ...]:
        """Return one vector a position (B, T, H), and the last states."""
        state_1BH = x_BTD.new_zeros((1, x_BTD.shape[0], self.width))
        states = [state_1BH, state_1BH.clone()] if self.kind is nn.LSTM else state_1BH
        operator, _ = _operators()[self.kind]
        found: tuple[Any, ...] = operator(x_BTD, states, [getattr(self, name) for name in _WEIGHTS], *_SETTINGS)
        return found


@functools.cache
def _operators() -> dict[type[nn.RNNBase], tuple[Any, Any]]:
    """Return for each kind of recurrence our operator and torch's own; both take the same arguments."""

    @torch.library.custom_op(f"{_LIBRARY}::lstm", mutates_args=(), schema=f"(Tensor input, Tensor[] hx, {_REST}, Tensor)")
    def lstm(*given: Any) -> tuple[torch.Tensor, ...]:
        out, state, cell = torch.ops.aten.lstm.input(*given)
        return out, state, cell

    @torch.library.custom_op(f"{_LIBRARY}::gru", mutates_args=(), schema=f"(Tensor input, Tensor hx, {_REST})")
    def gru(*given: Any) -> tuple[torch.Tensor, ...]:
        out, state = torch.ops.aten.gru.input(*given)
        return out, state

    def shapes_only(x_BTD: torch.Tensor, hx: Any, *_: Any) -> tuple[torch.Tensor, ...]:
        states = hx if isinstance(hx, list | tuple) else [hx]
        out_BTH = x_BTD.new_empty((x_BTD.shape[0], x_BTD.shape[1], states[0].shape[2]))
        return (out_BTH, *(torch.empty_like(state) for state in states))

    lstm.register_fake(shapes_only)
    gru.register_fake(shapes_only)
    ours = getattr(torch.ops, _LIBRARY)
    return {
        nn.LSTM: (ours.lstm.default, torch.ops.aten.lstm.input),
        nn.GRU: (ours.gru.default, torch.ops.aten.gru.input),
    }

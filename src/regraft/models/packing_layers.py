"""Only real positions through the layers, for bodies in which neighbours meet before the layers (wav2vec 2.0, HuBERT).

Their convolutions need padded rows; their layers, which cost most, do not. The rows are laid end to end in front of the first
layer that runs and put back after the last one.

Shapes: B rows, T positions, N real positions of all rows, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from regraft.models.attention import current_layout, register
from regraft.models.packing import through_registry
from regraft.models.view import view, with_children


def packed_layers(body: Any, encoder: str, layers: Sequence[str]) -> Any:
    """Return a view of a body whose layers compute real positions only, inside `regraft.models.attention.packed_rows(layout)`.

    The layout is that of the positions that enter the layers. Outside of such a block the view computes as the body does.

    Args:
        body: The hub's model; its attention goes through the hub's registry. Shares its weights with the view.
        encoder: Path of the module that runs the layers and gives `last_hidden_state`.
        layers: Paths of the layers.

    Example:
        >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
        >>> body = Wav2Vec2Model(Wav2Vec2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4))
        >>> type(packed_layers(body, "encoder", ["encoder.layers.0"]).encoder).__name__
        'UnpackingWav2Vec2Encoder'
    """
    register()
    through_registry(body)
    replaced: dict[str, nn.Module] = {encoder: _as(_unpacking, body.get_submodule(encoder))}
    replaced |= {path: _as(_packing, body.get_submodule(path)) for path in layers}
    return view(body, replaced)


def _as(kind: Any, module: nn.Module) -> nn.Module:
    twin = with_children(module, module._modules)
    twin.__class__ = kind(type(module))
    return twin


@functools.cache
def _packing(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a layer class that takes padded rows or rows end to end, and gives them end to end."""

    def forward(self: nn.Module, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        layout = current_layout()
        # In training whole layers may be left out (LayerDrop): any of them may be the first that runs.
        if layout is not None and tuple(hidden.shape[:2]) == (layout.rows, layout.positions):
            hidden = layout.pack(hidden)
        return cls.forward(self, hidden, *args, **kwargs)

    return type(f"Packing{cls.__name__}", (cls,), {"forward": forward})


@functools.cache
def _unpacking(cls: type[nn.Module]) -> type[nn.Module]:
    """Return an encoder class that gives padded rows, whatever its layers give."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out, layout = cls.forward(self, *args, **kwargs), current_layout()
        if layout is not None and tuple(out.last_hidden_state.shape[:2]) != (layout.rows, layout.positions):
            out.last_hidden_state = layout.unpack(out.last_hidden_state)
        return out

    return type(f"Unpacking{cls.__name__}", (cls,), {"forward": forward})

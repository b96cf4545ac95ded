"""What every layer of a body is given and what comes out at the end, averaged over real positions while the body runs.

These are the hidden states that the hub's own models give for `output_hidden_states=True`. Averaged one by one they need no
more memory than one of them. The body is not changed: each pass goes through a view whose layers tell what enters them.

Shapes: B rows, T positions, L outputs (layers and one), D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from regraft.models.architectures import Architecture
from regraft.models.layout import Layout
from regraft.models.packing import run_packed, run_padded
from regraft.models.pooling import MeanPooling
from regraft.models.view import view, with_children

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class LayerMeans:
    """Run a body as `run_padded` and `run_packed` do and keep the means of its layers, batch by batch.

    Args:
        body: The hub's model.
        architecture: Its line in the table.
        width: Width D of the vectors.
    """

    def __init__(self, body: Any, architecture: Architecture, width: int) -> None:
        self._body, self._architecture = body, architecture
        self._mean = MeanPooling(width)
        self._kept: list[torch.Tensor] = []

    def padded(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return one vector a position (B, T, D), all positions computed.

        Args:
            inputs: What the architecture takes.
            mask_BT: True where an input position is real.
        """
        own_BT = self._body.own_mask(mask_BT) if self._architecture.own_mask else mask_BT
        rows = mask_BT.shape[0]

        def mean(hidden: torch.Tensor) -> torch.Tensor:
            # What was made of windows of a row lies end to end.
            hidden_BTD = hidden.reshape(rows, -1, hidden.shape[-1])
            real_BT = own_BT if self._makes_masks else own_BT[:, :1].expand(hidden_BTD.shape[:2])
            mean_BD: torch.Tensor = self._mean(hidden_BTD, real_BT)
            return mean_BD

        return self._told(self._body, mean, lambda body: run_padded(body, self._architecture, inputs, mask_BT))

    def packed(self, body: Any, inputs: Mapping[str, torch.Tensor], layout: Layout, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return one vector a real position, all in one row (1, N, D).

        Args:
            body: What `Packing.adapt` gave.
            inputs: Padded (B, T).
            layout: Of the batch.
            mask_BT: True where an input position is real.
        """

        def mean(hidden_1ND: torch.Tensor) -> torch.Tensor:
            mean_BD: torch.Tensor = self._mean(layout.unpack(hidden_1ND), mask_BT)
            return mean_BD

        return self._told(body, mean, lambda body: run_packed(body, self._architecture, inputs, layout))

    def batches(self) -> list[torch.Tensor]:
        """Return the means of every batch that ran, in order (B, L, D) each, the embeddings first."""
        return self._kept

    @property
    def _makes_masks(self) -> bool:
        return self._architecture.masked or self._architecture.own_mask

    def _told(
        self, body: Any, mean: Callable[[torch.Tensor], torch.Tensor], run: Callable[[Any], torch.Tensor]
    ) -> torch.Tensor:
        names = list(body.get_submodule(self._architecture.layers)._modules)
        paths = [f"{self._architecture.layers}.{name}" for name in names]
        seen = _Seen(mean, len(paths))
        sequence = run(view(body, {path: _telling(body.get_submodule(path), n, seen) for n, path in enumerate(paths)}))
        self._kept.append(torch.stack(seen.until(sequence), dim=1))
        return sequence


class _Seen:
    """What has entered the layers of one pass so far.

    Args:
        mean: Of one vector a position.
        layers: How many there are.
    """

    def __init__(self, mean: Callable[[torch.Tensor], torch.Tensor], layers: int) -> None:
        self._mean, self._layers = mean, layers
        self._found: list[torch.Tensor] = []
        self._left: torch.Tensor | None = None

    def enters(self, number: int, hidden: torch.Tensor) -> None:
        """Take in what enters a layer."""
        if number < len(self._found):
            raise RuntimeError(f"layer {number} ran again after layer {len(self._found) - 1}: the outputs have no order")
        self._skip(number, hidden if self._left is None else self._left)
        self._found.append(self._mean(hidden))

    def leaves(self, hidden: torch.Tensor) -> None:
        """Take in what a layer gave."""
        self._left = hidden

    def until(self, sequence: torch.Tensor) -> list[torch.Tensor]:
        """Return the means of what entered every layer, and of what came out at the end."""
        self._skip(self._layers, sequence if self._left is None else self._left)
        return [*self._found, self._mean(sequence)]

    def _skip(self, number: int, hidden: torch.Tensor) -> None:
        # In training whole layers may be left out (LayerDrop): what enters such a layer goes on as it is.
        if len(self._found) < number:
            self._found += [self._mean(hidden)] * (number - len(self._found))


def _telling(layer: nn.Module, number: int, seen: _Seen) -> nn.Module:
    """Return what stands for a layer in one pass: asked for anything else than to run, it answers as the layer does."""
    twin = with_children(layer, layer._modules)
    kind: Any = type(layer)
    twin.__class__ = _telling_class(kind)
    # The layer itself is called, with its hooks and as it was compiled; here they would run a second time.
    twin.__dict__.update({name: type(twin.__dict__[name])() for name in _HOOKS}, _compiled_call_impl=None)
    twin.__dict__.update(told_layer=layer, told_number=number, told_to=seen)
    return twin


@functools.cache
def _telling_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a layer class that tells what enters it and what it gives."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.told_to.enters(self.told_number, args[0] if args else next(iter(kwargs.values())))
        out = self.told_layer(*args, **kwargs)
        self.told_to.leaves(out[0] if isinstance(out, tuple) else out)
        return out

    return type(f"Telling{cls.__name__}", (cls,), {"forward": forward})

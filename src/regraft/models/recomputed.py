"""Layers that keep only what enters them while a network learns, and compute the rest again on the way back.

    switch = Recompute()
    learning = recomputable(net, switch)      computes as `net` does
    switch.on = True                          the same numbers in less memory, for about a third more time

Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174, section 4), one segment a layer: of each layer the input is kept,
and one layer at a time its inner activations. The second pass draws what the first one drew (dropout), runs in the same number
format and inside the same rows, and leaves statistics over batches as the first one left them.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from regraft.models.view import view, with_children

if TYPE_CHECKING:
    from regraft.models.net import Headed

_Buffers = list[tuple[nn.Module, str, torch.Tensor]]


@dataclass
class Recompute:
    """Whether layers are computed a second time on the way back.

    Args:
        on: Looked at in every pass.
    """

    on: bool = False


def recomputable(net: Headed, switch: Recompute) -> Headed:
    """Return a view of a network whose layers are computed again where the switch says so; `net` itself if it has none.

    Args:
        net: The network; not changed. All weights and their names are shared.
        switch: Turned by whoever is short of memory, also between two passes.
    """
    modules = dict(net.backbone.named_modules(remove_duplicate=False))
    found = {path: modules[path] for path in _layers(net) if path in modules and any(True for _ in modules[path].parameters())}
    return view(net, {f"backbone.{path}": _as_recomputing(layer, switch) for path, layer in found.items()}) if found else net


def _layers(net: Headed) -> list[str]:
    blocks = getattr(net.backbone, "blocks", None)
    parts: Mapping[str, Any] = dict(getattr(blocks, "parts", None) or {"": blocks})
    return [f"{path}.{layer}".lstrip(".") for path, one in parts.items() if one is not None for layer in one.layers]


def _as_recomputing(layer: nn.Module, switch: Recompute) -> nn.Module:
    twin = with_children(layer, layer._modules)
    kind: Any = type(layer)
    twin.__class__ = _recomputing(kind)
    # What was compiled is called with its hooks: the twin's own would run a second time.
    twin.__dict__.update(recompute_switch=switch, recompute_compiled=layer._compiled_call_impl, _compiled_call_impl=None)
    return twin


@functools.cache
def _recomputing(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a layer class that keeps what enters it, and computes the rest again, where its switch is on."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        layer = self.recompute_compiled or functools.partial(cls.forward, self)
        if not (self.recompute_switch.on and torch.is_grad_enabled()):
            return layer(*args, **kwargs)
        pass_ = _Pass(self, layer)
        return checkpoint(pass_, *args, use_reentrant=False, **kwargs)

    return type(f"Recomputing{cls.__name__}", (cls,), {"forward": forward})


class _Pass:
    """One layer in one forward pass, and again on the way back.

    Args:
        module: The layer.
        layer: What computes it.
    """

    def __init__(self, module: nn.Module, layer: Any) -> None:
        self._layer, self._again = layer, False
        # Where the rows of a batch lie, and what enters a cut, is only known inside the forward pass.
        self._context = contextvars.copy_context()
        self._buffers: _Buffers = [
            (inner, name, value.detach().clone())
            for inner in module.modules()
            if inner.training
            for name, value in inner._buffers.items()
            if value is not None
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._again:
            self._again = True
            return self._layer(*args, **kwargs)
        with _as_before(self._buffers):
            return self._context.run(self._layer, *args, **kwargs)


@contextmanager
def _as_before(buffers: _Buffers) -> Iterator[None]:
    """Give modules the buffers that the first pass began with; those it left come back, untouched."""
    left = [(module, name, module._buffers[name]) for module, name, _ in buffers]
    for module, name, value in buffers:
        module._buffers[name] = value.clone()  # a step whose gradients are asked for twice comes here twice
    try:
        yield
    finally:
        for module, name, value in left:  # type: ignore[assignment]
            module._buffers[name] = value

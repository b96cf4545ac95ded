"""Layers of a network that are run in another way, through a view of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from regraft.models.net import Headed
from regraft.models.view import view, with_children

Run = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Calls a layer, or not: (layer, its arguments, its named arguments) -> what stands for its output."""


def with_layers(net: Headed, runs: Mapping[str, Run]) -> Headed:
    """Return a view of a network some of whose layers are run in another way; it shares all weights under the same names.

    Args:
        net: The network; not changed.
        runs: Path of a module inside the backbone -> how it is run.
    """
    return view(net, {f"backbone.{path}": _run_by(net.backbone.get_submodule(path), run) for path, run in runs.items()})


def alive(net: Headed) -> list[str]:
    """Return the paths of the layers of the backbone that learn; above a cut, of those that are left."""
    backbone: Any = net.backbone
    return [path for path in backbone.blocks.layers if any(w.requires_grad for w in backbone.get_submodule(path).parameters())]


def _run_by(layer: nn.Module, run: Run) -> nn.Module:
    twin: Any = with_children(layer, layer._modules)
    kind: Any = layer.__class__
    twin.__class__ = _other(kind)
    twin.__dict__["run"] = run
    if getattr(layer, "_compiled_call_impl", None) is not None:
        # What was compiled is bound to the layer itself; a twin of it would go past whatever its class says.
        twin.__dict__["compiled"], twin.__dict__["_compiled_call_impl"] = layer, None
    made: nn.Module = twin
    return made


@functools.cache
def _other(cls: Any) -> Any:
    """Return a class of layer that is run in another way; not by the layer itself, whose modules a packing may yet replace."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled = self.__dict__.get("compiled")
        return self.run(functools.partial(cls.forward, self) if compiled is None else compiled, args, kwargs)

    return type(f"Other{cls.__name__}", (cls,), {"forward": forward})

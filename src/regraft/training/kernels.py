"""Faster kernels for the same network: layers compiled one by one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Set
from typing import TYPE_CHECKING

from regraft.models.view import view, with_children
from regraft.training.freeze import learning

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed

_SHOWN = 300


def compiled(net: Headed, loss: Callable[[Headed], torch.Tensor], trainable: Set[str], note: Callable[[str], None]) -> Headed:
    """Return a network whose layers are compiled one by one, or `net` itself, with a note, where that does not work.

    A layer is compiled once for all of its kind and for all lengths (regional compilation: a whole network takes minutes);
    torch keeps what it compiled in its own cache between runs (TORCHINDUCTOR_CACHE_DIR). Sums may be taken in another order:
    answers are equal to rounding, not to the bit. A layer that asks for the value of a tensor is compiled in pieces, and the
    first step takes minutes: it pays in long runs only.

    Args:
        net: The network; not changed. All weights and their names are shared with what is returned.
        loss: Makes the loss of one real micro-batch with the network it is given.
        trainable: Names of the weights that learn.
        note: Told in one sentence what happened.
    """
    blocks = getattr(net.backbone, "blocks", None)
    if blocks is None or not blocks.layers:
        note("not compiled: the base has no layers that could be compiled one by one")
        return net
    if net.device.type == "cpu" and not _compiler():
        note("not compiled: there is no C++ compiler (g++, clang++ or the one that CXX names)")
        return net
    layers = {}
    for path in blocks.layers:
        layer = net.backbone.get_submodule(path)
        twin = with_children(layer, layer._modules)
        twin.compile(dynamic=True)
        layers[f"backbone.{path}"] = twin
    fast = view(net, layers)
    try:
        _try(net, fast, loss, trainable)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the compiler, its C++ compiler and its cache each fail in their own ways
        note(f"not compiled: {type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}")
        return net
    note(f"compiled {len(layers)} layers")
    return fast


def _try(net: Headed, fast: Headed, loss: Callable[[Headed], torch.Tensor], trainable: Set[str]) -> None:
    """Compile now, forwards and backwards, so that what fails fails before training; no trace is left on the weights."""
    from regraft.training.precision import untouched

    with untouched(net, trainable), learning(fast, trainable):
        loss(fast).backward()  # type: ignore[no-untyped-call]


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("g++", "clang++", "c++", "cl"))), None)

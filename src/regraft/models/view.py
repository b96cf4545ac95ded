"""A view of a network: the same weights, some modules replaced. The network itself is left as it is.

Freezing at a cut, packing and compact tables all compute with another structure than the one that is saved. A view shares
every parameter and every module that is not replaced, so training it trains the network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def view(net: ModuleT, replacements: Mapping[str, nn.Module]) -> ModuleT:
    """Return a network that shares everything with `net` except the modules at these paths.

    Only the modules on the way to a replacement are copied, shallowly; their own parameters, buffers and hooks are shared.

    Args:
        net: The network; not changed.
        replacements: Path of a module, as in `net.named_modules()` -> what stands in its place.

    Raises:
        KeyError: There is no module at a path.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> other = view(net, {"1": nn.Identity()})
        >>> other[0] is net[0], other[1] is net[1]
        (True, False)
    """
    nested: dict[str, dict[str, nn.Module]] = {}
    children = dict(net._modules)
    for path, module in replacements.items():
        head, _, rest = path.partition(".")
        if head not in children:
            raise KeyError(path)
        if rest:
            nested.setdefault(head, {})[rest] = module
        else:
            children[head] = module
    for head, inside in nested.items():
        child = children[head]
        if child is None:
            raise KeyError(head)
        children[head] = view(child, inside)
    return with_children(net, children)


def with_children(module: ModuleT, children: Mapping[str, nn.Module | None]) -> ModuleT:
    """Return a shallow copy of a module with these children; parameters and buffers are shared, their tables are its own."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(children)
    twin.__dict__["_parameters"] = dict(module._parameters)
    twin.__dict__["_buffers"] = dict(module._buffers)
    return twin

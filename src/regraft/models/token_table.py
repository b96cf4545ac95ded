"""Where tokens become vectors in a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from regraft.models.net import Headed

INPUT = "input_ids"


def token_table(net: Headed) -> tuple[nn.Module, list[str]] | None:
    """Return what the hub says takes the tokens, with every path under which its weight lies."""
    body = getattr(net.backbone, "body", None)
    if INPUT not in getattr(getattr(net.backbone, "architecture", None), "inputs", (INPUT,)):
        return None
    find = getattr(body, "get_input_embeddings", None)
    try:
        table = find() if callable(find) else None
    except (NotImplementedError, AttributeError):  # the hub's way of saying that there is none; a network above a cut has none
        return None
    weight = getattr(table, "weight", None)
    if not isinstance(table, nn.Module) or not isinstance(weight, nn.Parameter):
        return None
    paths = [path for path, module in net.named_modules(remove_duplicate=False) if module._parameters.get("weight") is weight]
    return (table, paths) if paths else None

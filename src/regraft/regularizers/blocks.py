"""Which blocks of a backbone give what they take, in shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed


def same_shaped(net: Headed, inputs: dict[str, torch.Tensor], mask_BT: torch.Tensor) -> dict[str, int]:
    """Return the paths of blocks inside the backbone that give one tensor of the shape they take, with the number of the layer.

    A layer that has blocks in a list (a stage) stands for those.

    Args:
        net: The network.
        inputs: Of a few rows.
        mask_BT: Their mask.
    """
    backbone: Any = net.backbone
    wanted: dict[str, int] = {}
    for place, path in enumerate(backbone.blocks.layers):
        for candidate in (path, *_listed(backbone.get_submodule(path), path)):
            wanted[candidate] = place
    same: dict[str, bool] = {}

    def listening(path: str) -> Any:
        def hear(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            entered = args[0] if args else next(iter(kwargs.values()), None)
            fits = isinstance(out, torch.Tensor) and isinstance(entered, torch.Tensor) and out.shape == entered.shape
            same[path] = fits and same.get(path, True)

        return backbone.get_submodule(path).register_forward_hook(hear, with_kwargs=True)

    hooks = [listening(path) for path in wanted]
    try:
        with without_gradients(net):
            net.features(inputs, mask_BT)
    finally:
        for hook in hooks:
            hook.remove()
    found = {path: place for path, place in wanted.items() if same.get(path)}
    stages = {path for path in backbone.blocks.layers if any(other.startswith(f"{path}.") for other in found)}
    return {path: place for path, place in found.items() if path not in stages}


def _listed(layer: nn.Module, path: str) -> list[str]:
    """Return the paths of the blocks in the list of a layer that has most weights; a single operation is no block."""
    lists = {name: child for name, child in layer.named_children() if isinstance(child, nn.ModuleList | nn.Sequential)}
    if not lists:
        return []
    name = max(lists, key=lambda name: sum(weight.numel() for weight in lists[name].parameters()))
    return [f"{path}.{name}.{number}" for number, block in lists[name].named_children() if any(block.children())]

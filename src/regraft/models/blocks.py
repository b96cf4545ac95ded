"""Where a backbone can be cut: what runs before the layers, the layers in order, what runs after them.

Freezing the lower layers, caching what they give, and packing all build on these paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from transformers.pytorch_utils import Conv1D

from regraft.errors import OptionsError, Problem

if TYPE_CHECKING:
    from regraft.models.architectures import Architecture
    from regraft.models.backbones import Backbone


@dataclass(frozen=True)
class Blocks:
    """Module paths inside a backbone, in the order in which they run.

    Args:
        embeddings: What runs before the first layer, and what all layers share.
        layers: One path a layer.
        final: What runs after the last layer, pooling left out.
    """

    embeddings: tuple[str, ...]
    layers: tuple[str, ...]
    final: tuple[str, ...]

    def layer_of(self, parameter: str) -> int:
        """Return the layer that a parameter of the backbone belongs to; -1 before the layers, `len(layers)` after them."""
        if _inside(parameter, self.embeddings):
            return -1
        for number, path in enumerate(self.layers):
            if _inside(parameter, (path,)):
                return number
        return len(self.layers)


def find_blocks(body: nn.Module, architecture: Architecture, prefix: str) -> Blocks:
    """Return the blocks of a hub model.

    Args:
        body: The hub's model.
        architecture: Its line in the table.
        prefix: Path of the model inside the backbone, put before every path.
    """
    modules = {name for name, _ in body.named_modules(remove_duplicate=False)}
    layers = len(body.get_submodule(architecture.layers)._modules)
    return Blocks(
        embeddings=tuple(f"{prefix}.{path}" for path in architecture.embeddings if path in modules),
        layers=tuple(f"{prefix}.{architecture.layers}.{number}" for number in range(layers)),
        final=tuple(f"{prefix}.{path}" for path in architecture.final if path in modules),
    )


def cut(backbone: Backbone, k: int) -> set[str]:
    """Return the names (of `backbone.named_parameters()`) below a cut: the embeddings and the first k layers.

    Args:
        backbone: The network.
        k: Layers below the cut, 0 to the number of layers; 0 leaves only the embeddings below.

    Raises:
        OptionsError: There are not so many layers.
    """
    layers = len(backbone.blocks.layers)
    if not 0 <= k <= layers:
        problem = Problem(
            what="the base does not have so many layers",
            got=f"a cut above layer {k}",
            expected=f"0 to {layers}",
            fix="choose a number of layers that the base has",
        )
        raise OptionsError(problem)
    below = (*backbone.blocks.embeddings, *backbone.blocks.layers[:k])
    return {name for name, _ in backbone.named_parameters() if _inside(name, below)}


def is_linear(module: nn.Module | None) -> bool:
    """Return whether a module is a linear layer, of torch or as GPT-2 has it in the hub, with its weights turned round."""
    return isinstance(module, nn.Linear | Conv1D)


def _inside(name: str, paths: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)

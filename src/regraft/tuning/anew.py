"""Top layers drawn anew before they learn, as the architecture draws them before pretraining.

Zhang et al. 2021, arXiv:2006.05987, section 5. What the paper calls the pooler is new in every fit here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

from regraft.errors import Problem

if TYPE_CHECKING:
    from torch import nn

    from regraft.models.net import Headed

_STREAM = 0x8CB92BA72F3D8DD7  # heads, poolings and adapters are drawn from the same seed and must not repeat these numbers


def draw_anew(net: Headed, layers: int, seed: int) -> None:
    """Draw the weights of the top layers anew, in place; torch's own generator is left as it was.

    Args:
        net: The whole network.
        layers: How many, counted from the last; of a row of several parts the last of each.
        seed: Draws them.
    """
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed((seed + _STREAM) % 2**63)
        for body, layer in _top(net, layers):
            fresh = copy.deepcopy(layer).cpu()  # drawn there, whatever the weights are on: one seed, one draw
            for module in fresh.modules():
                _draw(body, module)
            layer.load_state_dict(fresh.state_dict())


def anew_problems(net: Headed, layers: int, trainable: Set[str]) -> list[Problem]:
    """Return why the top layers of a network cannot be drawn anew.

    Args:
        net: The whole network.
        layers: How many; 0 for none.
        trainable: Names of the weights that learn.
    """
    if not layers:
        return []
    there = len(net.backbone.blocks.layers)
    if layers > there:
        what, fix = "the base does not have so many layers", f"set tuning.reinit to {there} or less"
        return [Problem(what=what, where="tuning.reinit", got=str(layers), expected=f"at most {there}", fix=fix)]
    inside = {id(weight) for _, layer in _top(net, layers) for weight in layer.parameters()}
    frozen = [name for name, weight in net.named_parameters() if id(weight) in inside and name not in trainable]
    if not frozen:
        return []
    what = "layers would be drawn anew that the tuning does not let learn, which only loses what they know"
    fix = "leave tuning.reinit out, or let all of these layers learn: --tuning full, or top-k with as many layers"
    return [Problem(what=what, where="tuning.reinit", got=f"{len(frozen)} weights stay frozen, such as {frozen[0]}", fix=fix)]


def _top(net: Headed, layers: int) -> Iterator[tuple[Any, nn.Module]]:
    """Yield the hub's model and the layer for the top layers of each part."""
    backbone: Any = net.backbone
    for part in getattr(backbone, "backbones", [backbone]):
        for path in part.blocks.layers[max(0, len(part.blocks.layers) - layers) :]:
            yield part.body, part.get_submodule(path)


def _draw(body: Any, module: nn.Module) -> None:
    """Draw the weights that a module holds itself: as the architecture does it, else as the module does when it is made."""
    import torch

    own = list(module.parameters(recurse=False))
    if not own:
        return
    before = [weight.clone() for weight in own]
    body._init_weights(module)
    reset: Any = getattr(module, "reset_parameters", None)
    if reset is not None and all(torch.equal(weight, old) for weight, old in zip(own, before, strict=True)):
        reset()


__all__ = ["anew_problems", "draw_anew"]

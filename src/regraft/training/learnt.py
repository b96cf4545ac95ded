"""How much of each part of a network learns, and what memory that takes: what is said before the first step."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from regraft.models.transform import kept_otherwise
from regraft.training.events import PartShare
from regraft.training.memory import optimizer_bytes
from regraft.tuning.parts import PARTS, Part, part_of, part_of_kept

if TYPE_CHECKING:
    from torch import nn

    from regraft.models.net import Headed
    from regraft.training.options import TrainOptions


def shares_by_part(net: Headed, learning: nn.Module, trainable: Set[str], options: TrainOptions) -> dict[str, PartShare]:
    """Return part -> how much of it learns, from the rows to the answer; parts without weights are left out.

    Args:
        net: The whole network.
        learning: What of it is trained: of a token table perhaps only the rows that are in use.
        trainable: Names of the weights that learn.
        options: Name the optimiser.
    """
    learnt = {name: weight for name, weight in learning.named_parameters() if name in trainable}
    placed: dict[Part, list[str]] = {}
    for name, part in (part_of(net) | part_of_kept(net)).items():
        placed.setdefault(part, []).append(name)
    sizes = {name: (weight.numel(), weight.numel() * weight.element_size()) for name, weight in net.named_parameters()}
    sizes |= {name: (kept.weights, kept.size_bytes(module)) for name, (module, kept) in kept_otherwise(net).items()}
    found = {}
    for part, names in sorted(placed.items(), key=lambda item: PARTS.index(item[0].name)):
        own = [learnt[name] for name in names if name in learnt]
        moved = sum(weight.numel() * weight.element_size() for weight in own) + optimizer_bytes(options, own)
        found[str(part)] = PartShare(
            weights=sum(sizes[name][0] for name in names),
            trainable=sum(weight.numel() for weight in own),
            size_bytes=sum(sizes[name][1] for name in names) + moved,
        )
    return found


__all__ = ["shares_by_part"]

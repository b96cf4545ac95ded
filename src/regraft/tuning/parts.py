"""The parts of a network that a tuning can speak of."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.models.transform import added_names, kept_otherwise
from regraft.tuning.tuning import Learnt, Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed

_BACKBONE, _HEAD = "backbone.", "head."
PARTS = ("embeddings", "layers", "final", "pooling", "adapters", "head")
"""What the parts of a network are called, from the rows to the answer."""


@dataclass(frozen=True)
class Part:
    """Where a weight stands.

    Args:
        name: One of `PARTS`.
        key: Of a row of several parts, the part that it reads; empty else.
    """

    name: str
    key: str = ""

    def __str__(self) -> str:
        """Return the part as people read it."""
        return f"{self.key}: {self.name}" if self.key else self.name


def new_parameters(net: Headed) -> set[str]:
    """Return the names of the parameters that did not come with the base: head, learning pooling, untrained parts, adapters."""
    new = (_HEAD, *(f"{_BACKBONE}{path}" for path in getattr(net.backbone, "new", ("pooling.",))))
    added = added_names(net)
    return {name for name, _ in net.named_parameters() if name.startswith(new) or name in added}


def part_of(net: Headed) -> dict[str, Part]:
    """Return name -> part for every parameter of a network, in their order."""
    added = added_names(net)
    return {name: _part(net, name, name in added) for name, _ in net.named_parameters()}


def part_of_kept(net: Headed) -> dict[str, Part]:
    """Return name -> part for the weights of the base that a transform keeps in another form."""
    return {name: _part(net, name, added=False) for name in kept_otherwise(net)}


def layers_above(net: Headed, name: str) -> int:
    """Return how many layers lie between a weight and the end of its part of the base: 0 in the last layer and behind it."""
    if not name.startswith(_BACKBONE):
        return 0
    _, inside, blocks = _place(net, name)
    if blocks is None:
        return 0
    return max(0, len(blocks.layers) - 1 - int(blocks.layer_of(inside)))


def _part(net: Headed, name: str, added: bool) -> Part:
    if not name.startswith(_BACKBONE):
        return Part(PARTS[5])
    key, inside, blocks = _place(net, name)
    if added:
        return Part(PARTS[4], key)
    if blocks is None or inside.startswith(f"{PARTS[3]}."):
        return Part(PARTS[3], key)
    layer = blocks.layer_of(inside)
    return Part(PARTS[0] if layer < 0 else PARTS[1] if layer < len(blocks.layers) else PARTS[2], key)


def _place(net: Headed, name: str) -> tuple[str, str, Any]:
    """Return the key of the part, the name of the weight inside it, and its blocks; no blocks of what joins parts."""
    backbone: Any = net.backbone
    inside = name.removeprefix(_BACKBONE)
    keys = getattr(backbone, "keys", ())
    if not keys:
        return "", inside, backbone.blocks
    for place, key in enumerate(keys):
        path = f"parts.{place}."
        if inside.startswith(path):
            return key, inside.removeprefix(path), backbone.parts[place].blocks
    return "", inside, None


class Decided(Tuning):
    """What a tuning has decided on the whole network, for a part of it.

    Args:
        trainable: Names of the weights of the whole network that learn.
        shares: By what the peak rates of some are multiplied.
    """

    def __init__(self, trainable: Set[str], shares: Mapping[str, float] | None = None) -> None:
        super().__init__(None)
        self._trainable, self._shares = trainable, dict(shares or {})

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of those weights that the part has, with their shares of the rate."""
        return Learnt((name for name, _ in net.named_parameters() if name in self._trainable), self._shares)

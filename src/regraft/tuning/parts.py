"""The parts of a network that a tuning can speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regraft.models.net import Headed

_NEW = ("head.", "backbone.pooling.")


def new_parameters(net: Headed) -> set[str]:
    """Return the names of the parameters that did not come with the base: the head, and a pooling that learns."""
    return {name for name, _ in net.named_parameters() if name.startswith(_NEW)}

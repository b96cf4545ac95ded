"""The parts of a network that a tuning can speak of."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from regraft.models.transform import added_names
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed


def new_parameters(net: Headed) -> set[str]:
    """Return the names of the parameters that did not come with the base: head, learning pooling, untrained parts, adapters."""
    new = ("head.", *(f"backbone.{path}" for path in getattr(net.backbone, "new", ("pooling.",))))
    added = added_names(net)
    return {name for name, _ in net.named_parameters() if name.startswith(new) or name in added}


class Decided(Tuning):
    """What a tuning has decided on the whole network, for a part of it.

    Args:
        trainable: Names of the weights of the whole network that learn.
    """

    def __init__(self, trainable: Set[str]) -> None:
        super().__init__(None)
        self._trainable = trainable

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of those weights that the part has."""
        return {name for name, _ in net.named_parameters() if name in self._trainable}

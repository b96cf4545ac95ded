"""Full tuning: every weight learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.options import options
from regraft.tuning.options import TuningOptions
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed


@options
class FullOptions(TuningOptions):
    """Full tuning has nothing to choose but how fast parts learn."""


class Full(Tuning):
    """Let every weight of the backbone and the head learn."""

    Options = FullOptions

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of all parameters."""
        return {name for name, _ in net.named_parameters()}

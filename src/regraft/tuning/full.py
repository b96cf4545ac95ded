"""Full tuning: every weight learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.options import options
from regraft.tuning.parts import used_parameters
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed


@options
class FullOptions:
    """Full tuning has nothing to choose."""


class Full(Tuning):
    """Let every weight learn that the output depends on."""

    Options = FullOptions

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of all parameters that are in use."""
        return used_parameters(net)

"""Head tuning: the backbone stays as it came, only what the fit adds learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.options import options
from regraft.tuning.options import TuningOptions
from regraft.tuning.parts import new_parameters
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed


@options
class HeadOptions(TuningOptions):
    """Head tuning has nothing to choose but how fast parts learn."""


class Head(Tuning):
    """Let the head learn, and a pooling with weights of its own; the body of the base is frozen."""

    Options = HeadOptions
    head_alone = True

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of the parameters that did not come with the base."""
        return new_parameters(net)

"""Top-k tuning: the layers nearest the answer learn, everything below them stays as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.tuning.options import TuningOptions
from regraft.tuning.parts import new_parameters
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed

_BACKBONE = "backbone."


@options
class TopKOptions(TuningOptions):
    """How much of the backbone learns."""

    layers: Annotated[int, Field(ge=1)] = 2
    """Layers that learn, counted from the last; what comes after them learns too, embeddings and lower layers do not."""


class TopK(Tuning):
    """Let the top layers, what follows them, the pooling and the head learn; nothing random is left below them.

    Howard and Ruder 2018 (arXiv:1801.06146), section 3.3, unfreeze layer by layer from the top; here the number is fixed, so
    that what lies below can be computed once.

    Args:
        options: An instance of `Options`.
    """

    Options = TopKOptions

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of the parameters of the top layers and of everything after them.

        Raises:
            OptionsError: The base has fewer layers.
        """
        blocks, layers = net.backbone.blocks, self.options.layers
        there = len(blocks.layers)
        if layers > there:
            problem = Problem(
                what="the base does not have so many layers",
                where="tuning.layers",
                got=str(layers),
                expected=f"at most {there}",
                fix=f"set tuning.layers to {there} or less, or let every weight learn with the tuning 'full'",
            )
            raise OptionsError(problem)
        below = there - layers
        names = (name for name, _ in net.named_parameters() if name.startswith(_BACKBONE))
        return new_parameters(net) | {name for name in names if blocks.layer_of(name.removeprefix(_BACKBONE)) >= below}

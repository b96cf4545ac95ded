"""BitFit: only the biases of the base learn, and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.tuning.options import TuningOptions
from regraft.tuning.parts import new_parameters
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from torch import nn

    from regraft.models.net import Headed

_BACKBONE = "backbone."
_BIAS = "bias"


@options
class BitFitOptions(TuningOptions):
    """Whose biases learn."""

    layers: Annotated[int, Field(ge=1)] | None = None
    """Layers of the base whose biases learn, counted from the last, with what comes after them; every bias of the base if not
    given. What lies below is computed once a row."""


class BitFit(Tuning):
    """Let every bias of the base learn, those of its norms included, and the head: about a thousandth of the weights.

    Ben Zaken et al. 2022, arXiv:2106.10199, section 3: b of every linear layer and of every layer norm.

    Args:
        options: An instance of `Options`.
    """

    Options = BitFitOptions

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of the biases, and of the parameters that did not come with the base.

        Raises:
            OptionsError: The base has no biases, or fewer layers.
        """
        blocks, layers = net.backbone.blocks, self.options.layers
        there = len(blocks.layers)
        if layers is not None and layers > there:
            what, fix = "the base does not have so many layers", f"set tuning.layers to {there} or less, or leave it out"
            raise OptionsError(Problem(what=what, where="tuning.layers", got=str(layers), expected=f"at most {there}", fix=fix))
        lowest = -1 if layers is None else there - layers
        found = {
            name
            for name, parameter in net.named_parameters()
            if name.startswith(_BACKBONE)
            and is_bias(name, parameter)
            and blocks.layer_of(name.removeprefix(_BACKBONE)) >= lowest
        }
        if not found:
            what, fix = "the base has no biases that could learn", "choose another tuning: regraft list tunings"
            raise OptionsError(Problem(what=what, where="tuning", expected="a base whose layers have biases", fix=fix))
        return found | new_parameters(net)


def is_bias(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a vector that is added: `bias`, `q_bias` (BEiT), `bias_hh_l0` (recurrent layers).

    Args:
        name: Its name in the network.
        parameter: The parameter.
    """
    last = name.rpartition(".")[2]
    return parameter.ndim == 1 and (last.endswith(_BIAS) or last.startswith(f"{_BIAS}_"))

"""By what the peak rate of each weight is multiplied: a decay from layer to layer, and a factor for each part.

Howard and Ruder 2018, arXiv:1801.06146, section 3.2: the rate of a layer is that of the layer above it divided by 2.6. The last
layer has the whole rate here, as there; ELECTRA and BEiT begin to count above it, which is one factor for all of the base.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from regraft.errors import Problem, did_you_mean
from regraft.tuning.parts import layers_above, part_of

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.tuning.options import TuningOptions


def shares_of(net: Headed, options: TuningOptions) -> dict[str, float]:
    """Return name of a weight -> by what its peak rate is multiplied; names with 1 are left out.

    Args:
        net: The whole network.
        options: Of the tuning.
    """
    if options.layer_decay == 1.0 and not options.rates:
        return {}
    found = {}
    for name, part in part_of(net).items():
        share = options.layer_decay ** layers_above(net, name)
        for key in {part.name, part.key} & options.rates.keys():
            share *= options.rates[key]
        if share != 1.0:
            found[name] = share
    return found


def rate_problems(net: Headed, options: TuningOptions, trainable: Set[str]) -> list[Problem]:
    """Return what is wrong with the rates for this network.

    Args:
        net: The whole network.
        options: Of the tuning.
        trainable: Names of the weights that learn.
    """
    parts = part_of(net)
    learning = [parts[name] for name in parts if name in trainable]
    known = list(dict.fromkeys([*(part.name for part in learning), *(part.key for part in learning if part.key)]))
    problems = [
        Problem(
            what=f"the network has no part '{key}' that learns",
            where="tuning.rates",
            got=key,
            expected=f"one of {', '.join(known)}",
            fix=did_you_mean(key, known),
        )
        for key in options.rates
        if key not in known
    ]
    if options.layer_decay < 1.0 and not any(name.startswith("backbone.") for name in trainable):
        what, fix = "no layer of the base learns, so that no rate could decay", "leave tuning.layer_decay out"
        problems.append(Problem(what=what, where="tuning.layer_decay", got=str(options.layer_decay), fix=fix))
    return problems


__all__ = ["rate_problems", "shares_of"]

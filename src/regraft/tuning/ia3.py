"""(IA)^3: learnt vectors rescale keys, values and the inner part of feed-forward layers; nothing else of the base learns."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Field, options
from regraft.tuning.adapters import AdapterTuning
from regraft.tuning.options import TuningOptions


@options
class Ia3Options(TuningOptions):
    """What is rescaled."""

    targets: tuple[str, ...] = ()
    """Linear layers whose outputs are rescaled, each by the end of its path; if none is named the keys and values of
    attention (with the queries where all three are one layer), and all layers of a base with neither these nor feed-forward."""

    feedforward: tuple[str, ...] = ()
    """Linear layers whose inputs are rescaled; if none is named those that lead from the wide inside of a feed-forward part
    back to the width of the base."""

    layers: Annotated[int, Field(ge=1)] | None = None
    """Layers of the base that are rescaled, counted from the last; all if not given. What lies below is computed once a row."""


class Ia3(AdapterTuning):
    """Let vectors learn that rescale keys, values and the inner part of feed-forward layers, and the head.

    Liu et al. 2022, arXiv:2205.05638. The fewest weights of all adapters, and they bear a large rate (the paper takes 3e-3).
    The artifact keeps the vectors as a PEFT folder (`adapter/`) beside the untouched base.

    Args:
        options: An instance of `Options`.
    """

    Options = Ia3Options
    transform = "ia3"

"""DoRA: adapters turn the weights of the base, and a learnt length for each output stretches them."""

from __future__ import annotations

from regraft.options import options
from regraft.tuning.adapters import AdapterTuning, LowRankOptions


@options
class DoraOptions(LowRankOptions):
    """Where the adapters stand and how large they are."""


class Dora(AdapterTuning):
    """Let low-rank adapters of the directions of weights learn, a length for each output, and the head; the base is frozen.

    Liu et al. 2024, arXiv:2402.09353. Slower than LoRA, because the norm of every adapted weight is computed in
    every update; merged it costs nothing. The artifact keeps the adapters as a PEFT folder (`adapter/`).

    Args:
        options: An instance of `Options`.
    """

    Options = DoraOptions
    transform = "dora"

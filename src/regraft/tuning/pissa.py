"""PiSSA: adapters begin as the principal part of the weights of the base, and learn from there."""

from __future__ import annotations

from regraft.options import options
from regraft.tuning.adapters import AdapterTuning, LowRankOptions


@options
class PissaOptions(LowRankOptions):
    """Where the adapters stand and how large they are."""


class Pissa(AdapterTuning):
    """Let low-rank adapters learn that begin as the principal part of each weight, and the head; the base is frozen.

    Meng et al. 2024, arXiv:2404.02948. The base keeps its weights to the last bit; the artifact keeps the adapters as a PEFT
    folder (`adapter/`) of twice the rank, which is how PEFT itself makes a plain LoRA of them.

    Args:
        options: An instance of `Options`.
    """

    Options = PissaOptions
    transform = "pissa"

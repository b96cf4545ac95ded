"""LoRA: the base stays as it came, small matrices beside its linear layers learn, and the head."""

from __future__ import annotations

from regraft.options import options
from regraft.tuning.adapters import AdapterTuning, LowRankOptions


@options
class LoraOptions(LowRankOptions):
    """Where the adapters stand and how large they are."""

    rslora: bool = False
    """Multiply with alpha / sqrt(rank) instead, so that large ranks learn as fast as small ones (arXiv:2312.03732)."""


class Lora(AdapterTuning):
    """Let low-rank adapters beside the linear layers of the base learn, and the head; the base itself is frozen.

    Hu et al. 2021, arXiv:2106.09685. The artifact keeps the adapters as a PEFT folder (`adapter/`) beside the untouched base.

    Args:
        options: An instance of `Options`.
    """

    Options = LoraOptions
    transform = "lora"

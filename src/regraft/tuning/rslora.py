"""rsLoRA: LoRA at a scale under which large ranks learn as fast as small ones."""

from __future__ import annotations

import dataclasses
from typing import Any

from regraft.options import options
from regraft.tuning.adapters import AdapterTuning, LowRankOptions
from regraft.tuning.lora import LoraOptions


@options
class RsLoraOptions(LowRankOptions):
    """Where the adapters stand and how large they are; what they add is multiplied with alpha / sqrt(rank)."""


class RsLora(AdapterTuning):
    """Let low-rank adapters learn whose scale is alpha / sqrt(rank), and the head; the base itself is frozen.

    Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2: with alpha / rank what adapters learn fades as the rank grows. The same
    as the tuning 'lora' with its option rslora, by a name of its own.

    Args:
        options: An instance of `Options`.
    """

    Options = RsLoraOptions
    transform = "lora"

    def asked(self) -> Any:
        """Return what the transform is asked for."""
        said = {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}
        return LoraOptions(**said, rslora=True)

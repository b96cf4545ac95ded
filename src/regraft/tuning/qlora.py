"""QLoRA: the base keeps the weights of its linear layers in 4 bits; small matrices beside them learn, and the head."""

from __future__ import annotations

from typing import ClassVar, Literal

from regraft.options import options
from regraft.tuning.lora import Lora, LoraOptions


@options
class QloraOptions(LoraOptions):
    """Where the adapters stand and how large they are, and how the base is kept."""

    bits: Literal[4, 32] = 4
    """Bits in which the linear layers of the base keep each weight; 32 for plain LoRA."""


class Qlora(Lora):
    """Let low-rank adapters learn beside a base in 4 bits, and the head; the base itself is frozen.

    Dettmers et al. 2023, arXiv:2305.14314. The same as another tuning with adapters (lora, dora, ...) with its option bits=4,
    by a name of its own. For bases that are too large: about an eighth of the memory of their linear layers, a little slower
    than LoRA, and the base that answers is the rounded one. Needs bitsandbytes, also where the artifact answers; merged
    (regraft merge) it needs nothing, and no less memory than any other. What the base was is rounded when it is opened, so
    that baselines are those of the rounded base too. The artifact keeps 4 bits (`nf4/`) and adapters (`adapter/`), and in
    `backbone/` what the 4 bits stand for.

    Args:
        options: An instance of `Options`.
    """

    Options = QloraOptions
    neutral: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = False

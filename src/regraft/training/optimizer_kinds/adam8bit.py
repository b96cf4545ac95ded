"""AdamW whose moments are kept in 8 bits a number."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING, Any

from regraft.registry import require
from regraft.training.optimizers import AdamWOptions, OptimizerFactory

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed

_NAME = "the optimizer 'adam8bit'"
_BLOCK = 256
_FEWEST = 4096  # numbers of a weight from which on bitsandbytes rounds its moments


class Adam8bit(OptimizerFactory):
    """AdamW with moments of 8 bits a number, each block of 256 with a scale of its own; a quarter of AdamW's memory.

    Dettmers et al. 2022, arXiv:2110.02861, through bitsandbytes (its `AdamW8bit`). Weights of fewer than 4,096 numbers keep
    moments of full precision. Decay is decoupled.

    Args:
        options: An instance of `Options`.
    """

    Options = AdamWOptions

    def check(self, net: Headed, trainable: Set[str]) -> None:
        """Refuse where bitsandbytes is not installed.

        Raises:
            MissingExtraError: It is not.
        """
        require("bitsandbytes", needed_by=_NAME, extra="bitsandbytes")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return bitsandbytes' own."""
        from regraft.models.bitsandbytes_library import bitsandbytes

        betas = (self.options.beta1, self.options.beta2)
        made: torch.optim.Optimizer = bitsandbytes(_NAME).optim.AdamW8bit(groups, betas=betas, eps=self.options.epsilon)
        return made

    def state_bytes(self, shape: tuple[int, ...], item_bytes: int) -> int:
        """Return the bytes of both moments, their scales, and what the 256 levels stand for."""
        size = math.prod(shape)
        if size < _FEWEST:
            return 2 * 4 * size
        return 2 * (size + 4 * -(-size // _BLOCK))

"""Lion: steps of one size, in the direction of a sign."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.options import options
from regraft.training.optimizers import Beta, OptimizerFactory

if TYPE_CHECKING:
    import torch


@options
class LionOptions:
    """The two decays of its one moment."""

    beta1: Beta = 0.9
    """Share of the momentum in the direction of a step; the rest is the gradient."""

    beta2: Beta = 0.99
    """Decay of the momentum."""


class Lion(OptimizerFactory):
    """Lion: w <- w - lr (sign(b1 m + (1 - b1) g) + decay w), m <- b2 m + (1 - b2) g; half of AdamW's memory.

    Chen et al. 2023, arXiv:2302.06675, algorithm 2. A decay as strong as AdamW's is 3 to 10 times as large, as its rate is
    that much smaller (section 5).

    Args:
        options: An instance of `Options`.
    """

    Options = LionOptions
    rate_factor: ClassVar[float] = 0.2

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser."""
        from regraft.training.optimizer_kinds import steps

        return steps.Lion(groups, betas=(self.options.beta1, self.options.beta2))

    def state_bytes(self, shape: tuple[int, ...], item_bytes: int) -> int:
        """Return the bytes of the momentum."""
        return math.prod(shape) * item_bytes

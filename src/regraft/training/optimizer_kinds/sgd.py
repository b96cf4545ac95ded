"""SGD with momentum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.options import options
from regraft.training.optimizers import Beta, OptimizerFactory

if TYPE_CHECKING:
    import torch


@options
class SgdOptions:
    """How much of the last direction is kept."""

    momentum: Beta = 0.9
    """Share of the last direction that is kept; 0 keeps nothing in memory."""

    nesterov: bool = True
    """Take the gradient as if the momentum had already been followed; only with a momentum above 0."""


class Sgd(OptimizerFactory):
    """Stochastic gradient descent with momentum: v <- momentum v + g, w <- (1 - lr decay) w - lr v; decay is decoupled.

    Polyak 1964; Nesterov's form as in Sutskever et al. 2013, written as torch's `SGD(nesterov=True)`; decay as SGDW
    (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 1).

    Args:
        options: An instance of `Options`.
    """

    Options = SgdOptions
    # Steps are as long as gradients, and not about 1 as those of AdamW.
    rate_factor: ClassVar[float] = 30.0

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's SGD in its fused form, with decoupled decay."""
        from regraft.training.optimizer_kinds.steps import DecoupledSGD

        momentum = self.options.momentum
        return DecoupledSGD(groups, momentum, nesterov=self.options.nesterov and momentum > 0)

    def state_bytes(self, shape: tuple[int, ...], item_bytes: int) -> int:
        """Return the bytes of the momentum."""
        return math.prod(shape) * item_bytes if self.options.momentum > 0 else 0

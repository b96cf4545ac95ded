"""Adafactor: the second moment of a matrix as one number a row and one a column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from regraft.options import Field, options
from regraft.training.optimizers import OptimizerFactory

if TYPE_CHECKING:
    import torch

_MATRIX = 2
_GRADIENT_EPSILON = 1e-15


@options
class AdafactorOptions:
    """How steps are held back."""

    beta2_decay: Annotated[float, Field(lt=0.0, ge=-1.0)] = -0.8
    """Exponent c of the decay of the second moment, which is 1 - t^c at step t."""

    clip_threshold: Annotated[float, Field(ge=1.0)] = 1.0
    """Largest root mean square of an update, before it is multiplied by the rate."""

    epsilon: Annotated[float, Field(gt=0.0)] = 1e-3
    """Least root mean square that a weight is taken to have where steps are made as large as it."""


class Adafactor(OptimizerFactory):
    """Adafactor: AdamW without first moment and with a factored second one; next to no memory, steps relative to the weights.

    Shazeer and Stern 2018, arXiv:1804.04235, algorithm 4, with the smaller of the rate and 1 / sqrt(t) as its relative step
    size, as `torch.optim.Adafactor`. A rate is a share of the size of a weight. Decay is decoupled.

    Args:
        options: An instance of `Options`.
    """

    Options = AdafactorOptions
    # Weights have a root mean square of a few hundredths, by which the rate is multiplied.
    rate_factor: ClassVar[float] = 30.0

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's own."""
        import torch

        return torch.optim.Adafactor(
            groups,
            beta2_decay=self.options.beta2_decay,
            eps=(_GRADIENT_EPSILON, self.options.epsilon),
            d=self.options.clip_threshold,
        )

    def state_bytes(self, shape: tuple[int, ...], item_bytes: int) -> int:
        """Return the bytes of one number a row and one a column of each matrix, or one a number of a vector."""
        size = math.prod(shape)
        if len(shape) < _MATRIX or not size:
            return size * item_bytes
        return (size // shape[-1] + size // shape[-2]) * item_bytes

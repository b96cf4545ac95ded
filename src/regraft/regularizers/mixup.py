"""Mixup: rows are averages of two rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from regraft.models.architectures import ENTRIES
from regraft.options import Field, options
from regraft.regularizers.mixing import EncodedMixing
from regraft.types import Array

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.types import Batch


@options
class MixupOptions:
    """How evenly rows are mixed."""

    alpha: Annotated[float, Field(gt=0.0)] = 0.2
    """Of the Beta(alpha, alpha) from which the share of a row is drawn: small for nearly one row, 1 for any share."""


class Mixup(EncodedMixing):
    """Learn lam x + (1 - lam) x' with the targets of both rows: for pictures, sounds and series.

    Zhang et al. 2018, arXiv:1710.09412, equation of section 2, with one lam a forward pass as in the authors' code. Of two rows
    of different lengths the shorter is filled up with zeros. Mixes the rows as they are encoded, so that nothing below what
    learns is computed once and kept. Partners are drawn within a micro-batch.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]] = MixupOptions
    name: ClassVar[str] = "mixup"
    does: ClassVar[str] = "averages numbers, and tokens or categories have no average"
    takes: ClassVar[str] = "rows of numbers"
    instead: ClassVar[str] = "mix what enters the head instead: --set train.regularize=manifold-mixup"

    def unfit(self, inputs: Sequence[str]) -> Sequence[str]:
        """Return the arrays of tokens or categories."""
        return sorted(ENTRIES.intersection(inputs))

    def output(self, net: Headed, batch: Batch, share: float, order_B: Array) -> tuple[torch.Tensor, float]:
        """Return what the head makes of averaged rows."""
        inputs = {name: _mixed(values, share, order_B) for name, values in batch.inputs.items()}
        mixed = replace(batch, inputs=inputs, mask_BT=batch.mask_BT | batch.mask_BT[order_B])
        return self.objective.output(net, mixed), share


def _mixed(values: Array, share: float, order_B: Array) -> Array:
    if not np.issubdtype(values.dtype, np.floating):
        return values
    mixed: Array = (share * values + (1.0 - share) * values[order_B]).astype(values.dtype)
    return mixed

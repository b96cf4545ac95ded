"""CutMix: a rectangle of each picture is that of another one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from regraft.models.architectures import PIXELS
from regraft.options import Field, options
from regraft.regularizers.mixing import EncodedMixing
from regraft.types import Array

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.types import Batch


@options
class CutmixOptions:
    """How large the rectangle is."""

    alpha: Annotated[float, Field(gt=0.0)] = 1.0
    """Of the Beta(alpha, alpha) from which the share of the picture outside of the rectangle is drawn."""


class Cutmix(EncodedMixing):
    """Put a rectangle of its partner into each picture, and take targets by the share of the area that each has.

    Yun et al. 2019, arXiv:1905.04899, equations 1 and 2: the rectangle has a share 1 - lam of both sides' product, its centre
    is drawn evenly, and what sticks out is cut off; lam is then the share that is left, as in the authors' code. One rectangle
    a forward pass. Mixes pictures as they are encoded, so that nothing below what learns is computed once and kept. Partners
    are drawn within a micro-batch.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]] = CutmixOptions
    name: ClassVar[str] = "cutmix"
    does: ClassVar[str] = "cuts rectangles out of pictures"
    takes: ClassVar[str] = "pictures"
    instead: ClassVar[str] = "mix rows of numbers with mixup, and what enters the head with manifold-mixup"

    def unfit(self, inputs: Sequence[str]) -> Sequence[str]:
        """Return all arrays where there are no pictures among them."""
        return () if PIXELS in inputs else inputs

    def output(self, net: Headed, batch: Batch, share: float, order_B: Array) -> tuple[torch.Tensor, float]:
        """Return what the head makes of pictures with a rectangle of others, and the share of the area that is their own."""
        import torch

        pixels_BCHW = batch.inputs[PIXELS].copy(order="K")
        height, width = pixels_BCHW.shape[-2:]
        centre_y, centre_x = (int(torch.randint(side, ())) for side in (height, width))
        rows, columns = (_side(at, side, share) for at, side in ((centre_y, height), (centre_x, width)))
        pixels_BCHW[..., rows, columns] = batch.inputs[PIXELS][order_B][..., rows, columns]
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        mixed = replace(batch, inputs={**batch.inputs, PIXELS: pixels_BCHW})
        return self.objective.output(net, mixed), 1.0 - cut / (height * width)


def _side(centre: int, side: int, share: float) -> slice:
    """Return the places of a rectangle along one side, what sticks out cut off."""
    half = int(side * math.sqrt(1.0 - share)) // 2
    return slice(max(0, centre - half), min(side, centre + half))

"""How far one distribution is from another, from the logits of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def bernoulli(output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) of yes and no, for each pair of logits: p log(p / q) + (1 - p) log((1 - p) / (1 - q)).

    Args:
        output: Logits of p, any shape.
        other: Logits of q, the same shape.
    """
    from torch.nn import functional

    yes = functional.logsigmoid(output) - functional.logsigmoid(other)
    no = functional.logsigmoid(-output) - functional.logsigmoid(-other)
    chance = output.sigmoid()
    return chance * yes + (1.0 - chance) * no

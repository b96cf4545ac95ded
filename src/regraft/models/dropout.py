"""Dropout that does not cost more than the layer it follows: 16 random bits a number instead of one call of the generator.

On a CPU torch draws a mask one number at a time from a serial generator; for small networks that is a tenth of a training step.
Here four draws come out of each 64-bit number. The mask is drawn from torch's default generator, so seeds decide it as usual.
For the way back it is kept as bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regraft.models.remade import slab
from regraft.models.slab import Slab, room

_LEVELS = 2**16
# Nearer to 0 or 1 than this, a share in 65,536ths would be more than 0.2 % off (of itself or of what is kept).
_FINEST = 1 / 256


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Set each number to zero with probability p, independently, and scale the rest so that the mean stays.

    Srivastava et al. 2014 (JMLR 15), section 10, in the scaled form that every library uses. The probability is p rounded to
    65,536ths, and the scale is exactly the inverse of what that keeps. Off the CPU, and for p very near 0 or 1, it is torch's
    own.

    Args:
        x: Any shape.
        p: Probability in [0, 1].

    Returns:
        A new tensor of the same shape and type, differentiable; `x` itself where p is 0.

    Raises:
        ValueError: p is outside [0, 1].

    Example:
        >>> dropped = dropout(torch.ones(1000), 0.25)
        >>> sorted({round(float(value), 4) for value in dropped})
        [0.0, 1.3333]
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"a probability is between 0 and 1, got {p}")
    if p == 0.0:
        return x
    ours = x.device.type == "cpu" and x.is_floating_point() and _FINEST <= p <= 1.0 - _FINEST
    if not ours or torch.compiler.is_compiling():
        return F.dropout(x, p, training=True)
    dropped: torch.Tensor = _Dropped.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped


class _Dropped(torch.autograd.Function):
    """Keep of what was drawn one bit a number for the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float) -> torch.Tensor:
        ctx.slab = slab()
        drawn, ctx.scale = draws(x.numel(), p, ctx.slab)
        ctx.save_for_backward(bits(drawn))
        return _scaled(x, drawn, ctx.scale, room(ctx.slab, x.shape, x))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (g,) = gradients
        out = None if torch.is_grad_enabled() else room(ctx.slab, g.shape, g)
        return _scaled(g, drawn_of(ctx.saved_tensors[0], g.numel()), ctx.scale, out), None


def _scaled(x: torch.Tensor, drawn: torch.Tensor, scale: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return x where 1 was drawn, scaled, and 0 elsewhere; in `out` where it is given, and then not differentiable."""
    kept = drawn.view(x.shape).to(x.dtype) if out is None else out.copy_(drawn.view(x.shape))
    if x.element_size() < 4:  # a scale that is itself rounded to 8 or 11 bits would shift the mean
        return torch.mul(x, kept, out=out) * scale
    return torch.mul(x, kept.mul_(scale), out=out)


def bits(drawn: torch.Tensor) -> torch.Tensor:
    """Return zeros and ones as bits (n / 8, rounded up), uint8.

    Args:
        drawn: Any shape, n numbers, on a CPU.
    """
    return torch.from_numpy(np.packbits(drawn.to(torch.uint8).numpy().reshape(-1)))


def drawn_of(packed: torch.Tensor, n: int) -> torch.Tensor:
    """Return the n zeros and ones that `bits` packed (n,), uint8."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=n))


def draws(n: int, p: float, slab: Slab | None = None) -> tuple[torch.Tensor, float]:
    """Return what dropout keeps of n numbers, and the factor that keeps their mean.

    Args:
        n: How many.
        p: Probability of a zero, in [0, 1]; rounded to 65,536ths as in `dropout`.
        slab: Where the numbers lie; in memory of their own if None.

    Returns:
        0 or 1 for each (n,), int16, and the factor.
    """
    if not _FINEST <= p <= 1.0 - _FINEST:
        return torch.empty(n).bernoulli_(1.0 - p).to(torch.int16), 1.0 / (1.0 - p) if p < 1.0 else 0.0
    dropped = round(p * _LEVELS)
    # In place on whole numbers: a comparison that makes booleans takes five times as long.
    return _uniform(n, slab).ge_(dropped - _LEVELS // 2), _LEVELS / (_LEVELS - dropped)


class FastDropout(nn.Module):
    """Stand in for `nn.Dropout`: see `dropout`. It has no weights, so a view of a network can put it in place.

    Args:
        p: Probability that a number is set to zero.

    Raises:
        ValueError: p is outside [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"a probability is between 0 and 1, got {p}")
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with numbers dropped in training mode, and as it is in evaluation mode."""
        return dropout(x, self.p) if self.training else x

    def extra_repr(self) -> str:
        """Return what is shown between the brackets."""
        return f"p={self.p}"


def fast_dropouts(net: nn.Module) -> dict[str, nn.Module]:
    """Return a `FastDropout` for every `nn.Dropout` of a network, by path, in the mode of the one it stands in for.

    For `regraft.models.view.view`. Subclasses, in-place ones and ones with hooks are left as they are.

    Args:
        net: The network; not changed.
    """
    found: dict[str, nn.Module] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        if type(module) is nn.Dropout and not module.inplace and not (module._forward_hooks or module._forward_pre_hooks):
            found[path] = FastDropout(module.p).train(module.training)
    return found


def _uniform(n: int, slab: Slab | None) -> torch.Tensor:
    """Return n independent numbers, uniform over all of int16."""
    fours = (n + 3) // 4
    if slab is None:
        whole = torch.empty(fours, dtype=torch.int64)
    else:
        whole = slab.empty(torch.Size((fours, 2))).view(torch.int64).view(-1)
    return whole.random_(torch.iinfo(torch.int64).min, None).view(torch.int16)[:n]

"""A frozen linear layer with a low-rank adapter as one operation: y = W x + b + s B A x, and the gradients of x, A and B.

Of a network whose adapters learn, one sixth of the time goes into products with eight rows and into passes that copy outputs or
add gradients. Here the adapter is added in place to what the frozen layer has just written, forwards and backwards, and A x and
B' g are made with the rows along the long side: on a processor that is two to four times as fast as the other way round.
A weight that the layer keeps in another form is made for the product, and again on the way back, and not held in between.

Shapes: N positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from regraft.models.adapters import WHOLE, weight_of
from regraft.models.remade import slab as memory
from regraft.models.slab import room

_KNOWN = (nn.Linear, Conv1D)
Pair = tuple[torch.Tensor, torch.Tensor]
"""A (R, I) and B (O, R)."""
Made = Callable[[], torch.Tensor]
"""Gives the frozen weight (O, I)."""


def fits(cls: type[nn.Module], layer: Any, x: torch.Tensor, pair: Pair) -> bool:
    """Return whether a layer computes with its adapter as one operation now: the adapter learns, and nothing else of it.

    Args:
        cls: The class that the layer was of; a subclass may compute otherwise.
        layer: With `lora_dropout`.
        x: What it is given.
        pair: The adapter.
    """
    own = (layer._parameters.get("weight"), layer.bias)  # no weight where it is kept in another form: that never learns
    dropout = layer.lora_dropout
    learns = torch.is_grad_enabled() and all(weight.requires_grad for weight in pair)
    frozen = not any(weight is not None and weight.requires_grad for weight in own)
    plain = getattr(cls, WHOLE, cls) in _KNOWN and x.dtype == pair[0].dtype and not (dropout.training and dropout.p)
    apart = torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling()
    return learns and frozen and plain and not apart


class Adapted(torch.autograd.Function):
    """See `adapted`; differentiable as often as anyone asks."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: torch.Tensor, base: tuple[Made, torch.Tensor | None], a_RI: Any, b_OR: Any, scale: float
    ) -> torch.Tensor:
        """Return W x + b + s B A x (N, O)."""
        made, bias_O = base
        weight_OI = made()
        inner_RN = torch.mm(a_RI, x_NI.t())
        slab = memory()
        out = room(slab, torch.Size((len(x_NI), len(weight_OI))), x_NI)
        product = (x_NI, weight_OI.t())
        out_NO = torch.mm(*product, out=out) if bias_O is None else torch.addmm(bias_O, *product, out=out)
        out_NO.addmm_(inner_RN.t(), b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, a_RI, b_OR, inner_RN)
        ctx.made, ctx.scale, ctx.slab = made, scale, slab
        return out_NO

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, A and B."""
        (g_NO,) = gradients
        x_NI, a_RI, b_OR, inner_RN = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody asks for a gradient of the gradient, in which A x is no constant
            inner_RN = torch.mm(a_RI, x_NI.t())
        outer_RN = torch.mm(b_OR.t().contiguous(), g_NO.t()) * ctx.scale
        of_a_RI = torch.mm(outer_RN, x_NI)
        of_b_OR = (torch.mm(inner_RN, g_NO) * ctx.scale).t()
        of_x_NI = None
        if ctx.needs_input_grad[0]:
            weight_OI = ctx.made()
            out = None if torch.is_grad_enabled() else room(ctx.slab, x_NI.shape, x_NI)
            of_x_NI = torch.mm(g_NO, weight_OI, out=out).addmm_(outer_RN.t(), a_RI)
        return of_x_NI, None, of_a_RI, of_b_OR, None


def adapted(layer: Any, x: torch.Tensor, pair: Pair) -> torch.Tensor:
    """Return what a layer with an adapter computes (..., O), as one operation.

    Args:
        layer: A layer for which `fits` says yes.
        x: (..., I).
        pair: The adapter.
    """
    flat_NI = x.reshape(-1, x.shape[-1])
    base = (functools.partial(_frozen, layer), layer.bias)
    out: torch.Tensor = Adapted.apply(flat_NI, base, *pair, layer.lora_scale)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], out.shape[-1])


def _frozen(layer: Any) -> torch.Tensor:
    return weight_of(layer).detach()


__all__ = ["Adapted", "adapted", "fits"]

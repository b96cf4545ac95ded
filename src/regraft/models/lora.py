"""Low-rank adapters: a linear layer y = W x + b becomes y = W x + b + s B A x, and only A and B learn.

Hu et al. 2021, arXiv:2106.09685, equation 3; s = alpha / r, or alpha / sqrt(r) as in Kalajdzievski 2023, arXiv:2312.03732,
theorem 3.2 (rslora). B starts at zero, so that the network answers as it did; A is uniform within 1 / sqrt(inputs), as PEFT
draws it (the paper says Gaussian).

The product with B is added in place of a sum of its own: one pass over the outputs instead of three. Where the adapter alone
learns, layer and adapter are one operation (`regraft.models.lora_product`).

Shapes: I inputs, O outputs of a layer, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from regraft.models.adapters import (
    BESIDE,
    LayerAdapters,
    Placed,
    adapting,
    as_kept,
    is_transposed,
    named_layers,
    sizes,
    weight_of,
)
from regraft.models.lora_product import adapted, fits
from regraft.models.net import Headed
from regraft.models.unfilled import undrawn
from regraft.options import JSON, Field
from regraft.typed import record

A, B, DROPOUT, SCALE = "lora_A", "lora_B", "lora_dropout", "lora_scale"
WEIGHTS = (f"{A}.weight", f"{B}.weight")


@record
class LoraPlan:
    """Which layers are adapted, and how.

    Args:
        rank: R.
        alpha: Numerator of the scale.
        rslora: Whether the scale is alpha / sqrt(R) instead of alpha / R.
        dropout: Share of what enters A that is dropped in training.
        layers: Paths in the hub's model, in the order in which they stand there.
    """

    rank: Annotated[int, Field(ge=1)]
    alpha: float
    rslora: bool
    dropout: float
    layers: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What B A x is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Lora(LayerAdapters):
    """Low-rank adapters beside linear layers, kept as a PEFT folder."""

    Plan = LoraPlan
    kept: ClassVar[tuple[str, ...]] = WEIGHTS

    def planned(self, net: Headed, options: Any, there: Sequence[str]) -> LoraPlan:
        """Return the plan for `regraft.tuning.lora.LowRankOptions`."""
        chosen = named_layers(net, there, options.targets, options.layers)
        rslora = bool(getattr(options, "rslora", False))
        return LoraPlan(rank=options.rank, alpha=options.alpha, rslora=rslora, dropout=options.dropout, layers=chosen)

    def adapt(self, layer: Any, path: str, plan: Any) -> None:
        """Put A and B beside a layer; both are zero."""
        adapting(layer, "Lora", _lora, WEIGHTS)
        put_beside(layer, plan)

    def begin(self, layer: Any, path: str, plan: Any, generator: torch.Generator) -> None:
        """Draw A; B stays zero."""
        bound = 1.0 / math.sqrt(sizes(layer)[0])
        drawn = torch.empty(layer.lora_A.weight.shape).uniform_(-bound, bound, generator=generator)
        layer.lora_A.weight.copy_(drawn)

    def settings(self, net: Headed, plan: Any, placed: Placed) -> dict[str, JSON]:
        """Return the keys of PEFT's `LoraConfig`."""
        return lora_settings(plan.rank, plan.alpha, plan, transposed=is_transposed(net, plan))

    def tensors_of(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return A (R, I) and B (O, R)."""
        return dict(zip(WEIGHTS, (layer.lora_A.weight, layer.lora_B.weight), strict=True))

    def put(self, layer: Any, path: str, plan: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write A and B."""
        for weight, name in zip((layer.lora_A.weight, layer.lora_B.weight), WEIGHTS, strict=True):
            weight.copy_(tensors[name])

    def folded(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return W + s B A; the very same tensor, bit for bit, where B is zero."""
        inner, outer = layer.lora_A.weight, layer.lora_B.weight
        if not outer.any():
            return {}
        return {"weight": as_kept(layer, weight_of(layer).double() + plan.scale * (outer.double() @ inner.double()))}


def lora_settings(rank: int, alpha: float, plan: Any, *, transposed: bool) -> dict[str, JSON]:
    """Return the keys of PEFT's `LoraConfig` that describe low-rank adapters.

    Args:
        rank: As PEFT sees it.
        alpha: As PEFT sees it.
        plan: Says dropout and the kind of scale.
        transposed: Whether the layers keep their weights as (I, O).
    """
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": plan.dropout,
        "use_rslora": plan.rslora,
        "fan_in_fan_out": transposed,
        "bias": "none",
    }


def put_beside(layer: Any, plan: Any) -> None:
    """Give a layer A and B, zero, a dropout in front of them, and the scale of what they add.

    Args:
        layer: Changed in place.
        plan: Says rank, dropout and scale.
    """
    inputs, outputs = sizes(layer)
    shapes = {A: (plan.rank, inputs), B: (outputs, plan.rank)}
    for name, (rows, columns) in shapes.items():
        part = undrawn(nn.Linear, columns, rows, bias=False, device=layer.weight.device, dtype=layer.weight.dtype)
        nn.init.zeros_(part.weight)
        setattr(layer, name, part.train(layer.training))
    setattr(layer, DROPOUT, nn.Dropout(plan.dropout).train(layer.training))
    setattr(layer, SCALE, plan.scale)
    setattr(layer, BESIDE, (DROPOUT, SCALE))


def added_to(out: torch.Tensor, inner: torch.Tensor, outer_OR: torch.Tensor, scale: float) -> torch.Tensor:
    """Return out + scale inner B' in one pass over the outputs.

    Args:
        out: (..., O).
        inner: A x (..., R).
        outer_OR: B.
        scale: Its factor.
    """
    flat = torch.addmm(out.reshape(-1, out.shape[-1]), inner.reshape(-1, inner.shape[-1]), outer_OR.t(), alpha=scale)
    return flat.view(out.shape)


def _lora(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    pair = (layer.lora_A.weight, layer.lora_B.weight)
    if fits(cls, layer, x, pair):
        return adapted(layer, x, pair)
    inner = F.linear(layer.lora_dropout(x), layer.lora_A.weight)
    return added_to(cls.forward(layer, x), inner, layer.lora_B.weight, layer.lora_scale)

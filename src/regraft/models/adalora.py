"""Adapters in the form of a singular value decomposition: y = W x + b + s B diag(E) A x, and A, B and E learn.

Zhang et al. 2023, arXiv:2303.10512, equation 3 (their P, Lambda and Q). E starts at zero, so that the network answers as it
did; A and B are drawn from a normal distribution, as PEFT draws them with a deviation of 0.02. The scale s is alpha / (R +
1e-5), to the last summand as in PEFT, R being the rank at the start: it stays what it is when entries of E become zero.

A direction that was given up stays in the folder with a zero in E, so that PEFT needs no pattern of ranks to read it.

Shapes: I inputs, O outputs of a layer, R rank at the start.
"""

from __future__ import annotations

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
from regraft.models.lora import DROPOUT, SCALE, added_to
from regraft.models.lora_product import adapted, fits
from regraft.models.net import Headed
from regraft.models.transform import ADDED
from regraft.options import JSON, Field
from regraft.typed import record

WEIGHTS = ("lora_A", "lora_B", "lora_E")
_DEVIATION = 0.02
_LITTLE = 1e-5


@record
class AdaLoraPlan:
    """Which layers are adapted, and how.

    Args:
        rank: R.
        target: Rank that is left on average.
        alpha: Numerator of the scale.
        dropout: Share of what enters A that is dropped in training.
        layers: Paths in the hub's model, in the order in which they stand there.
    """

    rank: Annotated[int, Field(ge=1)]
    target: Annotated[int, Field(ge=1)]
    alpha: float
    dropout: float
    layers: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What B diag(E) A x is multiplied with."""
        return self.alpha / (self.rank + _LITTLE)


class AdaLora(LayerAdapters):
    """Low-rank adapters whose directions each have a weight of their own, kept as a PEFT folder."""

    Plan = AdaLoraPlan
    kept: ClassVar[tuple[str, ...]] = WEIGHTS

    def planned(self, net: Headed, options: Any, there: Sequence[str]) -> AdaLoraPlan:
        """Return the plan for `regraft.tuning.adalora.AdaLoraOptions`."""
        chosen = named_layers(net, there, options.targets, options.layers)
        return AdaLoraPlan(
            rank=options.rank, target=options.target_rank, alpha=options.alpha, dropout=options.dropout, layers=chosen
        )

    def adapt(self, layer: Any, path: str, plan: Any) -> None:
        """Put A, B and E beside a layer; all are zero."""
        adapting(layer, "AdaLora", _adalora, WEIGHTS)
        inputs, outputs = sizes(layer)
        for name, shape in zip(WEIGHTS, ((plan.rank, inputs), (outputs, plan.rank), (plan.rank, 1)), strict=True):
            setattr(layer, name, nn.Parameter(torch.zeros(shape, dtype=layer.weight.dtype, device=layer.weight.device)))
        setattr(layer, DROPOUT, nn.Dropout(plan.dropout).train(layer.training))
        setattr(layer, SCALE, plan.scale)
        setattr(layer, BESIDE, (DROPOUT, SCALE))

    def begin(self, layer: Any, path: str, plan: Any, generator: torch.Generator) -> None:
        """Draw A and B; E stays zero."""
        for weight in (layer.lora_A, layer.lora_B):
            weight.copy_(torch.empty(weight.shape).normal_(0.0, _DEVIATION, generator=generator))

    def settings(self, net: Headed, plan: Any, placed: Placed) -> dict[str, JSON]:
        """Return the keys of PEFT's `AdaLoraConfig`; it wants a number of updates also where none are to come."""
        return {
            "peft_type": "ADALORA",
            "init_r": plan.rank,
            "target_r": plan.target,
            "total_step": 1,
            "lora_alpha": int(plan.alpha) if float(plan.alpha).is_integer() else plan.alpha,
            "lora_dropout": plan.dropout,
            "fan_in_fan_out": is_transposed(net, plan),
            "bias": "none",
        }

    def tensors_of(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return A (R, I), B (O, R) and E (R, 1)."""
        return {name: getattr(layer, name) for name in WEIGHTS}

    def put(self, layer: Any, path: str, plan: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write A, B and E."""
        for name in WEIGHTS:
            getattr(layer, name).copy_(tensors[name])

    def folded(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return W + s B diag(E) A; the very same tensor, bit for bit, where E is zero."""
        if not layer.lora_E.any():
            return {}
        inner, outer, values_R1 = (value.double() for value in (layer.lora_A, layer.lora_B, layer.lora_E))
        return {"weight": as_kept(layer, weight_of(layer).double() + plan.scale * (outer @ (values_R1 * inner)))}


def decomposed(net: nn.Module) -> dict[str, Any]:
    """Return the layers with such adapters, by path in a network or a part or view of one, each once."""
    return {path: module for path, module in net.named_modules() if getattr(module, ADDED, ()) == WEIGHTS}


def _adalora(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    inner_RI = layer.lora_A * layer.lora_E
    if fits(cls, layer, x, (inner_RI, layer.lora_B)):
        return adapted(layer, x, (inner_RI, layer.lora_B))
    return added_to(cls.forward(layer, x), F.linear(layer.lora_dropout(x), inner_RI), layer.lora_B, layer.lora_scale)


__all__ = ["WEIGHTS", "AdaLora", "AdaLoraPlan", "decomposed"]

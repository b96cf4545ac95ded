"""Adapters that turn and stretch a weight apart: W' = m (W + s B A) / ||W + s B A||, and m, A and B learn.

Liu et al. 2024, arXiv:2402.09353, equation 5: the norm is that of each output's row, m starts as ||W||. As in their section
4.3 the norm is a constant for the gradient. Dropout stands in front of A alone.

Shapes: I inputs, O outputs of a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from regraft.models.adapters import Placed, adapting, as_kept, sizes, weight_of
from regraft.models.lora import WEIGHTS, Lora, put_beside
from regraft.models.net import Headed
from regraft.options import JSON

_MAGNITUDE = "lora_magnitude_vector"


class Dora(Lora):
    """Low-rank adapters of the directions of weights, with a learnt length for each output; kept as a PEFT folder."""

    kept = (*WEIGHTS, _MAGNITUDE)

    def adapt(self, layer: Any, path: str, plan: Any) -> None:
        """Put A, B and m beside a layer; A and B are zero, m holds the norms."""
        adapting(layer, "Dora", _dora, (*WEIGHTS, _MAGNITUDE))
        put_beside(layer, plan)
        layer.lora_magnitude_vector = nn.Parameter(torch.zeros(sizes(layer)[1], dtype=layer.weight.dtype).to(layer.weight))

    def begin(self, layer: Any, path: str, plan: Any, generator: torch.Generator) -> None:
        """Draw A; m is what the norms are, so that the layer computes what it did."""
        super().begin(layer, path, plan, generator)
        layer.lora_magnitude_vector.copy_(_norms(layer))

    def settings(self, net: Headed, plan: Any, placed: Placed) -> dict[str, JSON]:
        """Return the keys of PEFT's `LoraConfig`."""
        return {**super().settings(net, plan, placed), "use_dora": True}

    def tensors_of(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return A (R, I), B (O, R) and m (O,)."""
        return {**super().tensors_of(layer, path, plan), _MAGNITUDE: layer.lora_magnitude_vector}

    def put(self, layer: Any, path: str, plan: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write A, B and m."""
        super().put(layer, path, plan, tensors)
        layer.lora_magnitude_vector.copy_(tensors[_MAGNITUDE])

    def folded(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return W'; the very same tensor, bit for bit, where nothing has learnt."""
        inner, outer, length_O = layer.lora_A.weight, layer.lora_B.weight, layer.lora_magnitude_vector
        if not outer.any() and torch.equal(length_O, _norms(layer)):
            return {}
        turned = weight_of(layer).double() + plan.scale * (outer.double() @ inner.double())
        factor_O1 = length_O.double().unsqueeze(1) / torch.linalg.vector_norm(turned, dim=1, keepdim=True)
        return {"weight": as_kept(layer, turned * factor_O1)}


def _norms(layer: Any) -> torch.Tensor:
    """Return ||W + s B A|| of each output (O,), a constant; in the weights' own type also where products are rounded."""
    with torch.no_grad(), torch.autocast(layer.weight.device.type, enabled=False):
        weight_OI, outer = weight_of(layer), layer.lora_B.weight
        turned_OI = torch.addmm(weight_OI, outer, layer.lora_A.weight, alpha=layer.lora_scale)
        norms_O: torch.Tensor = torch.linalg.vector_norm(turned_OI, dim=1)
        return norms_O


def _dora(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = cls.forward(layer, x)
    factor_O = layer.lora_magnitude_vector / _norms(layer)
    low = F.linear(F.linear(layer.lora_dropout(x), layer.lora_A.weight), layer.lora_B.weight)
    plain = out if layer.bias is None else out - layer.bias
    # Summed so that the outputs are those of the base, to the last bit, where the factor is 1 and B is 0.
    made: torch.Tensor = out + (factor_O - 1.0) * plain + (factor_O * layer.lora_scale) * low
    return made

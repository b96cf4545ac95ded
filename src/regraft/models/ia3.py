"""Adapters that rescale: keys, values and what enters the second map of a feed-forward part are multiplied by learnt vectors.

Liu et al. 2022, arXiv:2205.05638, section 3.3, (IA)^3: softmax(q (l_k k)' / sqrt(d)) (l_v v) and W2 (l_ff f(W1 x)). The
vectors start as ones, so that the network answers as it did. A bias of a key or value is rescaled with it, as PEFT does it.

Shapes: I inputs, O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from regraft.models.adapters import (
    LayerAdapters,
    Placed,
    adapting,
    as_kept,
    ends_with,
    is_transposed,
    named_layers,
    of_last_layers,
    sizes,
    weight_of,
)
from regraft.models.net import Headed
from regraft.options import JSON
from regraft.typed import record

_VECTOR = "ia3_l"
# What the families of the hub call keys and values, alone and in one map with the queries.
_KEYS_AND_VALUES = ("key", "value", "k_proj", "v_proj", "key_proj", "value_proj", "k_lin", "v_lin", "k", "v")
_ALL_IN_ONE = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv", "in_proj")
_ATTENTION = ("att", "self_att")


@record
class Ia3Plan:
    """Which layers are rescaled, and on which side.

    Args:
        layers: Paths in the hub's model, in the order in which they stand there.
        inputs: Those of them that are rescaled in front.
    """

    layers: tuple[str, ...]
    inputs: tuple[str, ...]


class Ia3(LayerAdapters):
    """Learnt vectors that rescale keys, values and the inner part of feed-forward layers, kept as a PEFT folder."""

    Plan = Ia3Plan
    kept: ClassVar[tuple[str, ...]] = (_VECTOR,)

    def planned(self, net: Headed, options: Any, there: Sequence[str]) -> Ia3Plan:
        """Return the plan for `regraft.tuning.ia3.Ia3Options`."""
        some, modules = of_last_layers(net, there, options.layers), dict(net.backbone.body.named_modules())
        if options.feedforward:
            inner = named_layers(net, there, options.feedforward, options.layers, "tuning.feedforward")
        else:
            inner = tuple(path for path in some if _leads_back(path, *sizes(modules[path])))
        if options.targets:
            outer = named_layers(net, there, options.targets, options.layers)
        else:
            outer = _called(some, _KEYS_AND_VALUES) or _called(some, _ALL_IN_ONE)
        if not (inner or outer):
            outer = tuple(some)  # a network of another kind: every layer of it
        chosen = {*inner, *outer}
        return Ia3Plan(layers=tuple(path for path in some if path in chosen), inputs=inner)

    def adapt(self, layer: Any, path: str, plan: Any) -> None:
        """Put a vector of ones on a layer."""
        inside = path in plan.inputs
        adapting(layer, "Ia3", _in_front if inside else _behind, (_VECTOR,))
        layer.ia3_l = nn.Parameter(torch.ones(sizes(layer)[0 if inside else 1], dtype=layer.weight.dtype).to(layer.weight))

    def settings(self, net: Headed, plan: Any, placed: Placed) -> dict[str, JSON]:
        """Return the keys of PEFT's `IA3Config`."""
        inside = [placed(path) for path in plan.inputs]
        return {"peft_type": "IA3", "feedforward_modules": inside, "fan_in_fan_out": is_transposed(net, plan)}

    def tensors_of(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return the vector: (1, I) in front of a layer, (O, 1) behind it."""
        return {_VECTOR: layer.ia3_l.unsqueeze(0 if path in plan.inputs else 1)}

    def put(self, layer: Any, path: str, plan: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the vector."""
        layer.ia3_l.copy_(tensors[_VECTOR].flatten())

    def folded(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return the weights rescaled; the very same tensors, bit for bit, where nothing has learnt."""
        factor, weight_OI = layer.ia3_l.double(), weight_of(layer).double()
        if bool((factor == 1.0).all()):
            return {}
        if path in plan.inputs:
            return {"weight": as_kept(layer, weight_OI * factor)}
        made = {"weight": as_kept(layer, weight_OI * factor.unsqueeze(1))}
        return made if layer.bias is None else {**made, "bias": (layer.bias.double() * factor).to(layer.bias.dtype)}


def _called(paths: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in paths if any(ends_with(path, name) for name in names))


def _leads_back(path: str, inputs: int, outputs: int) -> bool:
    """Return whether a layer leads from the wide inner part of a feed-forward layer back to the width of the network."""
    return inputs > outputs and not any(part.startswith(_ATTENTION) for part in path.split("."))


def _in_front(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = cls.forward(layer, x * layer.ia3_l)
    return out


def _behind(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = cls.forward(layer, x) * layer.ia3_l
    return out

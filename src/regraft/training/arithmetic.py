"""How much arithmetic a network takes for each real token, so that speed can be held against what the machine can do.

Shapes: T positions of a row, D width of attention, L layers, P weights.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.models.transform import kept_otherwise
from regraft.types import Array

if TYPE_CHECKING:
    from regraft.models.net import Headed


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a network that every token passes.

    Args:
        weights: Weights that a token is multiplied with.
        learning: Those of them that learn.
        attention: Width of its attention; 0 where it has none.
    """

    weights: int
    learning: int = 0
    attention: int = 0


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations for one real token.

    Args:
        per_token: The number, or None where it is not known.
        reason: Why it is not known.
    """

    per_token: float | None = None
    reason: str = ""


def attended(lengths: Array) -> float:
    """Return the mean number of positions that a token attends to when rows have different lengths: sum l^2 / sum l.

    Args:
        lengths: Real positions of each row (N,).

    Example:
        >>> attended(np.array([1, 3]))
        2.5
    """
    real = np.asarray(lengths, dtype=np.float64)
    return float((real**2).sum() / real.sum()) if real.sum() else 0.0


def flops_per_token(parts: Sequence[Part], positions: float, first_learning: int | None, cached: int = 0) -> float:
    """Return the operations for one token: with every part learning 6 P + 12 L T D, without learning 2 P + 4 L T D.

    Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B: 6 N + 12 L H Q T; after Kaplan et al. 2020, arXiv:2001.08361,
    table 1. A weight costs 2 operations forwards, 2 for the gradient of what came in, 2 for its own gradient; attention costs
    4 T D a layer forwards and 8 T D backwards. Deviations: parts that were cached cost nothing, parts below the first that
    learns are only run forwards, and a weight that does not learn has no gradient of its own. T is `attended`, because rows
    are ragged. As in the source: full attention even where a causal mask or a window spares some, nothing for norms,
    activations and softmax; and nothing for pooling and head, which run once a row.

    Args:
        parts: In the order in which they run.
        positions: T, positions that a token attends to.
        first_learning: Index of the lowest part that learns; None where none does.
        cached: How many of the lowest parts are not computed.

    Example:
        >>> flops_per_token([Part(weights=100, learning=100, attention=8)], 10.0, 0)
        1560.0
    """
    total = 0.0
    for number, part in enumerate(parts):
        if number < cached:
            continue
        total += 2.0 * part.weights + 4.0 * positions * part.attention
        if first_learning is not None and number >= first_learning:
            total += 2.0 * part.weights + 2.0 * part.learning + 8.0 * positions * part.attention
    return total


def training_flops(net: Headed, trainable: Set[str], lengths: Array, cached_layers: int | None = None) -> Flops:
    """Return the operations for one token of a forward and backward pass.

    Args:
        net: The network.
        trainable: Names of its weights that learn.
        lengths: Real positions of the training rows (N,).
        cached_layers: Layers below the cut whose output is cached; None where nothing is.
    """
    learning = {name.removeprefix("backbone.") for name in trainable if name.startswith("backbone.")}
    found = _parts(net, learning)
    if isinstance(found, str):
        return Flops(reason=found)
    first = min((_place(net, name) for name in learning), default=None)
    per_token = flops_per_token(found, attended(lengths), first, 0 if cached_layers is None else cached_layers + 1)
    return Flops(per_token=per_token) if per_token else Flops(reason="only the head is computed, everything below it is cached")


def inference_flops(net: Headed, lengths: Array) -> Flops:
    """Return the operations for one token of a forward pass.

    Args:
        net: The network.
        lengths: Real positions of the rows (N,).
    """
    found = _parts(net, set())
    return Flops(reason=found) if isinstance(found, str) else Flops(per_token=flops_per_token(found, attended(lengths), None))


def _parts(net: Headed, learning: Set[str]) -> list[Part] | str:
    """Return what runs before the layers, each layer, and what runs after them; or why that is not known."""
    backbone: Any = net.backbone
    config = getattr(getattr(backbone, "body", None), "config", None)
    heads, layers = getattr(config, "num_attention_heads", None), getattr(config, "num_hidden_layers", None)
    architecture = getattr(backbone, "architecture", None)
    if not getattr(architecture, "masked", True) or getattr(architecture, "own_mask", False):
        return "the base makes positions of its own of a row, its operations are not counted"
    if not hasattr(backbone, "blocks") or not isinstance(heads, int):
        return "the base is not a transformer, its operations a token are not known"
    if layers != len(backbone.blocks.layers):
        return f"the base runs {layers} layers with the weights of {len(backbone.blocks.layers)}"
    size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    width = heads * size if isinstance(size, int) else backbone.width
    sums = [[0, 0] for _ in range(layers + 2)]
    looked_up = _looked_up(backbone)
    for name, (_, kept) in kept_otherwise(backbone).items():
        sums[_place(net, name)][0] += kept.weights
    for name, parameter in backbone.named_parameters():
        place = _place(net, name)
        # Before the layers stand tables, whose rows are looked up, and norms; a product there has a matrix.
        if name.startswith("pooling.") or name in looked_up or (place == 0 and parameter.ndim < 2):
            continue
        sums[place][0] += parameter.numel()
        sums[place][1] += parameter.numel() if name in learning else 0
    return [
        Part(weights=weights, learning=learnt, attention=width if 0 < place <= layers else 0)
        for place, (weights, learnt) in enumerate(sums)
    ]


def _place(net: Headed, name: str) -> int:
    place: int = net.backbone.blocks.layer_of(name) + 1
    return place


def _looked_up(backbone: Any) -> set[str]:
    """Return the names of tables of which a token takes a row: no arithmetic."""
    from torch import nn

    return {
        f"{path}.{name}"
        for path, module in backbone.named_modules()
        if isinstance(module, nn.Embedding) or "embedding" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 2
    }

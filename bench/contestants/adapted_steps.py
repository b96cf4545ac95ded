"""What both sides of B3 have in common: the start, the batches, the recipe. torch, numpy and safetensors alone.

Dropout is off on both sides, adapters and head start from the same numbers, so that both make the very same updates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

RATE, DECAY, CLIP, WARMUP, CLASSES, RANK, ALPHA = 1e-3, 0.01, 1.0, 0.1, 2, 8, 16
TARGETS = {
    "all": ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
    "query-value": ("query", "value"),
}
"""Ends of the paths of the layers with adapters; PEFT's `output.dense` names both layers that end so."""


def rows_of(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (steps, B, T) and labels (steps, B)."""
    held = np.load(file)
    return held["ids"], held["labels"]


def drawn(shape: tuple[int, ...], name: str, seed: int) -> torch.Tensor:
    """Return the start of a weight, uniform within 1 / sqrt(inputs), the same on both sides.

    Args:
        shape: (outputs, inputs).
        name: Path of the layer in the hub's model; decides the draw.
        seed: Of the round.
    """
    generator = torch.Generator().manual_seed(seed + sum(ord(letter) * place for place, letter in enumerate(name, start=1)))
    bound = 1.0 / math.sqrt(shape[-1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def without_dropout(model: torch.nn.Module) -> None:
    """Switch every dropout off, in place."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def adapters_only(weights: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Return a few numbers of every weight that learnt: its norm and its first entries."""
    return {name: [float(value.norm()), *value.flatten()[:4].tolist()] for name, value in sorted(weights.items())}


def shares(steps: int) -> Any:
    """Return step -> share of the peak rate: warm-up, then a linear fall, as Regraft has them by default."""
    warmup = int(steps * WARMUP)
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else 1 - (step - warmup) / max(1, steps - warmup)


__all__ = [
    "ALPHA",
    "CLASSES",
    "CLIP",
    "DECAY",
    "RANK",
    "RATE",
    "TARGETS",
    "WARMUP",
    "adapters_only",
    "drawn",
    "rows_of",
    "shares",
    "without_dropout",
]

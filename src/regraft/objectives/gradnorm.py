"""Weights of the losses of several targets, by the gradients that they send into what the targets share (GradNorm).

Chen et al. 2018, arXiv:1711.02257, algorithm 1. Target k has the loss L_k, the weight w_k and G_k = w_k |dL_k / dW|, the norm
of the gradient of its weighted loss with respect to W, the last shared weights. Its inverse training rate r_k is L_k / L_k(0)
divided by the mean of these over targets. The weights go down the gradient of sum_k |G_k - mean(G) r_k^alpha|, in which
mean(G) r_k^alpha counts as a constant, and are then scaled to add up to the number of targets.

Deviation: what moves is log w_k (by Adam, as there), so that a weight is never negative, however far apart the losses are.

Shapes: K targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.options import JSON
from regraft.types import FloatArray

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regraft.models.net import Headed

RATE = 0.025
"""Learning rate of the logarithms of the weights."""
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
_LEAST = 1e-30
_TOLD = (0.0, 0.25, 0.5, 0.75, 1.0)


def last_shared(net: Headed) -> list[nn.Parameter]:
    """Return the weights that learn and stand last of all that the targets share; nothing where only heads learn.

    They are the matrices of the last layer that has any (vectors where nothing has): norms behind it scale, but turn nothing.

    Args:
        net: The network, while it learns (`requires_grad` is set).
    """
    backbone: Any = net.backbone
    learning = [(name, weight) for name, weight in backbone.named_parameters() if weight.requires_grad]
    found = [(name, weight) for name, weight in learning if weight.ndim > 1] or learning
    if not found:
        return []
    places = [backbone.blocks.layer_of(name) for name, _ in found]
    return [weight for (_, weight), place in zip(found, places, strict=True) if place == max(places)]


class GradNorm:
    """Hold the weights of losses, and move them once an update.

    Args:
        names: Names of the targets (K).
        alpha: How strongly targets that learn slowly are helped; 0 makes all gradients equally long.
    """

    def __init__(self, names: Sequence[str], alpha: float) -> None:
        self.names, self.alpha = tuple(names), alpha
        self.weights_K: FloatArray = np.ones(len(self.names))
        self.path: list[FloatArray] = [self.weights_K]
        self._first_K: FloatArray = np.full(len(self.names), np.nan)
        self._moments_2K: FloatArray = np.zeros((2, len(self.names)))
        self._steps_K: FloatArray = np.zeros(len(self.names))
        self.begin()

    def state(self) -> dict[str, JSON]:
        """Return everything that updates change, as JSON; a loss that was never seen is null."""
        first = [None if math.isnan(loss) else float(loss) for loss in self._first_K]
        path = [weights_K.tolist() for weights_K in self.path]
        return {"first": first, "moments": self._moments_2K.tolist(), "steps": self._steps_K.tolist(), "path": path}

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self.path = [np.array(weights) for weights in state["path"]]
        self.weights_K = self.path[-1]
        self._first_K = np.array([math.nan if loss is None else loss for loss in state["first"]])
        self._moments_2K, self._steps_K = np.array(state["moments"]), np.array(state["steps"])

    def begin(self) -> None:
        """Begin an update: nothing of it has been seen."""
        self._counted: set[int] = set()
        self._losses_K: FloatArray = np.full(len(self.names), np.nan)
        self._slopes: dict[int, list[torch.Tensor]] = {}

    def weigh(self, net: Headed, losses: Mapping[str, torch.Tensor], key: int) -> tuple[torch.Tensor | None, dict[str, float]]:
        """Return the weighted sum of losses, nothing where there are none, and the weights for the log.

        Args:
            net: The network that the losses are of.
            losses: Sums of losses of those targets that rows of the update have.
            key: Tells micro-batches of an update apart: one that is computed again counts once.
        """
        import torch

        shared = last_shared(net)
        again, total = key in self._counted, None
        self._counted.add(key)
        for place, name in enumerate(self.names):
            if name not in losses:
                continue
            loss = losses[name]
            total = float(self.weights_K[place]) * loss + (0.0 if total is None else total)
            if again or not shared or not loss.requires_grad:
                continue
            slopes = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            self._add(place, float(loss.detach()), shared, slopes)
        return total, {f"weight.{name}": float(weight) for name, weight in zip(self.names, self.weights_K, strict=True)}

    def _add(self, place: int, loss: float, shared: Sequence[nn.Parameter], slopes: Sequence[torch.Tensor | None]) -> None:
        import torch

        found = [torch.zeros_like(weight) if slope is None else slope for weight, slope in zip(shared, slopes, strict=True)]
        before = self._slopes.get(place)
        self._slopes[place] = found if before is None else [one + other for one, other in zip(before, found, strict=True)]
        self._losses_K[place] = loss + (0.0 if before is None else self._losses_K[place])

    def end(self, rows: int) -> None:
        """End an update: move the weights of the targets that it had.

        Args:
            rows: Rows of the update, of which the losses are sums.
        """
        import torch

        norms_K = np.full(len(self.names), np.nan)
        for place, slopes in self._slopes.items():
            norms_K[place] = float(torch.linalg.vector_norm(torch.stack([slope.norm() for slope in slopes]))) / rows
        self.move(self._losses_K / rows, norms_K)

    def move(self, losses_K: FloatArray, norms_K: FloatArray) -> None:
        """Move the weights by one step.

        Args:
            losses_K: Mean losses, not weighted; NaN where no row of the update has the target.
            norms_K: Norms of their gradients with respect to the last shared weights.
        """
        there = np.flatnonzero(np.isfinite(losses_K) & np.isfinite(norms_K))
        if len(there):
            first = self._first_K[there] = np.where(np.isnan(self._first_K[there]), losses_K[there], self._first_K[there])
            lengths = self.weights_K[there] * norms_K[there]
            rates = losses_K[there] / np.maximum(first, _LEAST)
            wanted = lengths.mean() * (rates / max(float(rates.mean()), _LEAST)) ** self.alpha
            # d/d log w_k of |G_k - wanted_k|, where G_k = w_k |dL_k / dW|.
            self._descend(there, np.sign(lengths - wanted) * lengths)
        self.path.append(self.weights_K)

    def _descend(self, there: Any, slopes: FloatArray) -> None:
        """Do a step of Adam on the logarithms of some weights, then scale all to add up to their number."""
        (one, two), self._steps_K[there] = _BETAS, self._steps_K[there] + 1
        self._moments_2K[0, there] = one * self._moments_2K[0, there] + (1 - one) * slopes
        self._moments_2K[1, there] = two * self._moments_2K[1, there] + (1 - two) * slopes**2
        mean = self._moments_2K[0, there] / (1 - one ** self._steps_K[there])
        square = self._moments_2K[1, there] / (1 - two ** self._steps_K[there])
        logs_K = np.log(self.weights_K)
        # Relative: how long gradients are is a matter of units.
        logs_K[there] -= RATE * mean / (np.sqrt(square) + _EPSILON * max(float(np.abs(slopes).max()), _LEAST))
        weights_K = np.exp(logs_K - logs_K.max())
        self.weights_K = weights_K * len(weights_K) / weights_K.sum()

    def told(self) -> str:
        """Return what became of the weights, in one sentence."""
        last = len(self.path) - 1
        places = [math.floor(share * last) for share in _TOLD]
        each = (f"{name} {', '.join(f'{self.path[at][k]:.3g}' for at in places)}" for k, name in enumerate(self.names))
        return f"weights of the losses by GradNorm, at the start, after each quarter of {last:,} updates: {'; '.join(each)}"

"""How AdaLoRA spends a budget of ranks: what a direction of an adapter is worth, how many may stay, and which.

Zhang et al. 2023, arXiv:2303.10512. An adapter is B diag(E) A; one entry of E with its row of A and column of B is a triplet.
Sensitivity is |weight * gradient| (equation 8), smoothed (9), its uncertainty smoothed likewise (10); their product is the
worth of a weight (11), and a triplet is worth its entry of E plus the means over row and column (7). The budget falls with the
cube of the steps left (12); triplets beyond it have their entry of E set to zero (6), and may come back.

Shapes: R rank of an adapter, I inputs, O outputs of its layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

_KINDS = ("values", "inner", "outer")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many triplets may stay, and when that is enforced.

    Args:
        first: Triplets of all adapters together at the start.
        last: Triplets that are left at the end; at least 1, below `first`.
        warmup: Updates at the start in which all stay.
        settling: Updates at the end in which those that are left learn on.
        every: Updates between two choices.
    """

    first: int
    last: int
    warmup: int
    settling: int
    every: int = 1

    def at(self, step: int, total: int) -> int:
        """Return how many triplets may stay after an update.

        Args:
            step: Updates done, from 1.
            total: Updates planned; more than `warmup + settling`.

        Example:
            >>> budget = Budget(first=100, last=20, warmup=10, settling=10)
            >>> [budget.at(step, 100) for step in (10, 50, 90, 100)]
            [100, 30, 20, 20]
        """
        if step <= self.warmup:
            return self.first
        if step > total - self.settling:
            return self.last
        left = 1.0 - (step - self.warmup) / (total - self.settling - self.warmup)
        return int((self.first - self.last) * left**3 + self.last)

    def chooses(self, step: int, total: int) -> bool:
        """Return whether triplets are chosen after an update: whenever that is due, and always once the last budget holds."""
        if step <= self.warmup:
            return False
        return step >= total - self.settling or step % self.every == 0


@dataclass(frozen=True)
class Triplets:
    """The weights of one adapter.

    Args:
        values_R1: E.
        inner_RI: A.
        outer_OR: B.
    """

    values_R1: nn.Parameter
    inner_RI: nn.Parameter
    outer_OR: nn.Parameter

    def weights(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        """Return E, A and B."""
        return self.values_R1, self.inner_RI, self.outer_OR


class RankAllocator:
    """Follow how sensitive the loss is to every weight of adapters, and keep the triplets that are worth most.

    Args:
        adapters: Name of a layer -> its triplets.
        budget: How many may stay.
        beta1: Smooths the sensitivity.
        beta2: Smooths its uncertainty.
    """

    def __init__(self, adapters: Mapping[str, Triplets], budget: Budget, *, beta1: float = 0.85, beta2: float = 0.85) -> None:
        import torch

        self.adapters, self.budget, self.beta1, self.beta2 = dict(adapters), budget, beta1, beta2
        self._weights = {
            f"{layer}.{kind}": weight
            for layer, triplets in self.adapters.items()
            for kind, weight in zip(_KINDS, triplets.weights(), strict=True)
        }
        self._sensitivity = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._uncertainty = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._followed = False

    def after_update(self, step: int, total: int) -> None:
        """Take in an update that was done, and zero the triplets beyond the budget.

        Args:
            step: Updates done, from 1. Gradients of the update must still be there.
            total: Updates planned.
        """
        import torch

        with torch.no_grad():
            # A choice needs at least one update to go by, also where the last budget holds from the first one on.
            if step < total - self.budget.settling or not self._followed:
                self._followed = True
                for name, weight in self._weights.items():
                    self._follow(name, weight)
            if self.budget.chooses(step, total):
                self._keep(self.budget.at(step, total))

    def _follow(self, name: str, weight: nn.Parameter) -> None:
        if weight.grad is None:
            return
        now = (weight * weight.grad).abs()
        mean, doubt = self._sensitivity[name], self._uncertainty[name]
        mean.mul_(self.beta1).add_(now * (1.0 - self.beta1))
        doubt.mul_(self.beta2).add_((now - mean).abs() * (1.0 - self.beta2))

    def worth(self) -> dict[str, torch.Tensor]:
        """Return what the triplets of each adapter are worth (R,)."""
        found = {}
        for layer in self.adapters:
            names = (f"{layer}.{kind}" for kind in _KINDS)
            values_R1, inner_RI, outer_OR = (self._sensitivity[name] * self._uncertainty[name] for name in names)
            found[layer] = values_R1.view(-1) + inner_RI.mean(dim=1) + outer_OR.mean(dim=0)
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what updates change in it, by name; live."""
        kept = (("sensitivity", self._sensitivity), ("uncertainty", self._uncertainty))
        return {f"{name}.{what}": value for what, values in kept for name, value in values.items()}

    def put_back(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `tensors` gave."""
        for name, value in self.tensors().items():
            value.copy_(tensors[name])
        self._followed = any(bool(value.any()) for value in self._sensitivity.values())

    def _keep(self, count: int) -> None:
        import torch

        if count >= self.budget.first:
            return
        worth = self.worth()
        limit = torch.kthvalue(torch.cat(list(worth.values())), self.budget.first - count).values
        for name, worth_R in worth.items():
            self.adapters[name].values_R1.masked_fill_((worth_R <= limit).unsqueeze(1), 0.0)


__all__ = ["Budget", "RankAllocator", "Triplets"]

"""Steps of optimisers that torch does not have in the form in which they are needed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from regraft.training.fused import FusedAdamW

_MATRIX = 2


class DecoupledSGD(torch.optim.SGD):
    """torch's SGD with momentum, the decay of weights taken out of the gradient: w <- (1 - lr decay) w, then its step.

    Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 1 (SGDW), with the rate of the schedule in the place of its
    schedule multiplier. In torch's own the decay would go into the momentum.

    Args:
        groups: As torch optimisers take them.
        momentum: Share of the last direction that is kept.
        nesterov: Look ahead along the momentum.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, *, nesterov: bool) -> None:
        moved = [{**group, "weight_decay": 0.0, "decay": group["weight_decay"]} for group in groups]
        super().__init__(moved, momentum=momentum, nesterov=nesterov, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one update of every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights and group["decay"]:
                torch._foreach_mul_(weights, 1.0 - group["lr"] * group["decay"])
        return super().step(closure)


class Lion(torch.optim.Optimizer):
    """Move every weight by the same amount, in the direction of the sign of a momentum.

    u = sign(b1 m + (1 - b1) g);  w <- w - lr (u + decay w);  m <- b2 m + (1 - b2) g. Chen et al. 2023, arXiv:2302.06675,
    algorithm 2.

    Args:
        groups: As torch optimisers take them.
        betas: b1 and b2.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one update of every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients: list[Any] = [weight.grad for weight in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum"] for weight in weights]
            first, second = group["betas"]
            directions = torch._foreach_lerp(momenta, gradients, 1.0 - first)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1.0 - second)
        return None


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon for the matrices inside layers, and AdamW for everything else, as one optimiser.

    Args:
        groups: As torch optimisers take them; "hidden" says of each weight whether it lies inside a layer of the backbone.
        momentum: Of Muon.
        betas: Of AdamW.
        eps: Of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, betas: tuple[float, float], eps: float) -> None:
        hidden, rest = _only(groups, inside=True), _only(groups, inside=False)
        self._parts: list[torch.optim.Optimizer] = []
        if hidden:
            # Its updates are as large as AdamW's: one rate suits both (Liu et al. 2025, arXiv:2502.16982, section 2.2).
            self._parts.append(torch.optim.Muon(hidden, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
        if rest:
            self._parts.append(FusedAdamW(rest, betas=betas, eps=eps))
        # The groups are the very ones of the parts, so that a rate that is set here reaches them.
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part in self._parts:
            part.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one update of every weight that has a gradient."""
        for part in self._parts:
            part.step()
        return None


def orthogonalised(weight: torch.Tensor, inside: bool) -> bool:
    """Return whether Muon moves a weight: a matrix inside a layer."""
    return inside and weight.ndim == _MATRIX


def _only(groups: Sequence[dict[str, Any]], *, inside: bool) -> list[dict[str, Any]]:
    """Return the groups with only the weights that Muon moves, or only the others."""
    found = []
    for group in groups:
        marks = group.get("hidden") or [False] * len(group["params"])
        pairs = zip(group["params"], marks, strict=True)
        chosen = [weight for weight, mark in pairs if orthogonalised(weight, mark) == inside]
        if chosen:
            found.append({**{key: value for key, value in group.items() if key != "hidden"}, "params": chosen})
    return found

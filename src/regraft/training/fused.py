"""AdamW straight to torch's fused kernel: one call a group, no bookkeeping between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW without what it does around its kernel on every step.

    Finding the state again, sorting tensors by device and type, profiler records: for a head of two tensors that is five sixths
    of a step. State, defaults and updates are those of `torch.optim.AdamW(fused=True)`, bit for bit. Where a weight is not in
    float32 on a CPU, its own `step` runs. Step hooks are not called.

    Args:
        groups: As torch optimisers take them.
        betas: Decay of the mean of the gradients and of their squares.
        eps: Added to the root of the second moment.
    """

    # As torch's gradient scaler sets them: the kernel divides each gradient by this number on its way.
    grad_scale: torch.Tensor | None = None
    found_inf: torch.Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, betas=betas, eps=eps, fused=True)
        weights = [parameter for group in self.param_groups for parameter in group["params"]]
        self._direct = all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one update of every weight that has a gradient."""
        if not self._direct or closure is not None:
            return super().step(closure)
        with torch.no_grad():
            learnt = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
            states = [[self.state[p] or self._begin(p) for p in weights] for weights in learnt]
            steps = [state["step"] for some in states for state in some]
            if steps:
                torch._foreach_add_(steps, 1)
            for group, weights, some in zip(self.param_groups, learnt, states, strict=True):
                if weights:
                    self._update(group, weights, some)
        return None

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it in its profiler and its hooks

    def _update(self, group: dict[str, Any], weights: list[torch.Tensor], states: list[dict[str, Any]]) -> None:
        torch._fused_adamw_(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            grad_scale=self.grad_scale,
            found_inf=self.found_inf,
        )

    def _begin(self, parameter: torch.Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

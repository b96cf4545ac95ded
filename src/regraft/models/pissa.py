"""Adapters that begin as the principal part of a weight: y = (W - s B0 A0) x + s B A x + b, and A and B learn from A0 and B0.

Meng et al. 2024, arXiv:2404.02948, equations 2 to 4: with W = U S V', s B0 A0 is the part of the R largest singular values,
A0 = sqrt(S / s) V' and B0 = U sqrt(S / s). Here W stays as it came: what the residual lacks is taken off the output, s (B A x -
B0 A0 x), so that the base keeps its bits and what is frozen below is computed once for all tunings.

Kept as PEFT documents it for PiSSA: a plain LoRA folder of twice the rank for the base as it came, its factors [B, B0] and
[A, -A0].

Shapes: I inputs, O outputs of a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from regraft.errors import OptionsError, Problem
from regraft.models.adapters import Placed, adapting, as_kept, is_transposed, sizes, weight_of
from regraft.models.lora import WEIGHTS, Lora, LoraPlan, lora_settings, put_beside
from regraft.models.net import Headed
from regraft.options import JSON

_FIRST_A, _FIRST_B = "lora_A_first", "lora_B_first"


class Pissa(Lora):
    """Low-rank adapters that begin as the principal part of the weights, kept as a PEFT folder of twice the rank."""

    def planned(self, net: Headed, options: Any, there: Sequence[str]) -> LoraPlan:
        """Return the plan.

        Raises:
            OptionsError: As `Lora.planned`, or a layer has no part of so large a rank.
        """
        plan = super().planned(net, options, there)
        modules = dict(net.backbone.body.named_modules())
        narrow = [path for path in plan.layers if plan.rank > min(sizes(modules[path]))]
        if narrow:
            least = min(min(sizes(modules[path])) for path in plan.layers)
            what, fix = "a weight has no part of so large a rank", f"set tuning.rank to {least} or less"
            expected = f"at most {least}, the width of {narrow[0]}"
            raise OptionsError(Problem(what=what, where="tuning.rank", got=str(plan.rank), expected=expected, fix=fix))
        return plan

    def adapt(self, layer: Any, path: str, plan: Any) -> None:
        """Put A and B, and what they begin as, beside a layer; all are zero."""
        adapting(layer, "Pissa", _pissa, (*WEIGHTS, _FIRST_A, _FIRST_B))
        put_beside(layer, plan)
        layer.register_buffer(_FIRST_A, torch.zeros_like(layer.lora_A.weight))
        layer.register_buffer(_FIRST_B, torch.zeros_like(layer.lora_B.weight))

    def begin(self, layer: Any, path: str, plan: Any, generator: torch.Generator) -> None:
        """Take A and B out of the weight; nothing is drawn."""
        left, values, right = torch.linalg.svd(weight_of(layer).detach().float(), full_matrices=False)
        root_R = (values[: plan.rank] / plan.scale).sqrt()
        inner, outer = root_R.unsqueeze(1) * right[: plan.rank], left[:, : plan.rank] * root_R
        for place in (layer.lora_A.weight, layer.lora_A_first):
            place.copy_(inner)
        for place in (layer.lora_B.weight, layer.lora_B_first):
            place.copy_(outer)

    def settings(self, net: Headed, plan: Any, placed: Placed) -> dict[str, JSON]:
        """Return the keys of PEFT's `LoraConfig`: twice the rank at the same scale."""
        return lora_settings(2 * plan.rank, 2 * plan.alpha, plan, transposed=is_transposed(net, plan))

    def tensors_of(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return [A, -A0] (2 R, I) and [B, B0] (O, 2 R)."""
        inner = torch.cat([layer.lora_A.weight, -layer.lora_A_first])
        outer = torch.cat([layer.lora_B.weight, layer.lora_B_first], dim=1)
        return dict(zip(WEIGHTS, (inner, outer), strict=True))

    def put(self, layer: Any, path: str, plan: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write A, B, and what they began as."""
        inner, outer = (tensors[name] for name in WEIGHTS)
        layer.lora_A.weight.copy_(inner[: plan.rank])
        layer.lora_A_first.copy_(-inner[plan.rank :])
        layer.lora_B.weight.copy_(outer[:, : plan.rank])
        layer.lora_B_first.copy_(outer[:, plan.rank :])

    def folded(self, layer: Any, path: str, plan: Any) -> dict[str, torch.Tensor]:
        """Return W + s (B A - B0 A0); the very same tensor, bit for bit, where nothing has learnt."""
        pairs = (layer.lora_A.weight, layer.lora_A_first), (layer.lora_B.weight, layer.lora_B_first)
        if all(torch.equal(now, first) for now, first in pairs):
            return {}
        now, first = (outer.double() @ inner.double() for inner, outer in zip(*pairs, strict=True))
        return {"weight": as_kept(layer, weight_of(layer).double() + plan.scale * (now - first))}


def _pissa(cls: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = cls.forward(layer, x)
    now = _product(layer.lora_dropout(x), layer.lora_A.weight, layer.lora_B.weight)
    # By the same kernels: where nothing has learnt the difference is zero, to the last bit.
    first = _product(x, layer.lora_A_first, layer.lora_B_first)
    return torch.add(out, (now - first).view(out.shape), alpha=layer.lora_scale)


def _product(x: torch.Tensor, inner_RI: torch.Tensor, outer_OR: torch.Tensor) -> torch.Tensor:
    # Of two axes: of three, torch chooses another kernel for weights that learn than for those that do not.
    return torch.mm(torch.mm(x.reshape(-1, x.shape[-1]), inner_RI.t()), outer_OR.t())

"""Muon: updates of matrices whose singular values are all about the same."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING, Annotated, Any

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.training.optimizers import Beta, OptimizerFactory, hidden_weights

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed


@options
class MuonOptions:
    """The momentum of Muon, and the moments of AdamW beside it."""

    momentum: Beta = 0.95
    """Decay of the mean of the gradients of matrices."""

    beta1: Beta = 0.9
    """Of AdamW: decay of the mean of the gradients."""

    beta2: Beta = 0.999
    """Of AdamW: decay of the mean of the squared gradients."""

    epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    """Of AdamW: added to the root of the second moment."""


class Muon(OptimizerFactory):
    """Muon for the matrices inside the backbone's layers, AdamW for embeddings, norms, biases, convolutions, adapters and head.

    The momentum of a matrix is orthogonalised by five Newton-Schulz iterations before it is followed (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/), in torch's own form; its update is scaled by 0.2 sqrt(max(rows, columns)), so
    that rates and decay are those of AdamW (Liu et al. 2025, arXiv:2502.16982, section 2.2). Decay is decoupled.

    Args:
        options: An instance of `Options`.
    """

    Options = MuonOptions

    def check(self, net: Headed, trainable: Set[str]) -> None:
        """Refuse where no matrix inside a layer learns, so that AdamW would do all of it.

        Raises:
            OptionsError: That is so, or torch is too old to have Muon.
        """
        import torch

        problems = []
        if not hasattr(torch.optim, "Muon"):
            fix = "update torch, or leave train.optimizer out"
            what = "this torch has no Muon"
            problems.append(
                Problem(what=what, where="train.optimizer", got=torch.__version__, expected="2.9 or newer", fix=fix)
            )
        from regraft.training.optimizer_kinds.steps import orthogonalised

        inside = hidden_weights(net) & trainable
        if not any(orthogonalised(weight, name in inside) for name, weight in net.named_parameters()):
            problems.append(
                Problem(
                    what="Muon moves matrices inside the layers of the backbone, of which none learns here",
                    where="train.optimizer",
                    got="a tuning or a base under which other weights learn (head, adapters, convolutions)",
                    expected="matrices inside layers that learn",
                    fix="choose another tuning (--tuning full or top-k), or leave train.optimizer out",
                )
            )
        if problems:
            raise OptionsError(problems)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return both as one optimiser."""
        from regraft.training.optimizer_kinds.steps import MuonWithAdamW

        chosen = self.options
        return MuonWithAdamW(groups, chosen.momentum, (chosen.beta1, chosen.beta2), chosen.epsilon)

    def state_bytes(self, shape: tuple[int, ...], item_bytes: int) -> int:
        """Return the bytes of AdamW's two moments: which matrices have one less is not to be seen from their shapes."""
        return 2 * math.prod(shape) * item_bytes

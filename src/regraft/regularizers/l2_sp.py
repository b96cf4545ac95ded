"""L2-SP: weights that came with the base are pulled back to where they started."""

from __future__ import annotations

from typing import Annotated

from regraft.models.transform import added_names
from regraft.options import Field, options
from regraft.regularizers.regularizer import Regularizer, Scene


@options
class L2SpOptions:
    """How strong the pull is."""

    alpha: Annotated[float, Field(ge=0.0)] = 0.1
    """Pull of weights of the base towards their start."""

    beta: Annotated[float, Field(ge=0.0)] = 0.01
    """Pull of new weights (head, adapters) towards zero."""


class L2Sp(Regularizer):
    """Pull weights of the base back to where they started, and new ones to zero.

    Adds alpha / 2 |w - w0|^2 over the weights w of the base, w0 their start, and beta / 2 |v|^2 over the new ones to the
    loss: Li, Grandvalet and Davoine 2018, arXiv:1802.01483, equation 2. The gradients of both terms are added to those of the
    whole batch, once an update, so that they do not depend on how a batch is split. Decoupled decay is another pull, towards
    zero: with this, `train.weight_decay` is best 0.

    Args:
        options: An instance of `Options`.
    """

    Options = L2SpOptions

    def begin(self, scene: Scene, total_steps: int, steps_per_epoch: int) -> None:
        """Take in where the weights of the base start."""
        weights = scene.weights()
        beside = ("head.", *(f"backbone.{path}" for path in getattr(scene.net.backbone, "new", ("pooling.",))))
        added = added_names(scene.net)
        self._new = [value for name, value in weights.items() if name in added or name.startswith(beside)]
        known = [value for name, value in weights.items() if not (name in added or name.startswith(beside))]
        self._pairs = [(value, value.detach().clone()) for value in known]

    def pull(self, weight: float) -> None:
        """Add alpha (w - w0) and beta v to the gradients."""
        import torch

        with torch.no_grad():
            pulls = [(value, value - start, self.options.alpha) for value, start in self._pairs]
            for value, away, factor in (*pulls, *((value, value, self.options.beta) for value in self._new)):
                if value.grad is None:  # nothing of it took part in this update
                    value.grad = away * (factor * weight)
                else:
                    value.grad.add_(away, alpha=factor * weight)

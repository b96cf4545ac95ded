"""R-Drop: two passes with different dropout are to say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from regraft.options import Field, options
from regraft.regularizers.divergences import check_output, weighted
from regraft.regularizers.regularizer import Inner, Regularizer, Scene

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.tasks.task import Loss
    from regraft.types import Batch


@options
class RDropOptions:
    """What disagreement costs."""

    alpha: Annotated[float, Field(gt=0.0)] = 1.0
    """What the divergence is multiplied by; 0.1 to 1 for understanding text, up to 5 elsewhere in the paper."""


class RDrop(Regularizer):
    """Let two passes that draw dropout anew say the same: their mean loss, and what is between their answers.

    The loss is (L1 + L2) / 2 + alpha (KL(p || q) + KL(q || p)) / 2: Wu et al. 2021, arXiv:2106.14448, equations 2 to 4, with
    the mean of both losses in the place of their sum, as in the authors' code, so that the loss of a row stays one. What a
    divergence is, the task says (`Task.divergence`): of labels, each by itself; of numbers, the squared difference. Without
    dropout, or with all of it below a frozen part, nothing diverges.

    Args:
        options: An instance of `Options`.
    """

    Options = RDropOptions
    repeats: ClassVar[bool] = True

    def check(self, scene: Scene) -> None:
        """Refuse what has no output for each row.

        Raises:
            OptionsError: The task holds rows against each other, or the objective has no output.
        """
        check_output(scene, "r-drop")

    def loss(self, net: Headed, batch: Batch, inner: Inner) -> tuple[Loss, dict[str, float]]:
        """Return the mean loss of two passes and their divergence."""
        from regraft.regularizers.entrance import Tap, tapped
        from regraft.tasks.task import Loss

        first, second = Tap(), Tap()
        one, logs = inner(tapped(net, first), batch)
        other, _ = inner(tapped(net, second), batch)
        p, q = first.outputs[0], second.outputs[0]
        apart = 0.5 * (self.task.divergence(p, q) + self.task.divergence(q, p))
        total = weighted(self.task, apart, batch)
        told = {**logs, "divergence": float(apart.detach().mean())}
        return Loss(0.5 * (one.total + other.total) + self.options.alpha * total, one.weight), told

"""SMART: small moves of what enters are to change what is answered as little as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from regraft.options import Field, options
from regraft.regularizers.divergences import check_output, weighted
from regraft.regularizers.regularizer import Inner, Regularizer, Scene

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.tasks.task import Loss, Task
    from regraft.types import Batch


@options
class SmartOptions:
    """How far rows are moved, and what a change of the answer costs."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """What the change is multiplied by before it is added to the loss; 1 to 10 in the paper."""

    epsilon: Annotated[float, Field(gt=0.0)] = 0.02
    """Most that a number may be moved, as a share of the root mean square of what enters for a row."""

    noise: Annotated[float, Field(gt=0.0)] = 0.0002
    """Deviation of the random move that the search begins with, as the same share."""

    steps: Annotated[int, Field(ge=1, le=20)] = 1
    """Steps of the search."""

    step_size: Annotated[float, Field(gt=0.0)] = 0.02
    """Most that a step moves a number, as the same share."""

    at: Literal["input", "pooled"] = "input"
    """What is moved: input (vectors of tokens; numbers of pictures, sounds, series, tables), or the pooled features."""


class Smart(Regularizer):
    """Let small moves of what enters change the answer little: adds max over |r| <= epsilon of D(f(x + r), f(x)).

    Jiang et al. 2020, arXiv:1911.03437, equation 2 and algorithm 1, the inner steps r <- P(r + a g / |g|_inf) with the largest
    number as the norm. D is KL(p || q) + KL(q || p) for classes, the squared difference for numbers (`Task.divergence`).
    Lengths are shares of the root mean square of what enters, so that one value suits text, pictures and sound. All passes
    draw the same dropout: what changes is due to the move alone. The Bregman proximal point term (equation 4) is left out.

    Args:
        options: An instance of `Options`.
    """

    Options = SmartOptions
    repeats: ClassVar[bool] = True

    def check(self, scene: Scene) -> None:
        """Refuse a base whose inputs cannot be moved, and what has no output for each row.

        Raises:
            OptionsError: One of these.
        """
        from regraft.regularizers.entrance import check_entrance

        check_output(scene, "smart")
        check_entrance(scene, self.options.at, "smart")

    def loss(self, net: Headed, batch: Batch, inner: Inner) -> tuple[Loss, dict[str, float]]:
        """Return the loss and the change of the answers."""
        from regraft.regularizers.entrance import Tap, repeating, tapped
        from regraft.tasks.task import Loss

        with repeating(net.device) as again:
            tap = Tap(self.options.at)
            found, logs = inner(tapped(net, tap), batch)
            output, entered = tap.outputs[0], tap.entered[: len(tap.entered) // len(tap.outputs)]

            def answer(moves: list[torch.Tensor]) -> torch.Tensor:
                again()
                return self.objective.output(tapped(net, Tap(self.options.at, moves)), batch)

            moves = self._searched(net, batch, output.detach(), entered, answer)
            change = _both_ways(self.task, answer(moves), output)
        told = {**logs, "change": float(change.detach().mean())}
        return Loss(found.total + self.options.weight * weighted(self.task, change, batch), found.weight), told

    def _searched(
        self,
        net: Headed,
        batch: Batch,
        output: torch.Tensor,
        entered: list[torch.Tensor],
        answer: Callable[[list[torch.Tensor]], torch.Tensor],
    ) -> list[torch.Tensor]:
        """Return the moves that change the output most, as far as the search finds them."""
        import torch

        from regraft.regularizers.entrance import TINY, rows_of, steepest

        chosen, rows = self.options, rows_of(net, batch, self.options.at)
        sizes = rows.deviations(entered)
        drawn = rows.real([torch.randn_like(value) for value in entered])
        moves = [chosen.noise * size * move for size, move in zip(sizes, drawn, strict=True)]
        for _ in range(chosen.steps):
            at = [move.requires_grad_() for move in moves]
            gradients = rows.real(steepest(_both_ways(self.task, answer(at), output).sum(), net, at, keep=False))
            moves = []
            for move, grad, size, top in zip(at, gradients, sizes, rows.largest(gradients), strict=True):
                tried = move.detach() + chosen.step_size * size * grad / top.clamp(min=TINY)
                moves.append(torch.clamp(tried, -chosen.epsilon * size, chosen.epsilon * size))
        return moves


def _both_ways(task: Task, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return task.divergence(output, other) + task.divergence(other, output)

"""PGD: rows are also learnt where, in a ball around them, a few steps found their loss large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from regraft.options import Field, options
from regraft.regularizers.regularizer import Inner, Regularizer, Scene

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.regularizers.entrance import Rows
    from regraft.tasks.task import Loss
    from regraft.types import Batch


@options
class PgdOptions:
    """How far rows may be moved, in how many steps, and what their loss weighs then."""

    epsilon: Annotated[float, Field(gt=0.0)] = 0.05
    """Radius of the ball, as a share of the length of what enters for a row."""

    steps: Annotated[int, Field(ge=1, le=50)] = 3
    """Steps; each takes a pass forwards and one backwards."""

    step_size: Annotated[float, Field(gt=0.0)] = 0.025
    """Length of a step, as the same share."""

    random_start: bool = True
    """Begin at a random place of the ball, rather than at the row itself."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """What the loss of moved rows is multiplied by before it is added."""

    at: Literal["input", "pooled"] = "input"
    """What is moved: input (vectors of tokens; numbers of pictures, sounds, series, tables), or the pooled features."""


class Pgd(Regularizer):
    """Learn each row also after several steps uphill, inside a ball around it.

    The steps are r <- P(r + a g / |g|), g the gradient of the loss by what enters, P the projection onto |r| <= epsilon:
    Madry et al. 2018, arXiv:1706.06083, section 2.1 and equation 2.1, with lengths (L2) for each row by itself in the place
    of the largest number; the loss of the unmoved rows stays beside it, as in Zhu et al. 2020 (FreeLB, arXiv:1909.11764),
    whose steps these are (algorithm 1). Lengths are shares of that of what enters, as for FGM.

    Args:
        options: An instance of `Options`.
    """

    Options = PgdOptions
    repeats: ClassVar[bool] = True

    def check(self, scene: Scene) -> None:
        """Refuse a base whose inputs cannot be moved.

        Raises:
            OptionsError: It is one.
        """
        from regraft.regularizers.entrance import check_entrance

        check_entrance(scene, self.options.at, "pgd")

    def loss(self, net: Headed, batch: Batch, inner: Inner) -> tuple[Loss, dict[str, float]]:
        """Return the loss of the rows and of the moved rows."""
        from regraft.regularizers.entrance import Tap, rows_of, steepest, tapped
        from regraft.tasks.task import Loss

        chosen = self.options
        rows = rows_of(net, batch, chosen.at)
        tap = Tap(chosen.at)
        found, logs = inner(tapped(net, tap), batch)
        moves = self._start(tap.entered, rows)
        for _ in range(chosen.steps):
            at = [move.requires_grad_() for move in moves]
            there, _ = inner(tapped(net, Tap(chosen.at, at)), batch)
            steps = rows.directions(steepest(there.total, net, at, keep=False), tap.entered)
            tried = [move.detach() + chosen.step_size * step for move, step in zip(at, steps, strict=True)]
            moves = self._inside(tried, tap.entered, rows)
        moved, _ = inner(tapped(net, Tap(chosen.at, moves)), batch)
        told = {**logs, "adversarial": float(moved.total.detach() / moved.weight)}
        return Loss(found.total + chosen.weight * moved.total, found.weight), told

    def _start(self, entered: list[torch.Tensor], rows: Rows) -> list[torch.Tensor]:
        """Return where the steps begin: nowhere, or at a random share of the radius in a random direction."""
        import torch

        if not self.options.random_start:
            return [torch.zeros_like(value) for value in entered]
        drawn = rows.real([torch.randn_like(value) for value in entered])
        share = self.options.epsilon * float(torch.rand(()))
        return [share * move for move in rows.directions(drawn, entered)]

    def _inside(self, moves: list[torch.Tensor], entered: list[torch.Tensor], rows: Rows) -> list[torch.Tensor]:
        """Return moves, those of rows that left the ball shortened to its radius."""
        from regraft.regularizers.entrance import TINY

        sizes = zip(moves, rows.lengths(moves), rows.lengths(entered), strict=True)
        return [move * (self.options.epsilon * size / far.clamp(min=TINY)).clamp(max=1.0) for move, far, size in sizes]

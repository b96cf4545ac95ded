"""FGM: rows are also learnt after a step in the direction in which their loss grows fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from regraft.options import Field, options
from regraft.regularizers.regularizer import Inner, Regularizer, Scene

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.tasks.task import Loss
    from regraft.types import Batch


@options
class FgmOptions:
    """How far rows are moved, and what their loss weighs then."""

    epsilon: Annotated[float, Field(gt=0.0)] = 0.05
    """Length of the move, as a share of the length of what enters for a row."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """What the loss of moved rows is multiplied by before it is added."""

    at: Literal["input", "pooled"] = "input"
    """What is moved: input (vectors of tokens; numbers of pictures, sounds, series, tables), or the pooled features."""


class Fgm(Regularizer):
    """Learn each row also after one step uphill: its loss at r = epsilon g / |g|, g the gradient of it by what enters.

    Miyato, Dai and Goodfellow 2017, arXiv:1605.07725, equations 3 to 5, for each row by itself. There embeddings are normalised
    so that epsilon means something; here it is a share of the length of what enters, so that one value suits text, pictures
    and sound. Above a frozen part that is computed once, what that part gives is moved. Takes two more passes backwards and one
    forwards.

    Args:
        options: An instance of `Options`.
    """

    Options = FgmOptions
    repeats: ClassVar[bool] = True

    def check(self, scene: Scene) -> None:
        """Refuse a base whose inputs cannot be moved, and tasks that hold rows against each other.

        Raises:
            OptionsError: One of these.
        """
        from regraft.regularizers.entrance import check_entrance

        check_entrance(scene, self.options.at, "fgm")

    def loss(self, net: Headed, batch: Batch, inner: Inner) -> tuple[Loss, dict[str, float]]:
        """Return the loss of the rows and of the moved rows."""
        from regraft.regularizers.entrance import Tap, rows_of, steepest, tapped
        from regraft.tasks.task import Loss

        chosen = self.options
        tap = Tap(chosen.at)
        found, logs = inner(tapped(net, tap), batch)
        gradients = steepest(found.total, net, tap.zeros, keep=True)
        rows = rows_of(net, batch, chosen.at)
        moves = [chosen.epsilon * move for move in rows.directions(gradients, tap.entered)]
        moved, _ = inner(tapped(net, Tap(chosen.at, moves)), batch)
        told = {**logs, "adversarial": float(moved.total.detach() / moved.weight)}
        return Loss(found.total + chosen.weight * moved.total, found.weight), told

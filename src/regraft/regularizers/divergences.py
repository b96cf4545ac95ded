"""What regularisers that hold outputs against each other share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.errors import OptionsError, Problem
from regraft.regularizers.regularizer import Scene

if TYPE_CHECKING:
    import torch

    from regraft.tasks.task import Task
    from regraft.types import Batch


def check_output(scene: Scene, name: str) -> None:
    """Refuse what has no output for each row by itself.

    Args:
        scene: What is about to learn.
        name: Of the regulariser, as the user calls it.

    Raises:
        OptionsError: The task holds rows against each other, or the objective makes its loss of more than outputs.
    """
    where = f"train.regularize.{name}"
    if scene.task.paired:
        what = f"{name} works on the output of each row, and '{scene.task.name}' holds the rows of a batch against each other"
        raise OptionsError(Problem(what=what, where=where, fix="leave it out; ema, swa and l2-sp work with every task"))
    if scene.task.by_gradients is not None or not scene.objective.has_output:
        what = f"{name} needs a loss that follows from one output a row"
        got = "losses of several targets that are weighed by their gradients"
        fix = "leave it out, or leave task.weighting out"
        raise OptionsError(Problem(what=what, where=where, got=got, fix=fix))


def weighted(task: Task, rows_B: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the sum over rows of numbers (B,), each multiplied by what its row weighs in the loss."""
    import torch

    weights = torch.from_numpy(np.asarray(task.row_weights(np.asarray(batch.targets)))).to(rows_B)
    return (rows_B * weights).sum()

"""The judged rows one by one: what is true of each and what the model gave for it, from which every figure of a report follows.

Shapes: N rows, C columns of the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    from regraft.tasks.task import Task


@dataclass(frozen=True)
class Answers:
    """What was judged.

    Args:
        task: What is predicted.
        targets_N: Targets of the rows.
        outputs_NC: What the model gave for them (`Task.probabilities`).
    """

    task: Task
    targets_N: Array
    outputs_NC: FloatArray

    def __len__(self) -> int:
        return len(self.targets_N)

    def some(self, rows: Array) -> Answers:
        """Return the answers to some of the rows."""
        return Answers(self.task, self.targets_N[rows], self.outputs_NC[rows])

    def worst(self, count: int) -> Array:
        """Return the positions of the rows that are most wrong, the worst first; of equally wrong ones the first.

        Args:
            count: How many at most.
        """
        from regraft.evaluation.answer_kind import kind_for

        kind = kind_for(self.task)
        wrong = np.flatnonzero(kind.wrong(self.targets_N, self.outputs_NC))
        costs = kind.costs(self.targets_N, self.outputs_NC)[wrong]
        found: Array = wrong[np.argsort(-costs, kind="stable")[:count]]
        return found

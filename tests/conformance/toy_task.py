"""A task that Regraft does not have, in one file: yes or no with a single logit and binary cross-entropy.

The probability of yes is the logistic function of the logit (Cox 1958); targets are 0 and 1.
"""

from __future__ import annotations

import numpy as np

from regraft.errors import DataError, Problem
from regraft.options import options
from regraft.tasks import Loss, Task
from regraft.types import Prediction


@options
class BinaryOptions:
    """Where yes begins."""

    threshold: float = 0.5
    """Probability from which the answer is yes."""


class Binary(Task):
    """Answer yes or no."""

    Options = BinaryOptions
    name = "binary"
    needs = frozenset({"pooled"})
    metrics = ("accuracy",)
    validation_metric = "accuracy"
    rows = 0

    @property
    def names(self):
        return ("no", "yes")

    def learn(self, values, ledger):
        strange = [value for value in values if self.target_problem(value)]
        if strange or len(set(values)) < 2:
            got = repr(strange[0]) if strange else f"{len(values)} rows"
            raise DataError(Problem(what="yes and no are expected", got=got, fix="choose a column of yes and no"))
        self.rows = len(values)

    def state(self):
        return {"rows": self.rows}

    @classmethod
    def restore(cls, options, state):
        task = cls(options)
        task.rows = state["rows"]
        return task

    def target_problem(self, value):
        return "" if value in self.names else f"{value!r} is neither yes nor no"

    def targets(self, values):
        for value in values:
            if self.target_problem(value):
                raise DataError(Problem(what=self.target_problem(value), fix="write yes or no"))
        return np.asarray([value == "yes" for value in values], dtype=np.int64)

    def head(self, width, dropout, seed=0):
        import torch

        from regraft.models.heads import LinearHead

        return LinearHead(width, 1, dropout, torch.Generator().manual_seed(seed))

    def loss(self, output, targets):
        from torch.nn import functional

        total = functional.binary_cross_entropy_with_logits(output[:, 0], targets.to(output), reduction="sum")
        return Loss(total=total, weight=output.new_tensor(float(len(targets))))

    def probabilities(self, output):
        yes = 1 / (1 + np.exp(-np.clip(np.asarray(output, dtype=np.float64)[:, 0], -500, 500)))
        return np.stack([1 - yes, yes], axis=1)

    def decode(self, output):
        return [
            Prediction(
                value="yes" if yes >= self.options.threshold else "no",
                probabilities={"no": no, "yes": yes},
                logits=tuple(logits),
            )
            for (no, yes), logits in zip(self.probabilities(output).tolist(), np.asarray(output).tolist(), strict=True)
        ]

    @classmethod
    def example(cls, n, seed):
        rng = np.random.default_rng(seed)
        signal = rng.random((n, 2))
        yes = np.arange(n) % 3 == 0
        signal[:, 1] = 0.6 * yes + 0.4 * signal[:, 1]
        return signal, ["yes" if one else "no" for one in yes]

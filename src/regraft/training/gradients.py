"""The gradients of one update, summed over its micro-batches, and the refusal of those that are not finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from regraft.errors import GateError
from regraft.training.diagnosis import Case, exploding, not_finite
from regraft.training.seed import network_randomness

if TYPE_CHECKING:
    from torch import nn

    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.training.precision import Precision
    from regraft.types import Batch


class Gradients:
    """Compute the gradients of the weights that learn.

    Args:
        net: The network, in the mode in which it learns.
        objective: Gives the loss of a micro-batch.
        precision: The number format of the arithmetic.
        seed: Draws what is random inside the network: the same for an update however often it is computed.

    `step` and `total_steps` say which update it is; `rate` is its learning rate, for messages.
    """

    def __init__(self, net: Headed, objective: Objective, precision: Precision, seed: int) -> None:
        self.net, self.objective, self.precision, self.seed = net, objective, precision, seed
        self.weights: list[nn.Parameter] = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.step = self.total_steps = 0
        self.rate = 0.0

    @property
    def where(self) -> str:
        """Which update it is, for people."""
        return f"step {self.step + 1} of {self.total_steps}"

    def drop(self) -> None:
        """Forget them."""
        for parameter in self.weights:
            parameter.grad = None

    def compute(self, micro_batches: Sequence[Batch]) -> tuple[float, float, dict[str, float]]:
        """Leave gradients on the weights; return the mean loss, by what they are to be divided, and numbers for the log.

        Raises:
            GateError: A loss is not a finite number.
        """
        import torch

        # A format whose gradients overflow at the present scale takes the same step again at a smaller one.
        with network_randomness(self.seed, self.step, self.net.device), torch.enable_grad():
            while True:
                scale = self.precision.scale
                loss, weight, logs = self._summed(micro_batches, scale)
                if self.precision.settled(self.weights):
                    self.objective.pull(weight * scale)
                    return loss, weight * scale, logs
                self.drop()

    def _summed(self, micro_batches: Sequence[Batch], scale: float) -> tuple[float, float, dict[str, float]]:
        # Gradients of totals add up over micro-batches; dividing them by the weight of the whole batch comes after.
        total = weight = 0.0
        logs: dict[str, float] = {}
        rows = sum(batch.size for batch in micro_batches)
        for batch in micro_batches:
            part, part_logs = self.objective.loss(self.net, batch)
            total_part = float(part.total.detach())
            if not math.isfinite(total_part):
                raise self.refused("loss", total_part, [batch])
            (part.total * scale if scale != 1.0 else part.total).backward()  # type: ignore[no-untyped-call]
            total, weight = total + total_part, weight + float(part.weight.detach())
            for name, value in part_logs.items():
                logs[name] = logs.get(name, 0.0) + value * batch.size / rows
        if not weight > 0.0:
            raise self.refused("loss", math.nan, micro_batches)
        return total / weight, weight, logs

    def refused(self, what: str, got: float, batches: Sequence[Batch]) -> GateError:
        """Return the error for a loss or a gradient that is not a finite number; it names rows and layer."""
        with network_randomness(self.seed, self.step, self.net.device):
            return not_finite(what, got, self._case(batches))

    def exploded(self, norm: float, limit: float, batches: Sequence[Batch]) -> GateError:
        """Return the error for a gradient that is far longer than those before it; it names rows and layer."""
        with network_randomness(self.seed, self.step, self.net.device):
            return exploding(norm, limit, self._case(batches))

    def _case(self, batches: Sequence[Batch]) -> Case:
        return Case(net=self.net, objective=self.objective, batches=batches, where=self.where, rate=self.rate)

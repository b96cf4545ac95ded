"""Weights that are averages of those that moved: they are judged and kept, while training goes on with the ones that move."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from regraft.models.transform import running_buffers
from regraft.options import JSON
from regraft.regularizers.regularizer import Regularizer, Scene

if TYPE_CHECKING:
    import torch


class Averaging(Regularizer):
    """Keep an average of every weight that learns and of every running statistic, and let it be judged and kept.

    Statistics of batch norm are averaged with the weights, as `torch.optim.swa_utils.AveragedModel(use_buffers=True)` does, so
    that no pass over the rows is needed at the end. Counters are copied.
    """

    judges_others: ClassVar[bool] = True

    def begin(self, scene: Scene, total_steps: int, steps_per_epoch: int) -> None:
        """Begin with the weights as they are."""
        self._live = {**scene.weights(), **dict(running_buffers(scene.net))}
        self._mean = {name: value.detach().clone() for name, value in self._live.items()}
        self.averaged = 0

    @abstractmethod
    def share(self, step: int) -> float | None:
        """Return the share of the present weights in the average after an update, or nothing where they do not count.

        Args:
            step: Updates done.
        """

    def updated(self, step: int) -> None:
        """Move the average towards the weights."""
        import torch

        share = self.share(step)
        if share is None:
            return
        self.averaged += 1
        with torch.no_grad():
            for name, value in self._live.items():
                if value.is_floating_point():
                    self._mean[name].lerp_(value, share)
                else:
                    self._mean[name].copy_(value)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Put the average into the network for as long as the block runs; nothing where nothing was averaged yet."""
        if not self.averaged:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        import torch

        with torch.no_grad():
            for name, value in self._live.items():
                held = value.detach().clone()
                value.copy_(self._mean[name])
                self._mean[name].copy_(held)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the average."""
        return dict(self._mean)

    def facts(self) -> dict[str, JSON]:
        """Return how many updates it is of."""
        return {"averaged": self.averaged}

    def put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, JSON]) -> None:
        """Take what `tensors` and `facts` gave."""
        for name, value in tensors.items():
            self._mean[name].copy_(value)
        self.averaged = int(facts["averaged"])

    def notes(self) -> tuple[str, ...]:
        """Say what the result is an average of."""
        if not self.averaged:
            return ("the weights were never averaged: training ended before that was to begin",)
        return (f"the weights are an average over {self.averaged:,} updates",)

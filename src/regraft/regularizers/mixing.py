"""Rows that are mixed with each other, and the loss of what is made of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regraft.errors import OptionsError, Problem
from regraft.regularizers.divergences import check_output
from regraft.regularizers.regularizer import Inner, Regularizer, Scene
from regraft.types import Array

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed
    from regraft.tasks.task import Loss
    from regraft.types import Batch


class Mixing(Regularizer):
    """Give each row a partner of the same forward pass and take lam L(y) + (1 - lam) L(y') of the mixture, y' the partner's.

    For a cross-entropy that is the loss against mixed targets. Partners are drawn within a micro-batch: a batch that goes
    through in smaller pieces is mixed otherwise, and in pieces of one row not at all.

    Args:
        options: An instance of `Options`, with `alpha`.
    """

    mixes: ClassVar[bool] = True
    name: ClassVar[str]

    def check(self, scene: Scene) -> None:
        """Refuse what has no output for each row.

        Raises:
            OptionsError: The task holds rows against each other, or the objective has no output.
        """
        check_output(scene, self.name)

    def loss(self, net: Headed, batch: Batch, inner: Inner) -> tuple[Loss, dict[str, float]]:
        """Return the loss of the mixture."""
        import torch

        from regraft.tasks.task import Loss

        alpha: float = self.options.alpha
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        order_B = torch.randperm(batch.size).numpy()
        output, share = self.output(net, batch, share, order_B)
        partners = replace(batch, targets=np.asarray(batch.targets)[order_B])
        one, logs = self.objective.cost(net, output, batch)
        other, _ = self.objective.cost(net, output, partners)
        return Loss(share * one.total + (1.0 - share) * other.total, one.weight), logs

    @abstractmethod
    def output(self, net: Headed, batch: Batch, share: float, order_B: Array) -> tuple[torch.Tensor, float]:
        """Return what the head makes of the mixture, and the share that rows have in it.

        Args:
            net: The network.
            batch: The rows.
            share: Drawn share of each row, in [0, 1]; the rest is its partner's.
            order_B: Place of the partner of each row.
        """


class EncodedMixing(Mixing):
    """Mix the rows as they are encoded, so that nothing below what learns is computed once and kept.

    Args:
        options: An instance of `Options`, with `alpha`.
    """

    varies: ClassVar[bool] = True
    does: ClassVar[str]
    """What it does to rows, for the message of a refusal."""

    takes: ClassVar[str]
    """Which rows it takes, for the same."""

    instead: ClassVar[str]
    """What to do with other rows, for the same."""

    @abstractmethod
    def unfit(self, inputs: Sequence[str]) -> Sequence[str]:
        """Return which arrays of a base it cannot mix; none where it can mix its rows.

        Args:
            inputs: Names of the arrays that the base takes.
        """

    def check(self, scene: Scene) -> None:
        """Refuse rows that it cannot mix, or of several parts.

        Raises:
            OptionsError: The base takes such rows, or the task has no output for each row.
        """
        super().check(scene)
        backbone = scene.net.backbone
        unfit = self.unfit(backbone.architecture.inputs)
        if not unfit and not backbone.part_widths:
            return
        got = "a base that reads several parts" if backbone.part_widths else f"a base that takes {', '.join(unfit)}"
        where = f"train.regularize.{self.name}"
        raise OptionsError(
            Problem(what=f"{self.name} {self.does}", where=where, got=got, expected=self.takes, fix=self.instead)
        )

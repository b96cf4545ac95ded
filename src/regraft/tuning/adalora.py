"""AdaLoRA: adapters begin with more directions than they may keep, and give up those that the loss is least sensitive to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from regraft.errors import OptionsError, Problem
from regraft.options import JSON, Field, options
from regraft.regularizers.regularizer import Regularizer, Scene
from regraft.tuning.adapters import AdapterTuning, LowRankOptions
from regraft.tuning.rank_budget import Budget, RankAllocator, Triplets

if TYPE_CHECKING:
    import torch

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Decay = Annotated[float, Field(gt=0.0, lt=1.0)]


@options
class AdaLoraOptions(LowRankOptions):
    """Where the adapters stand, how large they are, and how they become smaller."""

    rank: Annotated[int, Field(ge=2, le=4096)] = 12
    """Directions of every adapter at the start."""

    target_rank: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Directions that are left at the end, on average over the adapters: one may keep all and another none. Two thirds of
    `rank` if not given."""

    warmup: Share = 0.1
    """Share of the updates at the start in which every direction stays."""

    settling: Share = 0.4
    """Share of the updates at the end in which those that are left learn on. Only weights from then on can be the best."""

    every: Annotated[int, Field(ge=1)] = 1
    """Updates between two choices; those given up at one may come back at the next, until only the last are left."""

    beta1: Decay = 0.85
    """Smooths how sensitive the loss is to a weight."""

    beta2: Decay = 0.85
    """Smooths how far that swings."""

    orthogonality: Annotated[float, Field(ge=0.0)] = 0.5
    """How strongly the directions of an adapter are pulled to be orthogonal and of length 1; 0 for not at all."""


class AdaLora(AdapterTuning):
    """Let low-rank adapters learn that share a budget of directions, and the head; the base itself is frozen.

    Zhang et al. 2023, arXiv:2303.10512. Directions are given up where the loss is least sensitive to them, so that layers that
    need more have a larger rank. The weights that are kept are of updates after the budget has come down to its end. The
    artifact keeps the adapters as a PEFT folder (`adapter/`) beside the untouched base.

    Args:
        options: An instance of `Options`.

    Raises:
        OptionsError: The adapters would not become smaller, or there are no updates in which they could.
    """

    Options = AdaLoraOptions
    transform = "adalora"

    def __init__(self, options: AdaLoraOptions) -> None:
        super().__init__(options)
        problems = []
        if options.target_rank is not None and options.target_rank >= options.rank:
            what, expected = "adapters would have no direction to give up", f"less than tuning.rank, {options.rank}"
            fix = "set tuning.rank to one and a half times tuning.target_rank or more, or choose the tuning lora"
            got = str(options.target_rank)
            problems.append(Problem(what=what, where="tuning.target_rank", got=got, expected=expected, fix=fix))
        if options.warmup + options.settling >= 1.0:
            what, expected = "no updates are left in which directions could be given up", "together less than 1"
            got, fix = f"{options.warmup} and {options.settling}", "lower one of them: they are shares of all updates"
            where = "tuning.warmup, tuning.settling"
            problems.append(Problem(what=what, where=where, got=got, expected=expected, fix=fix))
        if problems:
            raise OptionsError(problems)

    def asked(self) -> AdaLoraOptions:
        """Return what the transform is asked for: the options, with the rank that is left."""
        said: AdaLoraOptions = self.options
        return dataclasses.replace(said, target_rank=said.target_rank or max(1, round(said.rank * 2 / 3)))

    def follows(self) -> tuple[tuple[str, Regularizer], ...]:
        """Return what pulls the directions apart and gives them up."""
        return (("adalora", Ranks(self.asked())),)


class Ranks(Regularizer):
    """Pull the directions of adapters to be orthonormal, and after each update keep those that are worth most.

    Adds orthogonality / K times the sum of |A A' - I| and |B' B - I| over all adapters to the loss, K being the number of such
    terms: Zhang et al. 2023, arXiv:2303.10512, equation 4. The norms are Frobenius norms and not their squares, as in the
    authors' own code and in PEFT. The gradients, 2 (A A' - I) A / |A A' - I| and likewise of B, are added to those of the whole
    batch, once an update, so that they do not depend on how a batch is split.

    Args:
        options: An `AdaLoraOptions` that says the rank that is left.
    """

    Options = AdaLoraOptions
    sets: ClassVar[bool] = True

    def begin(self, scene: Scene, total_steps: int, steps_per_epoch: int) -> None:
        """Take in the adapters, and how long they learn."""
        from regraft.models.adalora import decomposed

        chosen, layers = self.options, decomposed(scene.net)
        budget = Budget(
            first=len(layers) * chosen.rank,
            last=len(layers) * chosen.target_rank,
            warmup=int(chosen.warmup * total_steps),
            settling=int(chosen.settling * total_steps),
            every=chosen.every,
        )
        adapters = {path: Triplets(layer.lora_E, layer.lora_A, layer.lora_B) for path, layer in layers.items()}
        self._allocator = RankAllocator(adapters, budget, beta1=chosen.beta1, beta2=chosen.beta2)
        self._total, self._step = total_steps, 0

    def pull(self, weight: float) -> None:
        """Add the gradients of the penalty."""
        import torch

        adapters = self._allocator.adapters.values()
        factor = weight * self.options.orthogonality / max(2 * len(adapters), 1)
        if not factor:
            return
        with torch.no_grad():
            for triplets in adapters:
                _add(triplets.inner_RI, _gradient(triplets.inner_RI), factor)
                _add(triplets.outer_OR, _gradient(triplets.outer_OR.t()).t(), factor)

    def updated(self, step: int) -> None:
        """Take in how sensitive the loss was, and zero the directions beyond the budget."""
        self._allocator.after_update(step, self._total)
        self._step = step

    @property
    def may_be_kept(self) -> bool:
        """Whether no more directions are left than there shall be at the end."""
        return self._step >= self._total - self._allocator.budget.settling

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return sensitivities and how far they swing."""
        return self._allocator.tensors()

    def facts(self) -> dict[str, JSON]:
        """Return how many updates it has seen."""
        return {"step": self._step}

    def put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, JSON]) -> None:
        """Take what `tensors` and `facts` gave."""
        self._allocator.put_back(tensors)
        self._step = int(facts["step"])

    def notes(self) -> tuple[str, ...]:
        """Say how many directions are left, and how unequally."""
        left = {path: int(one.values_R1.count_nonzero()) for path, one in self._allocator.adapters.items()}
        first, ranks = self._allocator.budget.first, sorted(left.values())
        none = f", none in {ranks.count(0)} of them" if ranks[0] == 0 else ""
        told = (
            f"{sum(ranks):,} of {first:,} directions are left, {ranks[0]} to {ranks[-1]} in each of {len(ranks)} layers{none}"
        )
        return (told,)


def _gradient(rows_RD: torch.Tensor) -> torch.Tensor:
    """Return the gradient of |P P' - I| with respect to P; of its many at the minimum the one that is zero."""
    import torch

    away_RR = rows_RD @ rows_RD.t() - torch.eye(len(rows_RD), dtype=rows_RD.dtype, device=rows_RD.device)
    norm = torch.linalg.matrix_norm(away_RR)
    return (away_RR @ rows_RD) * torch.where(norm > 0, 2.0 / norm, 0.0)


def _add(weight: torch.nn.Parameter, gradient: torch.Tensor, factor: float) -> None:
    if weight.grad is None:  # nothing of it took part in this update
        weight.grad = (gradient * factor).contiguous()
    else:
        weight.grad.add_(gradient, alpha=factor)


__all__ = ["AdaLora", "AdaLoraOptions", "Ranks"]

"""Say which rows and which layer make a loss or a gradient that is not a finite number.

Each row of the batch goes through the network alone; the layer is the first, in the order of computation, that gives other than
finite numbers. Nothing is left behind: gradients are dropped, and the weights do not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import GateError, Problem

if TYPE_CHECKING:
    from torch import nn

    from regraft.models.net import Headed
    from regraft.objectives.objective import Objective
    from regraft.types import Batch

_MOST_ROWS = 256
_LISTED = 16


@dataclass(frozen=True, kw_only=True)
class Case:
    """Where something was not a finite number.

    Args:
        net: The network, in the mode in which it learns.
        objective: Made the batches and their loss.
        batches: Micro-batches of the update.
        where: Which update, for people.
        rate: Learning rate of that update.
    """

    net: Headed
    objective: Objective
    batches: Sequence[Batch]
    where: str
    rate: float


def not_finite(what: str, got: float, case: Case) -> GateError:
    """Return the error for a loss or a gradient that is not a finite number; names the rows and the layer.

    Args:
        what: "loss" or "gradient".
        got: What it was.
        case: Where.
    """
    rows, layer = found_in(case)
    several = rows_of(case.batches)
    if rows and len(rows) < len(several):
        said = f"training row{'s' if len(rows) > 1 else ''} {_listed(rows)} alone (counted from 0)"
    else:
        said = f"training rows {_listed(several) or 'unknown'} (counted from 0)"
    where = f"{case.where}, {said}" + (f", first in the layer '{layer}'" if layer else "")
    look = "look at these rows" if rows else "look at the rows of this batch"
    fix = f"{look}, lower the learning rate (here {case.rate:.3g}) or the largest gradient norm"
    what = f"the {what} is not a finite number"
    return GateError(Problem(what=what, where=where, got=str(got), expected="a finite number", fix=fix))


def exploding(norm: float, limit: float, case: Case) -> GateError:
    """Return the error for a gradient that is far longer than those before it; names the rows that pull, and the layer.

    Args:
        norm: Of the gradient of the mean loss.
        limit: What it may be.
        case: Where.
    """
    pulls, layer = _pulls(case)
    several, longest = rows_of(case.batches), max(pulls.values(), default=0.0)
    # Each row pulls with its share of the mean: those that matter stand out by themselves.
    rows = [row for row, pull in pulls.items() if pull > longest / 2]
    if rows and len(rows) < len(several):
        alone = f"training row{'s' if len(rows) > 1 else ''} {_listed(rows)} alone (counted from 0)"
        said = f"{alone}, whose gradient has a norm of {longest:.3g}"
    else:
        said = f"training rows {_listed(several) or 'unknown'} (counted from 0)"
    where = f"{case.where}, {said}" + (f", most of it in '{layer}'" if layer else "")
    fix = f"look at these rows, lower the learning rate (here {case.rate:.3g}), or raise train.bad_steps.exploding"
    what = "the gradient is far longer than those before it"
    return GateError(Problem(what=what, where=where, got=f"a norm of {norm:.3g}", expected=f"at most {limit:.3g}", fix=fix))


def _pulls(case: Case) -> tuple[dict[int, float], str]:
    """Return the norm of the gradient of each row alone, and the weight that has most of the longest of them."""
    import torch

    weights = [parameter for parameter in case.net.parameters() if parameter.requires_grad]
    found: dict[int, float] = {}
    layer, most = "", -1.0
    _drop(weights)
    for batch in _alone(case):
        with torch.enable_grad():
            part, _ = case.objective.loss(case.net, batch)
            if part.total.requires_grad:
                part.total.backward()  # type: ignore[no-untyped-call]
        norms = {name: float(value.grad.norm()) for name, value in case.net.named_parameters() if value.grad is not None}
        pull = math.hypot(*norms.values())
        found |= dict.fromkeys(rows_of([batch]), pull)
        if norms and pull > most:
            layer, most = max(norms, key=lambda name: norms[name]).rpartition(".")[0], pull
        _drop(weights)
    return found, layer


def rows_of(batches: Sequence[Batch]) -> list[int]:
    """Return the numbers of the training rows of some batches, where they say them."""
    return [int(row) for batch in batches if batch.rows_B is not None for row in np.asarray(batch.rows_B)]


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(str(row) for row in rows[:_LISTED]) + (f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else "")


def found_in(case: Case) -> tuple[list[int], str]:
    """Return the rows that alone give a loss or a gradient that is not finite, and the first layer that does, or nothing."""
    weights = [parameter for parameter in case.net.parameters() if parameter.requires_grad]
    rows, layer = [], ""
    _drop(weights)
    for batch in _alone(case):
        with _watched(case.net) as first:
            fine = _is_finite(case, batch, weights)
        if not fine:
            rows += rows_of([batch])
            layer = layer or (first[0] if first else _of_gradient(case.net))
        _drop(weights)
    return rows, layer


def _drop(weights: Sequence[nn.Parameter]) -> None:
    for weight in weights:
        weight.grad = None


def _alone(case: Case) -> Iterator[Batch]:
    """Yield the rows of the batches one by one; the batches as they are where the loss is not the sum over rows."""
    if not case.objective.divisible:
        yield from case.batches
        return
    left = _MOST_ROWS
    for batch in case.batches:
        for place in range(min(batch.size, left)):
            yield case.objective.part(batch, np.array([place]))
        left -= batch.size
        if left <= 0:
            return


def _is_finite(case: Case, batch: Batch, weights: Sequence[nn.Parameter]) -> bool:
    import torch

    with torch.enable_grad():
        part, _ = case.objective.loss(case.net, batch)
        if not math.isfinite(float(part.total.detach())):
            return False
        if part.total.requires_grad:
            part.total.backward()  # type: ignore[no-untyped-call]
    return all(bool(torch.isfinite(weight.grad).all()) for weight in weights if weight.grad is not None)


def _of_gradient(net: nn.Module) -> str:
    """Return the module of the last weight whose gradient is not finite: going backwards, it went wrong there first."""
    import torch

    learnt = [(name, weight.grad) for name, weight in net.named_parameters() if weight.grad is not None]
    bad = [name for name, gradient in learnt if not torch.isfinite(gradient).all()]
    return bad[-1].rpartition(".")[0] if bad else ""


@contextmanager
def _watched(net: nn.Module) -> Iterator[list[str]]:
    """Give a list that the name of the first layer goes into that gives other than finite numbers."""
    import torch

    found: list[str] = []

    def finite(values: Any) -> bool:
        if isinstance(values, torch.Tensor):
            return not values.is_floating_point() or bool(torch.isfinite(values).all())
        if isinstance(values, list | tuple):
            return all(map(finite, values))
        return all(map(finite, values.values())) if isinstance(values, dict) else True

    def look(name: str) -> Any:
        def hook(module: nn.Module, taken: Any, given: Any) -> None:
            if not found and not finite(given):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in net.named_modules() if not any(module.children())]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["Case", "exploding", "found_in", "not_finite", "rows_of"]

"""A calibrator in the weights of the last layer, for tools that make probabilities of logits by themselves.

s (W x + b) + c = (s W) x + (s b + c): temperature and vector scaling are a linear map of logits, and the head is one too. The
products are rounded once, from float64.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

from regraft.calibration.none import Unchanged
from regraft.tasks.task import Task

if TYPE_CHECKING:
    from regraft.models.net import Headed


def changes(task: Task) -> bool:
    """Return whether answers to a target differ from what the network gives by itself."""
    return any(not isinstance(part.task.trust.calibrator, Unchanged) for part in task.parts)


def in_the_head(net: Headed, task: Task, *, bias: bool) -> tuple[Headed, Task] | None:
    """Return network and task that answer alike with the calibrator in the head, or nothing where it cannot stand there.

    Args:
        net: Not changed; all but the head is shared.
        task: Not changed.
        bias: Whether the head of the other tool has summands.
    """
    import torch
    from torch import nn

    from regraft.models.heads import LinearHead

    found = task.trust.calibrator.scale_and_bias(len(task.names))
    if task.several or found is None or not isinstance(net.head, LinearHead) or (found[1].any() and not bias):
        return None
    scales_C, biases_C = (torch.from_numpy(each).double() for each in found)
    head = copy.deepcopy(net.head)
    with torch.no_grad():
        weight, summands = head.linear.weight, head.linear.bias
        head.linear.weight = nn.Parameter((scales_C[:, None] * weight.double()).to(weight.dtype))
        head.linear.bias = nn.Parameter((scales_C * summands.double() + biases_C).to(summands.dtype))
    made = copy.copy(net)
    made._modules = {**net._modules, "head": head}
    again = copy.copy(task)
    again.trust = dataclasses.replace(task.trust, calibrator=Unchanged())
    return made, again

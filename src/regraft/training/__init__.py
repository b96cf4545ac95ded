"""One loop, its optimisers, schedules and events."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.training.optimizers import OptimizerFactory

OPTIMIZERS: "Registry[OptimizerFactory]" = Registry("optimizers", {"adamw": "regraft.training.optimizers:adamw"})

SCHEDULES: Registry[Callable[[float], float]] = Registry(
    "schedules",
    {
        "cosine": "regraft.training.schedules:cosine",
        "linear": "regraft.training.schedules:linear",
        "constant": "regraft.training.schedules:constant",
    },
)

__all__ = ["OPTIMIZERS", "SCHEDULES"]

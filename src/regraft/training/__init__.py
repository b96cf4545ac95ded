"""One loop, its optimisers, schedules and events."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.training.optimizers import OptimizerFactory
    from regraft.training.schedules import Schedule

OPTIMIZERS: "Registry[type[OptimizerFactory]]" = Registry("optimizers", {"adamw": "regraft.training.optimizers:AdamW"})

SCHEDULES: "Registry[type[Schedule]]" = Registry(
    "schedules",
    {
        "cosine": "regraft.training.schedules:Cosine",
        "linear": "regraft.training.schedules:Linear",
        "constant": "regraft.training.schedules:Constant",
    },
)

__all__ = ["OPTIMIZERS", "SCHEDULES"]

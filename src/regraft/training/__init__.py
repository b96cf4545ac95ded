"""One loop, its optimisers, schedules and events."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.training.bad_steps import BadStepPolicy
    from regraft.training.optimizers import OptimizerFactory
    from regraft.training.schedules import Schedule

OPTIMIZERS: "Registry[type[OptimizerFactory]]" = Registry(
    "optimizers",
    {
        "adamw": "regraft.training.optimizers:AdamW",
        "sgd": "regraft.training.optimizer_kinds.sgd:Sgd",
        "adafactor": "regraft.training.optimizer_kinds.adafactor:Adafactor",
        "lion": "regraft.training.optimizer_kinds.lion:Lion",
        "muon": "regraft.training.optimizer_kinds.muon:Muon",
        "adam8bit": "regraft.training.optimizer_kinds.adam8bit:Adam8bit",
    },
)

SCHEDULES: "Registry[type[Schedule]]" = Registry(
    "schedules",
    {
        "cosine": "regraft.training.schedules:Cosine",
        "linear": "regraft.training.schedules:Linear",
        "constant": "regraft.training.schedules:Constant",
        "wsd": "regraft.training.schedule_kinds.wsd:Wsd",
        "polynomial": "regraft.training.schedule_kinds.polynomial:Polynomial",
        "inverse-sqrt": "regraft.training.schedule_kinds.inverse_sqrt:InverseSqrt",
        "plateau": "regraft.training.schedule_kinds.plateau:Plateau",
    },
)

BAD_STEPS: "Registry[type[BadStepPolicy]]" = Registry(
    "bad-steps",
    {
        "stop": "regraft.training.bad_steps:Stop",
        "skip": "regraft.training.bad_steps:Skip",
        "roll-back": "regraft.training.bad_steps:RollBack",
    },
)

__all__ = ["BAD_STEPS", "OPTIMIZERS", "SCHEDULES"]

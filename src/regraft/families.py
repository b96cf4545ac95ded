"""The families of named things, for `regraft list FAMILY` and for outside packages. One line a family."""

from __future__ import annotations

from typing import Any

from regraft.registry import Registry

FAMILIES: Registry[Registry[Any]] = Registry(
    "families",
    {
        "readers": "regraft.data:READERS",
        "writers": "regraft.data:WRITERS",
        "samples": "regraft.data:SAMPLES",
        "modalities": "regraft.modalities:MODALITIES",
        "bases": "regraft.models:BASES",
        "poolings": "regraft.models:POOLINGS",
        "transforms": "regraft.models:TRANSFORMS",
        "calibrators": "regraft.calibration:CALIBRATORS",
        "scores": "regraft.calibration:SCORES",
        "tasks": "regraft.tasks:TASKS",
        "objectives": "regraft.objectives:OBJECTIVES",
        "regularizers": "regraft.regularizers:REGULARIZERS",
        "tunings": "regraft.tuning:TUNINGS",
        "optimizers": "regraft.training:OPTIMIZERS",
        "schedules": "regraft.training:SCHEDULES",
        "bad-steps": "regraft.training:BAD_STEPS",
        "answers": "regraft.evaluation:ANSWERS",
        "metrics": "regraft.evaluation:METRICS",
        "rungs": "regraft.evaluation:RUNGS",
        "exporters": "regraft.exporters:EXPORTERS",
        "runtimes": "regraft.serving:RUNTIMES",
        "renderers": "regraft.rendering:RENDERERS",
        "sections": "regraft.reporting:SECTIONS",
        "event-readers": "regraft.reporting:EVENT_READERS",
    },
)

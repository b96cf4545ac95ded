"""What is predicted. One file a task."""

from regraft.registry import Registry
from regraft.tasks.task import Loss, Part, Task

TASKS: Registry[type[Task]] = Registry(
    "tasks",
    {
        "classification": "regraft.tasks.classification:Classification",
        "multi-label": "regraft.tasks.multi_label:MultiLabel",
        "multi-target": "regraft.tasks.multi_target:MultiTarget",
        "ordinal": "regraft.tasks.ordinal:Ordinal",
        "regression": "regraft.tasks.regression:Regression",
        "retrieval": "regraft.tasks.retrieval:Retrieval",
    },
    aliases={"text-classification": "classification"},
)

SEVERAL = "multi-target"
"""What is predicted where several targets are named."""

__all__ = ["SEVERAL", "TASKS", "Loss", "Part", "Task"]

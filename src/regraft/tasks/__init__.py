"""What is predicted. One file a task."""

from regraft.registry import Registry
from regraft.tasks.task import Loss, Task

TASKS: Registry[type[Task]] = Registry(
    "tasks",
    {
        "classification": "regraft.tasks.classification:Classification",
        "multi-label": "regraft.tasks.multi_label:MultiLabel",
        "ordinal": "regraft.tasks.ordinal:Ordinal",
        "regression": "regraft.tasks.regression:Regression",
        "retrieval": "regraft.tasks.retrieval:Retrieval",
    },
    aliases={"text-classification": "classification"},
)

__all__ = ["TASKS", "Loss", "Task"]

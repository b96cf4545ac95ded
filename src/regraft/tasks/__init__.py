"""What is predicted. One file a task."""

from regraft.registry import Registry
from regraft.tasks.task import Loss, Task

TASKS: Registry[type[Task]] = Registry(
    "tasks",
    {
        "classification": "regraft.tasks.classification:Classification",
        "regression": "regraft.tasks.regression:Regression",
    },
    aliases={"text-classification": "classification"},
)

__all__ = ["TASKS", "Loss", "Task"]

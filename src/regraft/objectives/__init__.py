"""How the loss is made. A teacher or an environment lives here; the loop is never edited for a new way to learn."""

from regraft.objectives.objective import Objective
from regraft.registry import Registry

OBJECTIVES: Registry[type[Objective]] = Registry("objectives", {"supervised": "regraft.objectives.supervised:Supervised"})

__all__ = ["OBJECTIVES", "Objective"]

"""The one door to a model: the predictor, the runtimes behind it, and HTTP in front of it."""

from regraft.registry import Registry
from regraft.serving.runtime import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry("runtimes", {"torch": "regraft.serving.runtime_torch:TorchRuntime"})

__all__ = ["RUNTIMES", "Runtime"]

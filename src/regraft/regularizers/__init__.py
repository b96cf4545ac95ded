"""What holds weights back from the training rows, beside the objective. One file each."""

from regraft.registry import Registry
from regraft.regularizers.regularizer import Regularizer

REGULARIZERS: Registry[type[Regularizer]] = Registry(
    "regularizers",
    {
        "ema": "regraft.regularizers.ema:Ema",
        "swa": "regraft.regularizers.swa:Swa",
    },
)

__all__ = ["REGULARIZERS", "Regularizer"]

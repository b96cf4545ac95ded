"""What holds weights back from the training rows, beside the objective. One file each."""

from regraft.registry import Registry
from regraft.regularizers.regularizer import Regularizer

REGULARIZERS: Registry[type[Regularizer]] = Registry(
    "regularizers",
    {
        "ema": "regraft.regularizers.ema:Ema",
        "swa": "regraft.regularizers.swa:Swa",
        "l2-sp": "regraft.regularizers.l2_sp:L2Sp",
        "r-drop": "regraft.regularizers.r_drop:RDrop",
        "mixup": "regraft.regularizers.mixup:Mixup",
        "cutmix": "regraft.regularizers.cutmix:Cutmix",
        "manifold-mixup": "regraft.regularizers.manifold_mixup:ManifoldMixup",
        "stochastic-depth": "regraft.regularizers.stochastic_depth:StochasticDepth",
        "dropout": "regraft.regularizers.dropout:Dropout",
        "fgm": "regraft.regularizers.fgm:Fgm",
        "pgd": "regraft.regularizers.pgd:Pgd",
        "smart": "regraft.regularizers.smart:Smart",
    },
)

__all__ = ["REGULARIZERS", "Regularizer"]

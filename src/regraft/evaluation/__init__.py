"""How good is it, how sure is that, and is it better than what was there before. Numpy only."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.evaluation.measure import Measure
    from regraft.evaluation.rung import Rung

METRICS: "Registry[type[Measure]]" = Registry(
    "metrics",
    {
        "accuracy": "regraft.evaluation.metrics:Accuracy",
        "balanced-accuracy": "regraft.evaluation.metrics:BalancedAccuracy",
        "macro-f1": "regraft.evaluation.metrics:MacroF1",
        "micro-f1": "regraft.evaluation.metrics:MicroF1",
        "log-loss": "regraft.evaluation.metrics:LogLoss",
        "roc-auc": "regraft.evaluation.metrics:RocAuc",
        "brier": "regraft.evaluation.metrics:Brier",
    },
)

RUNGS: "Registry[type[Rung]]" = Registry(
    "rungs",
    {
        "majority": "regraft.evaluation.rungs:Majority",
        "nearest-centroid": "regraft.evaluation.rungs:NearestCentroid",
        "linear-probe": "regraft.evaluation.rungs:LinearProbe",
    },
)

__all__ = ["METRICS", "RUNGS"]

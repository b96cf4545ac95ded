"""How good is it, how sure is that, and is it better than what was there before. Numpy only."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.evaluation.answer_kind import AnswerKind
    from regraft.evaluation.measure import Measure
    from regraft.evaluation.rung import Rung

ANSWERS: "Registry[type[AnswerKind]]" = Registry(
    "answers",
    {
        "classes": "regraft.evaluation.kinds_of_classes:Classes",
        "ranks": "regraft.evaluation.kinds_of_classes:Ranks",
        "label-sets": "regraft.evaluation.kinds_of_sets:LabelSets",
        "numbers": "regraft.evaluation.kinds_of_numbers:Numbers",
        "quantiles": "regraft.evaluation.kinds_of_numbers:Quantiles",
        "targets": "regraft.evaluation.kinds_of_targets:Targets",
        "pairs": "regraft.evaluation.kinds_of_pairs:Pairs",
    },
)

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
        "mae": "regraft.evaluation.numbers:Mae",
        "rmse": "regraft.evaluation.numbers:Rmse",
        "r2": "regraft.evaluation.numbers:R2",
        "pinball": "regraft.evaluation.numbers:Pinball",
        "coverage": "regraft.evaluation.numbers:Coverage",
        "calibration-error": "regraft.evaluation.numbers:CalibrationError",
        "subset-accuracy": "regraft.evaluation.label_sets:SubsetAccuracy",
        "mean-average-precision": "regraft.evaluation.label_sets:MeanAveragePrecision",
        "binary-log-loss": "regraft.evaluation.label_sets:BinaryLogLoss",
        "rank-mae": "regraft.evaluation.ranks:RankMae",
        "quadratic-kappa": "regraft.evaluation.ranks:QuadraticKappa",
        "relative-loss": "regraft.evaluation.kinds_of_targets:RelativeLoss",
        "recall-at-10": "regraft.evaluation.pairs:RecallAt10",
        "recall-at-1-there": "regraft.evaluation.pairs:RecallAt1There",
        "recall-at-5-there": "regraft.evaluation.pairs:RecallAt5There",
        "recall-at-10-there": "regraft.evaluation.pairs:RecallAt10There",
        "median-rank-there": "regraft.evaluation.pairs:MedianRankThere",
        "recall-at-1-back": "regraft.evaluation.pairs:RecallAt1Back",
        "recall-at-5-back": "regraft.evaluation.pairs:RecallAt5Back",
        "recall-at-10-back": "regraft.evaluation.pairs:RecallAt10Back",
        "median-rank-back": "regraft.evaluation.pairs:MedianRankBack",
        "reciprocal-rank": "regraft.evaluation.pairs:ReciprocalRank",
    },
)

RUNGS: "Registry[type[Rung]]" = Registry(
    "rungs",
    {
        "majority": "regraft.evaluation.rungs:Majority",
        "zero-shot": "regraft.evaluation.rungs_zero_shot:ZeroShot",
        "nearest-centroid": "regraft.evaluation.rungs:NearestCentroid",
        "linear-probe": "regraft.evaluation.rungs:LinearProbe",
        "mean": "regraft.evaluation.rungs_of_numbers:Mean",
        "median": "regraft.evaluation.rungs_of_numbers:Median",
        "ridge-probe": "regraft.evaluation.rungs_of_numbers:RidgeProbe",
        "quantiles-of-all": "regraft.evaluation.rungs_of_numbers:QuantilesOfAll",
        "ridge-quantiles": "regraft.evaluation.rungs_of_numbers:RidgeQuantiles",
        "label-shares": "regraft.evaluation.rungs_of_sets:LabelShares",
        "one-vs-rest-probe": "regraft.evaluation.rungs_of_sets:OneVsRestProbe",
        "chance": "regraft.evaluation.rungs_of_pairs:Chance",
        "first-part-alone": "regraft.evaluation.rungs_of_pairs:FirstPartAlone",
        "second-part-alone": "regraft.evaluation.rungs_of_pairs:SecondPartAlone",
    },
)

__all__ = ["ANSWERS", "METRICS", "RUNGS"]

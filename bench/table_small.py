"""Untrained bases for tables on three sets that come with scikit-learn, against its gradient boosting and logistic regression.

    python bench/table_small.py [MODEL ...]

Breast cancer (569 x 30), wine (178 x 13) and digits as a table of numbers (1,797 x 64). For each of five seeds a quarter of the
rows is held out, the same share of every class; every model learns from the same three quarters, with settings that are the
same for every set and seed, and is judged once on the quarter. Steps and rate of ours were set to end in time, after slower
settings (30 epochs of 32 rows; 400 steps at 1e-3) had been seen on breast cancer. Our two styles: AdamW at 2e-3, 200 steps of
64 rows, the last weights count, everything else as `regraft fit` has it but the sizes of the transformer (width 32, two layers,
4 heads); "mlp, periodic" takes numbers as waves. scikit-learn: `HistGradientBoostingClassifier()` as it comes, and
`LogisticRegression(max_iter=2000)` on scaled numbers.

A line a set and model: mean accuracy over the seeds, the smallest and the largest, the difference from gradient boosting in
points with the p-value of the corrected resampled t-test (Nadeau and Bengio 2003, section 3: rows of different seeds overlap),
and the mean seconds of processor time of one seed, learning and answering, on one thread.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regraft.modalities.encoded import EncodedRows
from regraft.models.forward import outputs
from regraft.models.net import Headed
from regraft.models.scratch_tables import ScratchTableOptions, TableBase
from regraft.objectives.supervised import Supervised
from regraft.options import build
from regraft.tasks.classification import Classification
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full
from regraft.types import Ledger

SETS = {"breast-cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
SEEDS = range(5)
HELD_OUT = 0.25
PEER = "gradient boosting"
TRAIN = {"epochs": 1000, "max_steps": 200, "batch_size": 64, "learning_rate": 2e-3}
USUAL = (PEER, "logistic regression", "mlp", "ft-transformer")
OURS = {
    "mlp": {"style": "mlp"},
    "mlp, periodic": {"style": "mlp", "numbers": "periodic"},
    "ft-transformer": {"style": "ft-transformer", "width": 32, "layers": 2, "heads": 4},
}
Model = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def ours(options: dict) -> Model:
    """Return a model of ours: training rows, their labels, test rows and a seed to answers."""

    def fitted(x_NV: np.ndarray, y_N: np.ndarray, test_MV: np.ndarray, seed: int) -> np.ndarray:
        raws, tests = ([{f"x{i}": v for i, v in enumerate(row)} for row in part.tolist()] for part in (x_NV, test_MV))
        base = TableBase("table", build(ScratchTableOptions, options))
        modality = base.modality({}, lambda: iter([raws]))
        task = Classification(Classification.Options())
        labels = [str(label) for label in y_N]
        task.learn(labels, Ledger())
        backbone = base.backbone(modality, seed)
        net = Headed(backbone, task.head(backbone.width, 0.0, seed))
        rows = EncodedRows(modality, [raws])
        objective = Supervised(Supervised.Options()).attach(rows, task.targets(labels), task)
        for _ in train(net, objective, Full(Full.Options()), build(TrainOptions, TRAIN), seed=seed, pretrained=False):
            pass
        shares_MC = task.probabilities(outputs(net.eval(), EncodedRows(modality, [tests]), 64))
        return np.array([int(task.names[i]) for i in shares_MC.argmax(axis=1)])

    return fitted


def boosted(x_NV: np.ndarray, y_N: np.ndarray, test_MV: np.ndarray, seed: int) -> np.ndarray:
    """Return the answers of gradient boosting."""
    return HistGradientBoostingClassifier(random_state=seed).fit(x_NV, y_N).predict(test_MV)


def linear(x_NV: np.ndarray, y_N: np.ndarray, test_MV: np.ndarray, seed: int) -> np.ndarray:
    """Return the answers of logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x_NV, y_N).predict(test_MV)


MODELS: dict[str, Model] = {
    PEER: boosted,
    "logistic regression": linear,
    **{name: ours(options) for name, options in OURS.items()},
}


def judged(model: Model, x_NV: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the accuracy of each seed, and the mean seconds of one."""
    shares, began = [], time.process_time()
    for seed in SEEDS:
        x, test, y, truth = train_test_split(x_NV, y_N, test_size=HELD_OUT, stratify=y_N, random_state=seed)
        shares.append(float((model(x, y, test, seed) == truth).mean()))
    return np.array(shares), (time.process_time() - began) / len(SEEDS)


def chance(apart: np.ndarray) -> float:
    """Return the p-value of differences over seeds: both sides, corrected for rows that seeds share."""
    spread = apart.var(ddof=1) * (1 / len(apart) + HELD_OUT / (1 - HELD_OUT))
    return float(2 * stats.t.sf(abs(apart.mean()) / spread**0.5, len(apart) - 1)) if spread else float(apart.mean() == 0)


def main(names: tuple[str, ...]) -> None:
    """Run every model on every set."""
    torch.set_num_threads(1)
    x_NV, y_N = load_wine(return_X_y=True)
    for model in dict.fromkeys([PEER, *names]):
        MODELS[model](x_NV, y_N, x_NV, 0)  # what is loaded on first use is not learning
    losers = []
    for name, load in SETS.items():
        x_NV, y_N = load(return_X_y=True)
        found = {}
        for model in dict.fromkeys([PEER, *names]):
            found[model], seconds = judged(MODELS[model], x_NV, y_N)
            value = {"set": name, "rows": len(y_N), "model": model, "accuracy": round(float(found[model].mean()), 4)}
            value |= {"least": round(float(found[model].min()), 4), "most": round(float(found[model].max()), 4)}
            if model != PEER:
                apart = 100 * (found[model] - found[PEER])
                value |= {"points": round(float(apart.mean()), 2), "p": round(chance(apart), 3)}
            print(json.dumps({**value, "seconds": round(seconds, 2)}), flush=True)
        best = max(found, key=lambda model: found[model].mean())
        losers += [f"{model} on {name} to {best}" for model in OURS if model in found and model != best]
    print(json.dumps({"ours below the best": losers}), flush=True)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or USUAL)

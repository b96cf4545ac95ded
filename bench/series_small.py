"""Untrained bases for series on small sets of the UCR and UEA archives, against the nearest training row.

    python bench/series_small.py FOLDER [STYLE ...]

FOLDER holds the sets as aeon ships them: the folder aeon/datasets/data inside the wheel of aeon 1.6.0. Each style is trained on
the given training rows with the same settings for every set (100 epochs, batches of 16, seed 0; sets of several channels scaled
by all training rows, those of one by each row; everything else as `regraft fit` has it; no row is held out, the last weights
count) and judged once on the test rows. The peer is 1-NN with Euclidean distance over rows scaled as the networks see them,
shorter rows padded with zeros, in numpy. Intervals are Wilson's, 95 %; seconds are of processor time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from regraft.data.formats import reader_for
from regraft.data.options import DataOptions
from regraft.evaluation.shares import wilson
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.series import Series
from regraft.models.forward import outputs
from regraft.models.net import Headed
from regraft.models.scratch_series import ScratchSeriesOptions, SeriesBase
from regraft.objectives.supervised import Supervised
from regraft.options import build
from regraft.tasks.classification import Classification
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full
from regraft.types import Ledger

SETS = {"ItalyPowerDemand": "row", "JapaneseVowels": "train", "BasicMotions": "train", "GunPoint": "row"}
STYLES = ("cnn", "transformer", "mlp", "gru")
SEED = 0


def read(folder: Path, name: str, part: str) -> tuple[list, list[str]]:
    """Return series and labels of a part of a set."""
    reader = reader_for(folder / name / f"{name}_{part}.ts", DataOptions())
    rows = [row for chunk in reader.chunks(1000) for row in chunk.rows.to_pylist()]
    return [row["series"] for row in rows], [row["label"] for row in rows]


def nearest(train_rows: EncodedRows, test_rows: EncodedRows, labels: list[str]) -> list[str]:
    """Return the label of the training row at the smallest Euclidean distance, for each test row."""
    width = int(max(train_rows.lengths.max(), test_rows.lengths.max()))
    flat = []
    for rows in (train_rows, test_rows):
        values = rows.batch(np.arange(len(rows))).inputs["values"]
        flat.append(np.pad(values, ((0, 0), (0, width - values.shape[1]), (0, 0))).reshape(len(rows), -1).astype(np.float64))
    squares = (flat[1] ** 2).sum(1)[:, None] - 2 * flat[1] @ flat[0].T + (flat[0] ** 2).sum(1)[None, :]
    return [labels[i] for i in squares.argmin(axis=1)]


def fitted(style: str, scaling: str, raws: list, labels: list[str], tests: list) -> list[str]:
    """Return the answers of a style to test rows after training."""
    base = SeriesBase("series", build(ScratchSeriesOptions, {"style": style}))
    modality = base.modality({"scaling": scaling}, lambda: iter([raws]))
    task = Classification(Classification.Options())
    task.learn(labels, Ledger())
    backbone = base.backbone(modality, SEED)
    net = Headed(backbone, task.head(backbone.width, 0.0, SEED))
    rows = EncodedRows(modality, [raws])
    objective = Supervised(Supervised.Options()).attach(rows, task.targets(labels), task)
    wanted = build(TrainOptions, {"epochs": 100, "batch_size": 16})
    for _ in train(net, objective, Full(Full.Options()), wanted, seed=SEED, pretrained=False):
        pass
    net.eval()
    shares = task.probabilities(outputs(net, EncodedRows(modality, [tests]), 32))
    return [task.names[i] for i in shares.argmax(axis=1)]


def say(name: str, what: str, answers: list[str], labels: list[str], seconds: float) -> None:
    """Print one line of results."""
    right = sum(left == right for left, right in zip(answers, labels, strict=True))
    low, high = wilson(right, len(labels))
    value = {
        "set": name,
        "model": what,
        "accuracy": round(right / len(labels), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
    print(json.dumps({**value, "n": len(labels), "seconds": round(seconds, 1)}), flush=True)


def main(folder: Path, styles: tuple[str, ...]) -> None:
    """Run every style on every set."""
    torch.set_num_threads(1)
    data = {name: (*read(folder, name, "TRAIN"), *read(folder, name, "TEST")) for name in SETS}
    for name, (raws, labels, tests, truth) in data.items():
        began = time.process_time()
        base = SeriesBase("series", ScratchSeriesOptions())
        modality = base.modality({"scaling": SETS[name]}, lambda raws=raws: iter([raws]))
        assert isinstance(modality, Series)
        answers = nearest(EncodedRows(modality, [raws]), EncodedRows(modality, [tests]), labels)
        say(name, "1-NN, Euclidean", answers, truth, time.process_time() - began)
    for style in styles:
        for name, (raws, labels, tests, truth) in data.items():
            began = time.process_time()
            say(name, style, fitted(style, SETS[name], raws, labels, tests), truth, time.process_time() - began)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or STYLES)

"""B13: how honest a network becomes that is far too sure of itself, and how often sets and intervals hold the truth.

    python bench/calibration.py

Four classes in ten numbers, clouds that overlap so that no answer can be right in much more than two of three rows. A network
is fitted to 300 rows for 150 epochs without anything that holds it back; the last weights count, not the best: it knows its
rows by heart. It is calibrated on 2,000 validation rows with each method and judged on 2,500 test rows, each time as an
artifact that was written to the disk, read back and verified.

Coverage: over 200 splits of the test rows, 500 calibrate and the others judge. Each split's scores are written into an artifact
on disk, read back, verified, and its answers asked for with coverage=0.9. The band is [0.9 - 3 SE, 0.9 + 1 / (n + 1) + 3 SE]
with SE the standard error of the mean over the splits; of each class by itself n are the rows of the smallest class.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import regraft as rg
from regraft.artifact.manifest import MANIFEST, Manifest, ManifestBody
from regraft.artifact.store import read_artifact
from regraft.calibrating import learnt
from regraft.calibration.options import CalibrateOptions
from regraft.evaluation.trusted import trusted
from regraft.options import Pick
from regraft.serving.predictor import Predictor, restore
from regraft.tasks.sureness import Asked, answered, trust_of

SPLITS, CALIBRATING, COVERAGE = 200, 500, 0.9
TRAIN, VALID, TEST = 300, 2000, 2500
METHODS = ("auto", "temperature", "vector", "beta", "isotonic")
GOAL = 0.25


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of ten numbers with a class and a price."""
    rng = np.random.default_rng(seed)
    centres = 1.15 * np.random.default_rng(99).normal(size=(4, 10)) * (np.arange(10) < 4)
    label = rng.integers(0, 4, count)
    values = centres[label] + rng.normal(size=(count, 10))
    price = values[:, 0] + 0.5 * values[:, 1] ** 2 + (0.3 + 0.7 * (values[:, 2] > 0)) * rng.normal(size=count)
    names = [f"x{place}" for place in range(10)]
    return [
        {**dict(zip(names, row, strict=True)), "kind": f"kind-{kind}", "price": number}
        for row, kind, number in zip(np.round(values, 4).tolist(), label.tolist(), np.round(price, 4).tolist(), strict=True)
    ]


def write(path: Path, made: list[dict[str, Any]]) -> Path:
    """Write rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(made[0]))
        writer.writeheader()
        writer.writerows(made)
    return path


def fitted(folder: Path, name: str, target: str, **options: Any) -> Any:
    """Return an artifact that knows its training rows by heart."""
    columns = ",".join(f"x{place}" for place in range(10))
    judge = {"resamples": 200, **options.pop("judge", {})}
    return rg.fit(
        folder / "train.csv",
        target=target,
        table=columns,
        valid=str(folder / "valid.csv"),
        test=str(folder / "test.csv"),
        out=folder / name,
        base={"name": "table", "style": "mlp", "width": 64, "dropout": 0.0},
        train={
            "epochs": 150,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "head_learning_rate": 3e-3,
            "weight_decay": 0.0,
            "dropout": 0.0,
            "validation": {"every": 10**6},
            **options.pop("train", {}),
        },
        judge=judge,
        machine={"threads": 1, "cache": {"disk_mb": 0}},
        **options,
    )


def again(source: Path, place: Path, calibration: dict[str, Any]) -> Any:
    """Write an artifact with other calibration to the disk; return the task that is read back from there, verified."""
    shutil.copytree(source, place)
    manifest = read_artifact(place).manifest
    changed = dataclasses.replace(manifest, task=dataclasses.replace(manifest.task, calibration=calibration))
    body = {item.name: getattr(changed, item.name) for item in dataclasses.fields(ManifestBody)}
    (place / MANIFEST).write_bytes(Manifest.of(ManifestBody(**body), manifest.files).to_bytes())
    _, task = restore(read_artifact(place))
    return task


def coverages(artifact: Any, made: list[dict[str, Any]], target: str, options: CalibrateOptions, place: Path) -> dict[str, Any]:
    """Return how often the truth was inside over the splits."""
    predictor = Predictor.load(artifact.path, threads=1)
    task = predictor.task
    outputs = predictor.outputs(made)
    values = [row[target] for row in made]
    targets = task.targets(values)
    rng, seen, sizes, by_class = np.random.default_rng(0), [], [], []
    for split in range(SPLITS):
        order = rng.permutation(len(made))
        own, other = order[:CALIBRATING], order[CALIBRATING:]
        part = task.parts[0]
        trust = learnt(part, outputs[own], targets[own], options, seed=split)
        part.task.trust = trust
        folder = place / str(split)
        loaded = again(artifact.path, folder, trust_of(task))
        shutil.rmtree(folder)
        answers = answered(loaded, outputs[other], Asked(coverage=COVERAGE))
        few = other[:100]
        if answers[:100] != answered(task, outputs[few], Asked(coverage=COVERAGE)):
            raise RuntimeError("answers after loading are not those before saving")
        inside = np.array(
            [
                values[row] in one.set if one.set is not None else one.interval[0] <= values[row] <= one.interval[1]
                for row, one in zip(other, answers, strict=True)
            ]
        )
        seen.append(inside.mean())
        sizes.append(np.mean([len(one.set) if one.set is not None else one.interval[1] - one.interval[0] for one in answers]))
        if options.per_class:
            by_class.append([inside[targets[other] == label].mean() for label in range(len(task.names))])
    n = CALIBRATING
    found = np.array(seen) if not options.per_class else np.array(by_class).mean(axis=1)
    if options.per_class:
        n = min(np.bincount(targets)) * CALIBRATING // len(made)
    error = found.std(ddof=1) / np.sqrt(SPLITS)
    low, high = COVERAGE - 3 * error, COVERAGE + 1 / (n + 1) + 3 * error
    return {
        "mean": found.mean(),
        "se": error,
        "low": low,
        "high": high,
        "inside": bool(low <= found.mean() <= high),
        "size": float(np.mean(sizes)),
    }


def calibrated(folder: Path, artifact: Any) -> None:
    """Calibrate with each method on the validation rows, save, load, and say what the test rows show."""
    predictor = Predictor.load(artifact.path, threads=1)
    part = predictor.task.parts[0]
    held = {split: rows(count, seed) for split, count, seed in (("valid", VALID, 2), ("test", TEST, 3))}
    outputs = {split: predictor.outputs(made) for split, made in held.items()}
    targets = {split: part.task.targets([row["kind"] for row in made]) for split, made in held.items()}
    for method in METHODS:
        options = CalibrateOptions(method=method)
        part.task.trust = learnt(part, outputs["valid"], targets["valid"], options, seed=0)
        loaded = again(artifact.path, folder / f"with-{method}", trust_of(predictor.task))
        told = trusted(loaded.parts[0], targets["test"], outputs["test"])["calibration"]
        was, now = told["before"], told["after"]
        ratio, plain = (now[figure] / was[figure] for figure in ("ece", "ece_plain"))
        ends = f"ECE {was['ece']:.4f} -> {now['ece']:.4f}, ratio {ratio:.3f}"
        ends += f" (not debiased {was['ece_plain']:.4f} -> {now['ece_plain']:.4f}, {plain:.3f})"
        say(f"  {method:<11} -> {told['method']:<11} {ends}  {'met' if max(ratio, plain) <= GOAL else 'MISSED'}")
        figures = ("log_loss", "brier", "share_right")
        say(f"  {'':<26} " + ", ".join(f"{figure} {was[figure]:.3f} -> {now[figure]:.3f}" for figure in figures))


def main() -> None:
    """Measure and say."""
    began, today = time.perf_counter(), datetime.date.today()
    say(f"python bench/{Path(__file__).name}")
    say(f"{today}, {platform.machine()}, one thread of a core shared with other work; regraft {rg.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count, seed in (("train", TRAIN, 1), ("valid", VALID, 2), ("test", TEST, 3)):
            write(folder / f"{split}.csv", rows(count, seed))
        say("\nclasses: figures on the test rows before -> after, and the ratio of the calibration errors (goal 0.25)")
        classes = fitted(folder, "classes", "kind")
        told = classes.report.to_json()["calibration"]
        say(f"  `regraft fit` by itself: {told['method']}, ECE {told['before']['ece']:.4f} -> {told['after']['ece']:.4f}")
        calibrated(folder, classes)
        numbers = fitted(folder, "numbers", "price", task="regression", train={"epochs": 40})
        task = {"name": "regression", "quantiles": [0.1, 0.9]}
        quantiles = fitted(folder, "quantiles", "price", task=task, train={"epochs": 40})
        told = quantiles.report.to_json()["calibration"]
        errors = " -> ".join(f"{told[when]['calibration_error']:.4f}" for when in ("before", "after"))
        losses = " -> ".join(f"{told[when]['pinball']:.4f}" for when in ("before", "after"))
        say(f"\nquantiles 0.1, 0.5, 0.9: {told['method']}, calibration error {errors}, pinball {losses}")
        others = TEST - CALIBRATING
        say(f"\ncoverage {COVERAGE} over {SPLITS} splits: {CALIBRATING} rows calibrate, {others} judge; each saved and loaded")
        test = rows(TEST, 3)
        cases = [
            ("aps", classes, "kind", CalibrateOptions(score=Pick("aps"), method="temperature")),
            ("raps", classes, "kind", CalibrateOptions(score=Pick("raps", {"weight": 0.2, "rank": 1}), method="temperature")),
            ("aps, isotonic", classes, "kind", CalibrateOptions(score=Pick("aps"), method="isotonic")),
            ("aps, each class", classes, "kind", CalibrateOptions(score=Pick("aps"), method="temperature", per_class=True)),
            ("residual", numbers, "price", CalibrateOptions()),
            ("cqr", quantiles, "price", CalibrateOptions()),
        ]
        for case, artifact, target, options in cases:
            found = coverages(artifact, test, target, options, folder / "splits")
            say(
                f"  {case:<16} {found['mean']:.4f}  band [{found['low']:.4f}, {found['high']:.4f}]  SE {found['se']:.5f}  "
                f"mean size {found['size']:.3f}  {'inside' if found['inside'] else 'OUTSIDE'}"
            )
    say(f"\n{time.perf_counter() - began:.0f} s")


def say(text: str) -> None:
    """Write a line to the screen and to the output beside this file."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    with Path(__file__).with_suffix(".out").open("a", encoding="utf-8") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    Path(__file__).with_suffix(".out").unlink(missing_ok=True)
    main()

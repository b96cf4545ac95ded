"""The recipes, each run once as a user runs it, with what else answers the same rows.

    python bench/recipes.py NAME ...                                    writes bench/recipes/NAME.out
    python bench/recipes.py --made FOLDER --processor-seconds S NAME    the same for an artifact that the command made before

A recipe is fitted by `regraft fit --config recipes/NAME.yaml` in a process of its own, whose seconds by the clock, seconds of
processor time (children counted) and peak memory are taken from the kernel. Then the peers answer the same test rows in this
process: they learn from the rows that the recipe learns from, those for validation included where the peer has no use for them
otherwise; differences are McNemar's on the same rows. A recipe may be held against others of the house, fitted beside it. Where
nobody is measured, published figures stand with their source.

Peers. Adult: scikit-learn's `HistGradientBoostingClassifier` as it comes, with its own early stopping off and on. MNIST:
`SVC` as it comes (RBF) on pixels. E-mails and reviews: TF-IDF of words and pairs with `LogisticRegression` as they come.
UCR sets: 1-NN with DTW (the archive's own DataSummary.csv, arXiv:1810.07758, full window) and ROCKET (mean of ten runs,
results_ucr.csv of github.com/angus924/rocket, arXiv:1910.13051).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import regraft
from emoji_languages import by_language
from regraft import fitting
from regraft.evaluation.compare import compare_right
from regraft.evaluation.shares import wilson
from regraft.modalities import pictures
from regraft.options import build
from regraft.planning import raws
from regraft.recipe import with_recipe
from regraft.training.stages import Stages, ignore
from regraft.verbs import FitOptions

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parent / "recipes"
STAGES = ("train", "features of the base", "compute what is frozen", "tokenise", "read")
ROCKET = {
    "acsf1": 0.886,
    "arrow-head": 0.8143,
    "gun-point": 1.0,
    "italy-power-demand": 0.9696,
    "osu-leaf": 0.9409,
    "pickup-gesture": 0.83,
}
NEAREST_BY_DTW = {
    "arrow-head": 0.7029,
    "gun-point": 0.9067,
    "italy-power-demand": 0.9504,
    "osu-leaf": 0.5909,
    "pickup-gesture": 0.66,
}


@dataclass(frozen=True)
class Rows:
    """Raw values and targets of the splits of a recipe."""

    values: dict[str, list[Any]]
    targets: dict[str, list[Any]]


Peer = Callable[[Rows, str], np.ndarray]


def boosted(**options: Any) -> Peer:
    """Return gradient boosting on a table: categories as such, numbers as they are."""

    def answers(rows: Rows, learnt: str) -> np.ndarray:
        import pandas as pd
        from sklearn.ensemble import HistGradientBoostingClassifier

        frames = {split: pd.DataFrame(values) for split, values in rows.values.items()}
        known = frames[learnt]
        words = [name for name in known if not pd.api.types.is_numeric_dtype(known[name])]
        for name in words:
            kinds = pd.CategoricalDtype(sorted(known[name].dropna().unique()))
            for frame in frames.values():
                frame[name] = frame[name].astype(kinds)
        model = HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype", **options)
        return model.fit(frames[learnt], rows.targets[learnt]).predict(frames["test"])

    return answers


def of_pixels(rows: Rows, learnt: str) -> np.ndarray:
    """Return the answers of support vectors on pixels."""
    from sklearn.svm import SVC

    flat = {
        split: np.stack([np.asarray(pictures.pixels(raw, 1), dtype=np.float32).ravel() / 255 for raw in rows.values[split]])
        for split in (learnt, "test")
    }
    return SVC(random_state=0).fit(flat[learnt], rows.targets[learnt]).predict(flat["test"])


def of_words(rows: Rows, learnt: str) -> np.ndarray:
    """Return the answers of logistic regression on TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    return model.fit(rows.values[learnt], rows.targets[learnt]).predict(rows.values["test"])


WORDS = {"TF-IDF and logistic regression": of_words}
PEERS: dict[str, dict[str, Peer]] = {
    "adult": {
        "gradient boosting": boosted(early_stopping=False),
        "gradient boosting, early stopping": boosted(early_stopping=True),
    },
    "mnist": {"support vectors": of_pixels},
    "emails-cnn": WORDS,
    "emails-lstm": WORDS,
    "emails-minilm": WORDS,
    "clothing-text": WORDS,
    "clothing-table": {"gradient boosting": boosted(early_stopping=False)},
}
AGAINST = {
    "clothing-fused": ("clothing-text", "clothing-table"),
    "emails-minilm": ("emails-cnn", "emails-lstm"),
    "emoji-both": ("emoji-picture", "emoji-name"),
}
"""Recipes that answer the same test rows, fitted beside the one that is run, and held against it."""

FURTHER: dict[str, Callable[[Path, Path], list[dict[str, Any]]]] = {"emoji": by_language}


def fitted(name: str, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit a recipe in a process of its own; return its report and what it took."""
    command = [sys.executable, "-m", "regraft", "fit", "--config", f"recipes/{name}.yaml", "--out", str(out), "--json"]
    began = time.perf_counter()
    with (out.with_suffix(".json")).open("w+") as told, (out.with_suffix(".log")).open("w+") as log:
        process = subprocess.Popen(command, cwd=RECIPES.parent, stdout=told, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        said, complaint = (file.seek(0) or file.read() for file in (told, log))
    if status:
        raise SystemExit(complaint[-3000:])
    took = {
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mb": round(used.ru_maxrss / 1000),
        "cores": len(os.sched_getaffinity(0)),
    }
    return json.loads(said.splitlines()[-1]), took


def rows_of(name: str) -> Rows:
    """Return the rows of a recipe as its fit reads and splits them."""
    data, options, _ = with_recipe(RECIPES / f"{name}.yaml", None, {"out": "none"})
    stages = Stages(ignore)
    data, options = fitting.joined_splits(data, options)
    _, wanted = fitting.open_base(fitting.settled(data, build(FitOptions, options), stages), stages)
    with fitting.read(data, wanted, stages) as dataset:
        values = {split: [raw for chunk in raws(dataset, split) for raw in chunk] for split in dataset.names}
        targets = {split: dataset.targets(split) for split in dataset.names}
    values["learnt"] = values["train"] + values.get("valid", [])
    targets["learnt"] = targets["train"] + targets.get("valid", [])
    return Rows(values, targets)


def say(lines: list[str], value: dict[str, Any]) -> None:
    """Add a line of results, and show it."""
    lines.append(json.dumps(value, ensure_ascii=False))
    print(lines[-1], flush=True)


def metric(values: dict[str, Any]) -> dict[str, Any]:
    """Return a metric with the digits that its interval bears."""
    return {key: values[key] if key == "n" else round(values[key], 4) for key in ("value", "low", "high", "n")}


def told(made: Path, seconds: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the report of an artifact, and what its fit took as that says it."""
    report = json.loads((made / "report.json").read_text(encoding="utf-8"))
    took = {"seconds": round(report["seconds"], 1), "processor_seconds": seconds}
    return report, {**took, "peak_memory_mb": round(report["cost"]["peak_memory_mb"]), "cores": report["cost"]["cores"]}


def run(name: str, made: Path | None, seconds: float | None) -> None:
    """Fit one recipe, or take what it made before; let its peers answer, write what was seen."""
    shown = f"regraft fit --config recipes/{name}.yaml --out {name}"
    versions = f"regraft {regraft.__version__}, Python {platform.python_version()}"
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} core(s), shared with other work"
    before = ["--made", made.name, "--processor-seconds", f"{seconds:g}"] if made and seconds else []
    lines = [
        shlex.join(["python", "bench/recipes.py", *before, name]),
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {versions}",
        shown,
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        out = made or Path(folder) / name
        report, took = told(made, seconds) if made else fitted(name, out)
        headline = next(iter(report["metrics"]))
        figure = {"recipe": name, "seed": 0, "rows": report["about"]["rows"], headline: metric(report["metrics"][headline])}
        say(lines, {**figure, **took})
        cost = {key: report["cost"].get(key) for key in ("rows_per_s", "padding_ratio", "predict_rows_per_s", "precision")}
        say(
            lines,
            {"cost": cost, "seconds_by_stage": {key: round(report["seconds_by_stage"].get(key, 0.0), 1) for key in STAGES}},
        )
        ladder = {step["name"]: round(step["metrics"][headline]["value"], 4) for step in report["ladder"]}
        say(lines, {"ladder": ladder, "verdict": report["verdict"]})
        for line in FURTHER[name](RECIPES / f"{name}.yaml", out) if name in FURTHER else ():
            say(lines, line)
        losses = compared(name, out, lines)
    losses += [step for step, value in ladder.items() if value > ladder["fitted"]]
    losses += published(name, report["metrics"][headline]["value"], lines)
    say(lines, {"loses to": losses})
    (HERE / "recipes" / f"{name}.out").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compared(name: str, out: Path, lines: list[str]) -> list[str]:
    """Let the peers, and other recipes, answer the test rows; return those that answer more of them rightly."""
    if name not in PEERS and name not in AGAINST:
        return []
    rows = rows_of(name)
    truth = np.asarray(rows.targets["test"])
    ours = answered(out, rows) == truth
    losses = []
    for peer, answers in PEERS.get(name, {}).items():
        began = time.process_time()
        right = np.asarray(answers(rows, "learnt")) == truth
        seconds = time.process_time() - began
        losses += held((peer, name), right, ours, len(rows.targets["learnt"]), seconds, lines)
    for other in AGAINST.get(name, ()):
        theirs = rows_of(other)
        if theirs.targets["test"] != rows.targets["test"]:
            raise SystemExit(f"{other} is not judged on the rows of {name}")
        made = out.with_name(other)
        _, took = fitted(other, made)
        right = answered(made, theirs) == truth
        losses += held((other, name), right, ours, len(theirs.targets["train"]), took["processor_seconds"], lines)
    return losses


def answered(artifact: Path, rows: Rows) -> np.ndarray:
    """Return the answers of an artifact to the test rows."""
    return np.asarray([answer.value for answer in regraft.load(artifact).predict(rows.values["test"])])


def held(
    names: tuple[str, str], right: np.ndarray, ours: np.ndarray, learnt_rows: int, seconds: float, lines: list[str]
) -> list[str]:
    """Say how many rows a peer answers rightly, and where ours stands to it; return the peer if it answers more."""
    low, high = wilson(int(right.sum()), len(right))
    found = compare_right(right, ours, names)
    value = {"peer": names[0], "learnt_rows": learnt_rows, "accuracy": round(float(right.mean()), 4)}
    value |= {"low": round(low, 4), "high": round(high, 4), "n": len(right), "processor_seconds": round(seconds, 1)}
    p_value = float(f"{found.p_value:.2g}")
    say(lines, {**value, "ours minus peer": round(found.difference.value, 4), "p": p_value, "ours is": found.verdict})
    return [f"{names[0]} (p = {p_value:g})"] if right.mean() > ours.mean() else []


def published(name: str, ours: float, lines: list[str]) -> list[str]:
    """Name published figures for a set; return those above ours."""
    name = name.removesuffix("-rocket")
    found = {"1-NN, DTW": NEAREST_BY_DTW.get(name), "ROCKET": ROCKET.get(name)}
    known = {peer: value for peer, value in found.items() if value is not None}
    if known:
        say(lines, {"published": known})
    return [f"{peer} (published)" for peer, value in known.items() if value > ours]


def main() -> None:
    """Run the named recipes, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", default=sorted(path.stem for path in RECIPES.glob("*.yaml")))
    parser.add_argument("--made", type=Path, help="folder of an artifact that the recipe made before")
    parser.add_argument("--processor-seconds", type=float, help="what its fit took, as the system told it")
    given = parser.parse_args()
    for name in given.names:
        run(name, given.made, given.processor_seconds)


if __name__ == "__main__":
    main()

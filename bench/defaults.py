"""What a fit does where nothing is said: ways to tune and their epochs, over rows and seeds.

    python bench/defaults.py [--seeds 5] [--rows 100 500]   goes on where it stopped; makes bench/defaults.out
    python bench/defaults.py --stable 20                       fits by the defaults alone on 500 rows; makes bench/stable.out

MiniLM (22.7 million weights) reads the first 32 tokens of e-mails (ham or spam) and of clothing reviews (the rating, 1 to 5);
EfficientNet-Lite0 (4.7 million) looks at emoji (their category) at 64 x 64 pixels; from scratch an LSTM reads the same e-mails
and a small convolution network looks at Fashion-MNIST at 28 x 28. A seed draws rows, split, head, order and dropout; every
recipe sees the same rows under the same seed. A tenth of the training rows is split off to choose the best epoch, as a fit does
by itself; 500 other rows are the test. Seconds are those of the processor while weights learn; what a frozen base gives, one
pass over the rows, is shared by the recipes and not counted. The rule of choice is `chosen`: of the recipes that are not worse
than the best by more than a standard error of the difference, paired by seed and data, the one that takes least time. Around
the recipe that was chosen the rate, the batch and the warm-up are moved one at a time; one of these takes the place of what is
usual only if a paired t-test says that it is better, at a level of 0.05 divided by the number of all moves (Bonferroni). What
was chosen stands in `src/regraft/defaults.py`, and a test holds it against the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import tunings

HERE = Path(__file__).resolve().parent
RAW, STABLE = HERE / "defaults.jsonl", HERE / "stable.jsonl"
SIZES, TEST, STABLE_ROWS, SEEDS = (100, 500), 500, 500, 5
TEXTS: dict[str, Any] = {"base": "minilm", "modality": {"max_length": 32}}
PICTURES: dict[str, Any] = {"base": "efficientnet-lite0", "modality": {"size": 64}}
LSTM: dict[str, Any] = {"base": "lstm", "modality": {"max_length": 32}}
CONV: dict[str, Any] = {"base": "conv", "modality": {"size": 28}}
DATA: dict[str, dict[str, Any]] = {
    "emails": TEXTS,
    "clothing": TEXTS,
    "emoji": PICTURES,
    "emails from scratch": LSTM,
    "fashion from scratch": CONV,
}
SCRATCH = "from scratch"
KINDS = {"minilm": ("emails", "clothing"), "efficientnet-lite0": ("emoji",), SCRATCH: tuple(DATA)[3:]}
# Training rows that there are, beside those for tests.
MOST = {"emails": 500, "clothing": 1000, "fashion": 1000, "emoji": 1000}

FEWEST = 4
RARE = {"Component"}  # nine emoji: a few rows to learn from have none of them
PLACES = {"fashion": ("fashion-mnist", "image", "label"), "emoji": ("emoji-categories", "picture", "category")}


def recipe(tuning: str, epochs: int, /, *, head: int | None = None, **train: Any) -> dict[str, Any]:
    """Return the options of a fit.

    Args:
        tuning: Name of the way to tune.
        epochs: How often every row is seen; of the last phase.
        head: Epochs in which the head learns alone before.
        **train: More of `train`.
    """
    picked = {"name": tuning} if head is None else {"name": tuning, "head_epochs": head}
    return {"tuning": picked, "train": {"epochs": epochs, **train}}


HEAD, GRADUAL = recipe("head", 100), {epochs: recipe("gradual", epochs, head=100) for epochs in (3, 5)}
FULL = {epochs: recipe("full", epochs) for epochs in (3, 10, 20, 30)}
_FEW = {"head 100": HEAD, "full 20": FULL[20], "gradual 5": GRADUAL[5]}
RECIPES: dict[str, dict[int, dict[str, dict[str, Any]]]] = {
    "minilm": {100: _FEW, 500: {"head 100": HEAD, "full 3": FULL[3], "gradual 3": GRADUAL[3]}},
    "efficientnet-lite0": {100: _FEW, 500: {"head 100": HEAD, "full 3": FULL[3], "gradual 5": GRADUAL[5]}},
    SCRATCH: {rows: {f"full {epochs}": FULL[epochs] for epochs in (3, 10, 30)} for rows in (100, 500)},
}
USUAL: dict[str, dict[int, str]] = {
    "minilm": {100: "gradual 5", 500: "full 3"},
    "efficientnet-lite0": {100: "head 100", 500: "head 100"},
    SCRATCH: {100: "full 30", 500: "full 30"},
}
"""What was chosen, around which the rest is moved; a test holds it against the table."""
LEVEL = 0.05


def moved(kind: str, rows: int) -> dict[str, dict[str, Any]]:
    """Return the recipes around the usual one: rate, batch and warm-up, one at a time."""
    usual = USUAL[kind][rows]
    options = RECIPES[kind][rows][usual]
    rate, at = ("head_learning_rate", 1e-2) if options is HEAD else ("learning_rate", 1e-3 if kind == SCRATCH else 1e-4)
    moves: dict[str, dict[str, Any]] = {
        "rate / 3": {rate: at / 3},
        "rate x 3": {rate: at * 3},
        "batch 32": {"batch_size": 32},
        "no warm-up": {"warmup_share": 0.0},
    }
    return {f"{usual}, {name}": {**options, "train": {**options["train"], **move}} for name, move in moves.items()}


def source(data: str) -> str:
    """Return the name of the rows of a data set."""
    return data.removesuffix(f" {SCRATCH}")


def rows_of(data: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return rows to learn from and rows for the test, in an order of the seed."""
    if data in tunings.DATA:
        drawn = tunings.DATA[data](MOST[data], seed)
        return {"train": drawn["train"], "test": drawn["test"][:TEST]}
    import pyarrow as pa
    import pyarrow.parquet as pq

    from regraft.data import SAMPLES

    name, picture, label = PLACES[data]
    files = sorted(SAMPLES.get(name).folder().glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file, columns=[picture, label]) for file in files])
    order = np.random.default_rng(seed).permutation(table.num_rows)[: MOST[data] + TEST + len(RARE) * 20]
    found = [{"image": row[picture], "label": str(row[label])} for row in table.take(order).to_pylist()]
    found = [row for row in found if row["label"] not in RARE]
    return {"train": found[TEST:], "test": found[:TEST]}


def fitted(data: str, rows: int, options: Mapping[str, Any], seed: int, features: Path) -> dict[str, Any]:
    """Fit once and return what came of it.

    Args:
        data: Name of the data set.
        rows: Training rows, of which a tenth is split off for validation.
        options: More of `FitOptions`.
        seed: Draws all that is drawn.
        features: Folder of what is frozen, which recipes share.
    """
    import regraft

    every = rows_of(source(data), seed)
    train = every["train"][:rows]
    counts = Counter(row["label"] for row in train)
    # A kind that hardly stands among the rows to learn from may be wholly in what is split off for validation.
    few = {row["label"] for row in every["test"] if counts[row["label"]] < FEWEST}
    splits = {
        split: [row for row in of if row["label"] not in few] for split, of in (("train", train), ("test", every["test"]))
    }
    marks: list[tuple[str, float]] = []

    def listen(event: Any) -> None:
        if type(event).__name__ == "StageEvent":
            marks.append((event.stage, time.process_time()))

    artifact = regraft.fit(
        splits,
        target="label",
        out=str(features / "fit"),
        judge={"rungs": ["majority"], "resamples": 100},
        machine={"threads": 1, "cache": {"folder": str(features)}},
        seed=seed,
        listen=listen,
        **DATA[data],
        **options,
    )
    seconds = sum(later - at for (stage, at), (_, later) in itertools.pairwise(marks) if stage == "train")
    return {
        "accuracy": artifact.report.judgement.metrics["accuracy"].value,
        "log_loss": artifact.report.judgement.metrics["log-loss"].value,
        "majority": artifact.report.ladder.steps[0].metrics["accuracy"].value,
        "seconds": round(seconds, 1),
    }


def grid(seeds: int, sizes: Sequence[int]) -> Iterator[tuple[int, str, str, int]]:
    """Yield rows, data, recipe and seed of every fit of the study."""
    for seed, (kind, datas) in itertools.product(range(seeds), KINDS.items()):
        for data, (rows, recipes) in itertools.product(datas, RECIPES[kind].items()):
            if rows in sizes and rows <= MOST[source(data)]:
                yield from ((rows, data, name, seed) for name in (*recipes, *moved(kind, rows)))


def study(seeds: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Fit whatever is not there yet, and return all results."""
    results = read(RAW)
    there = {(one["rows"], one["data"], one["recipe"], one["seed"]) for one in results}
    with tempfile.TemporaryDirectory() as folder:
        for rows, data, name, seed in grid(seeds, sizes):
            if (rows, data, name, seed) in there:
                continue
            kind = kind_of(data)
            options = {**RECIPES[kind][rows], **moved(kind, rows)}[name]
            found = fitted(data, rows, options, seed, Path(folder))
            results.append({"rows": rows, "data": data, "recipe": name, "seed": seed, **found})
            write(RAW, results[-1])
    return results


def stable(seeds: int) -> list[dict[str, Any]]:
    """Fit by the defaults alone on 500 rows, and return all results; fits of the study with the same options count."""
    done = read(RAW)
    usual = {kind: chosen(done, kind, STABLE_ROWS) for kind in KINDS}
    same = [one for one in done if one["rows"] == STABLE_ROWS and one["recipe"] == usual[kind_of(one["data"])]]
    results = [*({name: one[name] for name in one if name not in {"rows", "recipe"}} for one in same), *read(STABLE)]
    there = {(one["data"], one["seed"]) for one in results}
    with tempfile.TemporaryDirectory() as folder:
        for seed, data in itertools.product(range(seeds), DATA):
            if (data, seed) not in there:
                results.append({"data": data, "seed": seed, **fitted(data, STABLE_ROWS, {}, seed, Path(folder))})
                write(STABLE, results[-1])
    return results


def read(path: Path) -> list[dict[str, Any]]:
    """Return the results of a file, if it is there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Add a result to a file, and say it."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result), flush=True)


def kind_of(data: str) -> str:
    """Return which kind of base a data set was fitted with."""
    return next(kind for kind, datas in KINDS.items() if data in datas)


def sizes(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Return the kinds of base and numbers of rows of which all recipes have been fitted with five seeds."""
    counts = Counter((kind_of(one["data"]), one["rows"], one["recipe"]) for one in results)
    every = itertools.product(KINDS, SIZES)
    return [(kind, rows) for kind, rows in every if all(counts[kind, rows, name] >= SEEDS for name in RECIPES[kind][rows])]


def chosen(results: Sequence[Mapping[str, Any]], kind: str, rows: int) -> str:
    """Return the recipe for a kind of base and a number of rows; only seeds that every recipe has been fitted with count.

    Example:
        >>> made = [{"rows": 100, "data": "emails", "recipe": "slow", "seed": 0, "accuracy": 0.9, "seconds": 5.0}]
        >>> chosen([*made, {**made[0], "recipe": "quick", "seconds": 1.0}], "minilm", 100)
        'quick'
    """
    by_recipe: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = defaultdict(dict)
    for one in results:
        if one["rows"] == rows and kind_of(one["data"]) == kind and one["recipe"] in RECIPES[kind][rows]:
            by_recipe[one["recipe"]][one["data"], one["seed"]] = one
    shared = sorted(set.intersection(*(set(found) for found in by_recipe.values())))
    accuracy = {name: np.array([found[key]["accuracy"] for key in shared]) for name, found in by_recipe.items()}
    best = max(accuracy, key=lambda name: float(accuracy[name].mean()))

    def as_good(name: str) -> bool:
        behind = accuracy[best] - accuracy[name]
        error = behind.std(ddof=1) / np.sqrt(len(behind)) if len(behind) > 1 else 0.0
        return bool(behind.mean() <= error)

    able = [name for name in by_recipe if as_good(name)]
    return min(able, key=lambda name: sum(by_recipe[name][key]["seconds"] for key in shared))


def better(results: Sequence[Mapping[str, Any]], kind: str, rows: int) -> dict[str, list[float]]:
    """Return of each move around the usual recipe how much more accurate it is, the standard error and p of a paired t-test."""
    from scipy.stats import ttest_1samp

    by_recipe: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for one in results:
        if one["rows"] == rows and kind_of(one["data"]) == kind:
            by_recipe[one["recipe"]][one["data"], one["seed"]] = one["accuracy"]
    usual, found = by_recipe[USUAL[kind][rows]], {}
    for name in moved(kind, rows):
        gains = np.array([value - usual[key] for key, value in by_recipe[name].items() if key in usual])
        if len(gains) > 1 and gains.any():
            error = gains.std(ddof=1) / np.sqrt(len(gains))
            p = ttest_1samp(gains, 0.0, alternative="greater").pvalue
            found[name] = [round(float(value), 4) for value in (gains.mean(), error, p)]
    return found


def surely(results: Sequence[Mapping[str, Any]], kind: str, rows: int) -> list[str]:
    """Return the moves that are surely better than the usual recipe, the best first."""
    level = LEVEL / sum(len(moved(*each)) for each in itertools.product(KINDS, SIZES))
    found = better(results, kind, rows)
    return sorted((name for name, (_, _, p) in found.items() if p < level), key=lambda name: -found[name][0])


def spread(of: Sequence[Mapping[str, Any]], name: str, digits: int = 4) -> list[float]:
    """Return mean and standard deviation of a figure."""
    values = [one[name] for one in of]
    return [round(float(np.mean(values)), digits), round(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, digits)]


def line(about: Mapping[str, Any], of: Sequence[Mapping[str, Any]]) -> str:
    """Return a line of the table."""
    failed = sum(one["accuracy"] <= one["majority"] for one in of)
    figures = {name: spread(of, name) for name in ("accuracy", "log_loss")}
    worst = min(one["accuracy"] for one in of)
    return json.dumps(
        {**about, "seeds": len(of), **figures, "worst": worst, "failed": failed, "seconds": spread(of, "seconds", 1)}
    )


def told(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the table of the study."""
    for kind, rows in itertools.product(KINDS, SIZES):
        there = [one for one in results if one["rows"] == rows and kind_of(one["data"]) == kind]
        for data, name in itertools.product(KINDS[kind], (*RECIPES[kind][rows], *moved(kind, rows))):
            if of := [one for one in there if (one["data"], one["recipe"]) == (data, name)]:
                yield line({"base": kind, "rows": rows, "data": data, "recipe": name}, of)
        if there:
            found = {"chosen": chosen(results, kind, rows), "moves: gain, its error, p": better(results, kind, rows)}
            yield json.dumps({"base": kind, "rows": rows, **found, "surely better": surely(results, kind, rows)})


def main() -> None:
    """Fit whatever is not there yet, and write the table."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--stable", type=int, default=0)
    asked = parser.parse_args()
    if asked.stable:
        results = stable(asked.stable)
        command, out = f"python bench/defaults.py --stable {asked.stable}", HERE / "stable.out"
        lines = [line({"rows": STABLE_ROWS, "data": data}, [one for one in results if one["data"] == data]) for data in DATA]
    else:
        lines = list(told(study(asked.seeds, asked.rows)))
        command, out = f"python bench/defaults.py --seeds {asked.seeds}", HERE / "defaults.out"
    head = [
        command,
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, one thread, torch {torch.__version__}",
        "accuracy, log_loss, processor seconds of training: [mean, standard deviation over seeds]",
        "failed: no better than the commonest label",
    ]
    out.write_text("\n".join([*head, *lines]) + "\n")
    print("\n".join([*head, *lines]))


if __name__ == "__main__":
    main()

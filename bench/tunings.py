"""Ways to tune MiniLM side by side: accuracy over seeds, what it costs, and what becomes of rows of another kind.

    python bench/tunings.py [--rows 300] [--seeds 5] [--only full gradual]   goes on where it stopped; makes bench/tunings.out

E-mails: fitted on easy ham and spam, judged on easy ham and spam that were held out, and on hard ham (newsletters and the
like, 83 of them) that no fit has seen: Kumar et al. 2022 (arXiv:2202.10054) hold that a head trained first keeps more of what
the base knows there. Clothing reviews: the rating, 1 to 5, from title and text. The first 32 tokens of each are read, as in the
demo. A seed draws rows, head, order and dropout; every way of tuning sees the same rows under the same seed. Rates are the
defaults of each way; epochs are those in `WAYS`, each with the weights of its best validation. Seconds are those of the
processor, one thread, of what is frozen and of training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RAW = HERE / "tunings.jsonl"
WAYS: dict[str, tuple[dict[str, Any], int]] = {
    "head": ({"name": "head"}, 100),
    "top-k": ({"name": "top-k", "layers": 2}, 6),
    "bitfit": ({"name": "bitfit"}, 6),
    "lora": ({"name": "lora"}, 6),
    "dora": ({"name": "dora"}, 6),
    "full": ({"name": "full"}, 6),
    "gradual": ({"name": "gradual", "head_epochs": 100}, 6),
}
FROZEN_FIRST = ("head", "gradual")
COUNTED = ("compute what is frozen", "train")
VALID, TEST = 200, 800


def emails(rows: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return splits of easy ham and spam, and hard ham as a test of its own."""
    import pyarrow.parquet as pq

    import regraft.data.samples as samples

    table = pq.read_table(Path(samples.__file__).parent / "spam.parquet").to_pylist()
    easy = [{"text": row["text"], "label": row["label"]} for row in table if row["kind"] != "hard-ham"]
    hard = [{"text": row["text"], "label": row["label"]} for row in table if row["kind"] == "hard-ham"]
    return {**drawn(easy, rows, seed), "elsewhere": hard}


def clothing(rows: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return splits of reviews, title and text, with their rating."""
    import pyarrow.parquet as pq

    from regraft.data import SAMPLES

    folder = SAMPLES.get("clothing-reviews").folder()
    table = pq.read_table(folder / "train.parquet", columns=["title", "text", "rating"]).to_pylist()
    told = [
        {"text": f"{row['title']}. {row['text']}", "label": str(row["rating"])} for row in table if row["title"] and row["text"]
    ]
    return drawn(told, rows, seed)


def drawn(rows: list[dict[str, Any]], count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return disjoint draws for training, validation and test."""
    order = np.random.default_rng(seed).permutation(len(rows))[: count + VALID + TEST]
    ends = {"train": (0, count), "valid": (count, count + VALID), "test": (count + VALID, count + VALID + TEST)}
    return {split: [rows[place] for place in order[first:last]] for split, (first, last) in ends.items()}


DATA = {"emails": emails, "clothing": clothing}


def fitted(data: str, way: str, rows: int, seed: int, features: Path) -> dict[str, Any]:
    """Fit once and return what came of it.

    Args:
        data: Name of the data set.
        way: One of `WAYS`.
        rows: Training rows.
        seed: Draws rows, head, order and dropout.
        features: Folder of the features of the base, which the baselines are given; they are the same for every way.
    """
    import regraft

    splits = DATA[data](rows, seed)
    elsewhere = splits.pop("elsewhere", None)
    tuning, epochs = WAYS[way]
    # What counts is computed anew: ways that begin with a frozen base find nothing there.
    kept: dict[str, Any] = {"disk_mb": 0} if tuning["name"] in FROZEN_FIRST else {"folder": str(features)}
    marks: list[tuple[str, float]] = []
    trainable = total = 0

    def listen(event: Any) -> None:
        nonlocal trainable, total
        if type(event).__name__ == "StageEvent":
            marks.append((event.stage, time.process_time()))
        if type(event).__name__ == "BeginEvent":
            trainable, total = event.trainable, event.parameters

    with tempfile.TemporaryDirectory() as folder:
        artifact = regraft.fit(
            splits,
            target="label",
            out=str(Path(folder) / "fit"),
            tuning=tuning,
            modality={"max_length": 32},
            train={"epochs": epochs},
            judge={"rungs": ["majority"], "resamples": 100},
            machine={"threads": 1, "cache": kept},
            seed=seed,
            listen=listen,
        )
        marks.append(("end", time.process_time()))
        found = {
            "data": data,
            "way": way,
            "rows": rows,
            "seed": seed,
            "accuracy": artifact.report.judgement.metrics["accuracy"].value,
            "log_loss": artifact.report.judgement.metrics["log-loss"].value,
            "majority": artifact.report.ladder.steps[0].metrics["accuracy"].value,
            "seconds": sum(later - at for (stage, at), (_, later) in itertools.pairwise(marks) if stage in COUNTED),
            "trainable_share": trainable / total,
        }
        if elsewhere:
            answers = regraft.load(artifact, threads=1).predict([row["text"] for row in elsewhere])
            right = [answer.value == row["label"] for answer, row in zip(answers, elsewhere, strict=True)]
            found["elsewhere"] = float(np.mean(right))
    return found


def told(results: list[dict[str, Any]], rows: int) -> Iterator[str]:
    """Yield the table: one line a data set and way, means with the standard deviation over seeds."""
    for data in DATA:
        for way in WAYS:
            of = [one for one in results if (one["data"], one["way"], one["rows"]) == (data, way, rows)]
            if not of:
                continue
            line: dict[str, Any] = {"data": data, "way": way, "rows": rows, "seeds": len(of)}
            for name in ("accuracy", "elsewhere", "log_loss", "seconds"):
                values = [one[name] for one in of if name in one]
                if values:
                    digits = 1 if name == "seconds" else 4
                    line[name] = [
                        round(float(np.mean(values)), digits),
                        round(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, digits),
                    ]
            line["failed"] = sum(one["accuracy"] <= one["majority"] for one in of)
            line["trainable_share"] = round(of[0]["trainable_share"], 5)
            yield json.dumps(line)


def main() -> None:
    """Fit whatever is not there yet, and write the table."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="*", default=list(DATA))
    parser.add_argument("--only", nargs="*", default=list(WAYS))
    asked = parser.parse_args()
    results = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
    there = {(one["data"], one["way"], one["rows"], one["seed"]) for one in results}
    for seed in range(asked.seeds):
        for data in asked.data:
            with tempfile.TemporaryDirectory() as features:
                for way in asked.only:
                    if (data, way, asked.rows, seed) in there:
                        continue
                    results.append(fitted(data, way, asked.rows, seed, Path(features)))
                    with RAW.open("a") as file:
                        file.write(json.dumps(results[-1]) + "\n")
                    print(json.dumps(results[-1]), flush=True)
    lines = [
        f"python bench/tunings.py --rows {asked.rows} --seeds {asked.seeds}",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, one thread, torch {torch.__version__}",
        "accuracy, elsewhere (hard ham), log_loss, processor seconds: [mean, standard deviation over seeds]",
        "failed: no better than the commonest label",
        *told(results, asked.rows),
    ]
    (HERE / "tunings.out").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

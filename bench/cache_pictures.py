"""What is kept below the part that learns, on pictures: `efficientnet-lite0`, head only and its top two blocks, kept or not.

    python bench/cache_pictures.py [--rounds 5] [--rows 1000]        writes bench/cache_pictures.out

Both sides are the same fit but for `machine.cache.enabled`; they take turns. Counted is the time of "compute what is frozen"
and "train" together, by the processor's clock and by the wall's. The gate before the figures: both fits answer alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIDES = {"head, 10 epochs": ({"name": "head"}, 10), "top-k of 2, 4 epochs": ({"name": "top-k", "layers": 2}, 4)}
COUNTED = ("compute what is frozen", "train")
NEAR = 1e-4


def timed(
    rows: list[dict[str, Any]], out: Path, tuning: dict[str, Any], epochs: int, cached: bool
) -> tuple[dict[str, float], Any]:
    """Fit; return the seconds of the counted stages by both clocks, and the probabilities of some rows."""
    import regraft

    marks: list[tuple[str, float, float]] = []

    def listen(event: Any) -> None:
        if type(event).__name__ == "StageEvent":
            marks.append((event.stage, time.process_time(), time.perf_counter()))

    artifact = regraft.fit(
        rows,
        target="label",
        out=str(out),
        base="efficientnet-lite0",
        modality={"size": 96},
        tuning=tuning,
        train={"epochs": epochs, "batch_size": 32, "validation": {"restore_best": False}, "dropout": 0.0},
        judge={"rungs": ["majority"], "resamples": 100},
        machine={"threads": 1, "precision": "fp32", "cache": {"enabled": cached, "disk_mb": 0}},
        listen=listen,
    )
    marks.append(("end", time.process_time(), time.perf_counter()))
    seconds = {"processor": 0.0, "wall": 0.0}
    for (stage, processor, wall), (_, later, later_wall) in itertools.pairwise(marks):
        if stage in COUNTED:
            seconds["processor"] += later - processor
            seconds["wall"] += later_wall - wall
    return seconds, regraft.load(artifact, threads=1).probabilities([row["image"] for row in rows[:200]])


def rows_of_pictures(count: int) -> list[dict[str, Any]]:
    """Return the first articles of clothing, with their labels."""
    from recipes import rows_of

    rows = rows_of("fashion-probe")
    pairs = zip(rows.values["train"][:count], rows.targets["train"][:count], strict=True)
    return [{"image": raw, "label": label} for raw, label in pairs]


def main() -> None:
    """Measure and write the figures."""
    import numpy as np
    import torch

    from figures import interval

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000)
    asked = parser.parse_args()
    rows = rows_of_pictures(asked.rows)
    lines = [f"python bench/cache_pictures.py --rounds {asked.rounds} --rows {asked.rows}"]
    where = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, one thread, torch {torch.__version__}"
    lines.append(f"{where}, load before {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (tuning, epochs) in SIDES.items():
            ratios: dict[str, list[float]] = {"processor": [], "wall": []}
            taken: dict[bool, list[float]] = {True: [], False: []}
            for round_ in range(asked.rounds + 1):
                found = {cached: timed(rows, Path(folder) / "fit", tuning, epochs, cached) for cached in (True, False)}
                apart = float(np.abs(found[True][1] - found[False][1]).max())
                if apart > NEAR:
                    raise SystemExit(f"{name}: answers differ by {apart:.2g}, so that there is nothing to compare")
                if round_:
                    for clock, each in ratios.items():
                        each.append(found[False][0][clock] / found[True][0][clock])
                    for cached, each in taken.items():
                        each.append(found[cached][0]["processor"])
            told: dict[str, Any] = {"tuning": name, "rows": asked.rows, "answers differ by at most": float(f"{apart:.2g}")}
            for clock, each in ratios.items():
                middle = interval(each)
                told[f"off / on by the {clock}'s clock"] = [
                    round(number, 2) for number in (middle.median, middle.low, middle.high)
                ]
            told["processor seconds on, off"] = [round(float(np.median(taken[cached])), 1) for cached in (True, False)]
            lines.append(json.dumps(told))
            print(lines[-1], flush=True)
    (HERE / "cache_pictures.out").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

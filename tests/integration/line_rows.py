"""Rows and options for the tests of the whole line."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    "base": {"name": "mlp", "width": 16},
    "train": {"epochs": 6, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.01},
    "judge": {"resamples": 200},
    "machine": {"threads": 1, "cache": {"disk_mb": 0}},  # nothing is left in the user's cache, nothing is found there
}
_WORDS = {"spam": ["free", "prize", "win", "cash"], "ham": ["meeting", "build", "kernel", "patch"]}
_NOISE = ["the", "of", "and", "you", "with", "from", "about", "please"]


def mails(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows with a learnable label, of very different lengths."""
    rng = random.Random(seed)
    made = []
    for number in range(rows):
        label = rng.choice(["ham", "ham", "spam"])
        words = rng.choices(_WORDS[label], k=4) + rng.choices(_NOISE, k=rng.randint(1, 30))
        rng.shuffle(words)
        made.append({"id": f"mail-{number}", "body": " ".join(words), "label": label})
    return made


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path

"""The whole line of two towers: things that were never seen are found by picture and by name, in both languages."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.artifact.store import read_artifact
from regraft.cli.app import _run
from regraft.errors import DataError, OptionsError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240), "black": (9, 9, 9)}
OTHER = {"red": "rosso", "green": "verde", "blue": "blu", "white": "bianco", "black": "nero"}
SMALL = ["judge.resamples=100", "judge.probe_rows=200", "machine.threads=1", "machine.cache.disk_mb=0"]


def flags_of_things(folder: Path) -> Path:
    """Write pictures of three stripes, each with a name in two languages, one row a name."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    rows = []
    for number, colours in enumerate(itertools.product(COLOURS, repeat=3)):
        stripes = np.repeat(np.array([COLOURS[colour] for colour in colours]), [3, 3, 2], axis=0)
        pixels = np.clip(stripes[None] + rng.integers(-9, 10, (8, 8, 3)), 0, 255).astype(np.uint8)
        path = f"pictures/{number}.png"
        Image.fromarray(pixels).save(folder / path)
        for words in (("left {}", "middle {}", "right {}"), ("sinistra {}", "mezzo {}", "destra {}")):
            told = colours if words[0].startswith("left") else [OTHER[colour] for colour in colours]
            name = " ".join(word.format(colour).replace(" ", "") for word, colour in zip(words, told, strict=True))
            rows.append({"picture": path, "name": name, "thing": f"t{number}"})
    with (folder / "things.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "things.csv"


def command(data: Path, out: Path, *more: str, epochs: int = 25) -> list[str]:
    sizes = ["base.parts.name.width=32", "base.parts.picture.widths=[12]", "modality.size=8", "task.width=16"]
    rates = ["train.learning_rate=0.01", "train.head_learning_rate=0.01", "train.batch_size=50", "train.patience=100"]
    said = f"fit {data} --target thing --task retrieval --image picture=conv --text name=mlp --base fusion --epochs {epochs} --out {out}"
    return [*said.split(), *(part for one in (*sizes, *rates, *SMALL, *more) for part in ("--set", one))]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One artifact of two towers, made on the command line."""
    folder = tmp_path_factory.mktemp("towers")
    data = flags_of_things(folder)
    assert _run(command(data, folder / "m")) == 0
    return read_artifact(folder / "m"), data


def test_things_that_were_never_seen_are_found_both_ways(fitted):
    report = fitted[0].report.to_json()
    metrics = {name: value["value"] for name, value in report["metrics"].items()}
    print(json.dumps(metrics), {step["name"]: step["metrics"]["recall_at_10"]["value"] for step in report["ladder"]}, report["notes"])
    assert report["n"] == 50
    assert metrics["recall_at_10"] > 0.9

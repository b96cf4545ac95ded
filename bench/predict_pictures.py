"""B4 on pictures: Fashion-MNIST by a small residual network of the hub's, against its pipeline and two graph runtimes by hand.

Inside the clock on all sides: the bytes of PNG files in, probabilities out, decoding counted. Outside: opening the model. The
network is small, as suits such pictures, so that everything around it counts; fp32. Ours is one artifact and its ONNX export;
the bars are held with the runtime that it chooses by itself. The peers get the same network as the hub's own classifier, their
batch sizes and the better of ONNX Runtime and OpenVINO are chosen by measuring. The gate: every probability of every round
within 1e-4 of ours.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

import measure
from environments import environment
from figures import Bar, Gate, same_answers
from harness import Contestant, Form, Rounds, Turn, compete, form_from_arguments
from regraft.data import SAMPLES
from standings import Standing, standing, table

TOLERANCE = 1e-4
MIX, SIDE, LEARNT = "fashion-mnist", 28, 4000
SHORT_ROWS, FULL_ROWS, TUNED, BATCH = 500, 2000, 300, 32
BATCHES = [1, 8, 32, 128]
OURS, TORCH, PEERS = "ours", "ours, torch", "peers"
BARS = {
    "pipeline": Bar(name="B4a", what="batch prediction of pictures; transformers pipeline fp32", goal=3.0, floor=2.0),
    "graph": Bar(name="B4b", what="batch prediction of pictures; the best of ONNX Runtime and OpenVINO", goal=1.15, floor=1.0),
}


@dataclass(frozen=True)
class Hall:
    """Where the contest takes place.

    Args:
        contestants: Process of each side.
        folder: Where pictures and answers are written.
        ours: Each way in which ours is asked -> the library that computes it.
    """

    contestants: Mapping[str, Contestant]
    folder: Path
    ours: Mapping[str, str]

    def answers(self, name: str) -> str:
        """Return the file that a side writes its answers to."""
        return str(self.folder / f"{name}.npy")


def pictures(split: str, first: int, rows: int) -> list[dict[str, Any]]:
    """Return rows of the sample, each picture as the bytes of a PNG file."""
    (file,) = SAMPLES.get(MIX).folder().glob(f"{split}*.parquet")
    found: list[dict[str, Any]] = parquet.read_table(file).slice(first, rows).to_pylist()
    return found


def as_lines(rows: list[dict[str, Any]], to: Path) -> str:
    """Write rows as JSON lines, pictures in base64."""
    lines = [json.dumps({"image": base64.b64encode(row["image"]).decode(), "label": row["label"]}) + "\n" for row in rows]
    to.write_text("".join(lines), encoding="ascii")
    return str(to)


def prepare(contestants: Mapping[str, Contestant], folder: Path) -> Hall:
    """Fit the artifact, export it, and open it on all sides."""
    ours, peers = contestants[OURS], contestants[PEERS]
    train, artifact = folder / "train.parquet", folder / "artifact"
    parquet.write_table(pa.Table.from_pylist(pictures("train", 0, LEARNT)), train)
    ours.ask("base", to=str(folder / "base"), side=SIDE)
    labels = ours.ask("make", base=str(folder / "base"), train=str(train), out=str(artifact))["labels"]
    ours.ask("export", artifact=str(artifact), to=str(folder / "onnx"), format="onnx", rows=str(train))
    known = {
        way: ours.ask("prepare", artifact=str(folder / form), way=way)["library"]
        for way, form in ((OURS, "onnx"), (TORCH, "artifact"))
    }
    peers.ask("prepare", artifact=str(artifact), labels=labels, model=str(folder / "model.onnx"), side=SIDE)
    return Hall(contestants, folder, known)


def contest(hall: Hall, rows: int, form: Form) -> list[Standing]:
    """Let all take turns and return where both bars stand."""
    timed = as_lines(pictures("test", 0, rows), hall.folder / "timed.jsonl")
    tuned = as_lines(pictures("test", rows, TUNED), hall.folder / "tuned.jsonl")
    chosen = hall.contestants[PEERS].ask("tune", file=tuned, batch_sizes=BATCHES)
    ways: dict[str, dict[str, Any]] = {way: {"way": way, "batch_size": BATCH} for way in hall.ours}
    ways |= {name: chosen[name]["best"] for name in BARS}

    def turn(name: str) -> Turn:
        contestant = hall.contestants[OURS if name in hall.ours else PEERS]
        return lambda _: contestant.round(file=timed, answers_to=hall.answers(name), **ways[name])

    gates: dict[str, list[Gate]] = {name: [] for name in BARS}

    def check(_: Rounds) -> None:
        for name, seen in gates.items():
            seen.append(same_answers(np.load(hall.answers(OURS)), np.load(hall.answers(name)), TOLERANCE))

    rounds = compete({name: turn(name) for name in ways}, form, check)
    found = []
    for name, bar in BARS.items():
        gate = next((one for one in gates[name] if one.state == "void"), gates[name][-1])
        one = standing(bar, MIX, (rounds[OURS], rounds[name]), gate, rows=rows, real_tokens=rows, padding_ratio=1.0)
        torch_s = float(np.median([turn.wall_s for turn in rounds[TORCH]]))
        one.about.update(peer=chosen[name]["name"], peer_tried_s=chosen["tried"], ours=hall.ours[OURS])
        one.about.update(ours_rows_per_s=round(rows / one.ours_s), peer_rows_per_s=round(rows / one.peer_s))
        one.about.update(ours_torch_rows_per_s=round(rows / torch_s))
        found.append(one)
    return found


def main() -> None:
    """Measure."""
    form = form_from_arguments((MIX,), __doc__)
    scripts = {OURS: ("ours_pictures.py", None), PEERS: ("pictures.py", environment("pictures"))}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(script, python=python, core=form.core))
            for name, (script, python) in scripts.items()
        }
        hall = prepare(contestants, Path(folder))
        found = contest(hall, form.rows(MIX, SHORT_ROWS, FULL_ROWS), form)
        versions = {name: contestant.ask("facts")["versions"] for name, contestant in contestants.items()}
    notes = [
        f"{one.bar.name}: ours ({one.about['ours']}) {one.about['ours_rows_per_s']} pictures/s, our torch "
        f"{one.about['ours_torch_rows_per_s']}; {one.about['peer']} {one.about['peer_rows_per_s']}"
        for one in found
    ]
    figures = {"standings": [one.to_json() for one in found], "versions": versions}
    measure.report("predict_pictures", {"form": form.to_json()} | figures, table(form, found, *notes), ending=form.ending)


if __name__ == "__main__":
    main()

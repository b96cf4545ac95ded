"""B4c: batch prediction in 8-bit integers against ONNX Runtime's own dynamic quantisation, texts sorted by length.

For every mix an artifact is fitted and exported in fp32 and in 8 bits (`--set format.precision=int8`). The peer quantises the
float32 graph of the same network, made by the hub's library, in the ways that its documentation offers; the fastest that keeps
99 of 100 answers is taken, or the fastest where none does. Inside the clock on both sides: texts in, probabilities out,
tokenising counted. The gate is ours: at least 99 % of the answers are those of float32, and accuracy falls by at most 0.5
points; what the peer loses stands beside it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import measure
from environments import environment
from figures import Bar, Gate
from fits import BASE, open_base
from harness import Contestant, Form, Turn, compete, form_from_arguments, say
from rows import MAX_LENGTH, MIXES, Texts, write_texts
from standings import Standing, Work, about_texts, needed_gflop, standing, table

MADE_FROM, JUDGED, SHORT_ROWS, FULL_ROWS, TUNED = 400, 600, 96, 300, 96
LEAST_AGREEMENT, MOST_LOST = 0.99, 0.005
BATCHES = [1, 8, 16, 32]
BATCH = 32
OURS, FLOAT, PEER, PIPELINE = "ours int8", "ours fp32", "ONNX Runtime dynamic int8", "pipeline"
BAR = Bar(name="B4c", what="batch prediction in 8 bits; ONNX Runtime dynamic int8, sorted", goal=1.15, floor=1.0)


@dataclass(frozen=True)
class Hall:
    """Where the contest takes place.

    Args:
        contestants: Process of each side.
        base: Folder of the base.
        folder: Where answers and rows are written.
        peak_gflops: Matrix products in fp32.
    """

    contestants: Mapping[str, Contestant]
    base: Path
    folder: Path
    peak_gflops: float


def prepare(hall: Hall, texts: Texts) -> None:
    """Fit, export and quantise on all sides."""
    ours, pipeline, peer = (hall.contestants[name] for name in (OURS, PIPELINE, PEER))
    here = hall.folder / texts.mix
    here.mkdir()
    fit = {"tuning": "full", "epochs": 3}  # a head alone is of no opinion on the made-up texts
    asked = fit | {"base": BASE, "train": str(texts.train), "few": str(texts.few), "max_length": MAX_LENGTH}
    labels = ours.ask("make", **asked, out=str(here / "artifact"))["labels"]
    for way, precision in ((FLOAT, "fp32"), (OURS, "int8")):
        form = {"name": "onnx", "precision": precision}
        folder = here / way.replace(" ", "-")
        ours.ask("export", artifact=str(here / "artifact"), to=str(folder), format=form, rows=str(texts.train))
        ours.ask("prepare", artifact=str(folder), way=way)
    pipeline.ask("prepare", artifact=str(here / "artifact"), labels=labels, max_length=MAX_LENGTH)
    pipeline.ask("export", to=str(here / "model.onnx"))
    tokenizer = here / "artifact" / "backbone" / "tokenizer.json"
    peer.ask("prepare", model=str(here / "model.onnx"), tokenizer=str(tokenizer), max_length=MAX_LENGTH)


def kept(hall: Hall, texts: Texts, peer_way: Mapping[str, Any]) -> tuple[Gate, dict[str, Any]]:
    """Judge on held-out rows what each side keeps of the answers in float32."""
    right = [json.loads(line)["label"] for line in texts.judged.read_text(encoding="utf-8").splitlines()]
    names = sorted(set(right))
    found = {}
    for name, contestant, given in (
        (FLOAT, OURS, {"way": FLOAT}),
        (OURS, OURS, {"way": OURS}),
        (PEER, PEER, dict(peer_way)),
    ):
        to = hall.folder / "kept.npy"
        hall.contestants[contestant].round(file=str(texts.judged), answers_to=str(to), **given)
        found[name] = np.load(to).argmax(1)
    truth = np.array([names.index(label) for label in right])
    accuracy = {name: float(np.mean(answers == truth)) for name, answers in found.items()}
    agrees = {name: float(np.mean(found[name] == found[FLOAT])) for name in (OURS, PEER)}
    lost = accuracy[FLOAT] - accuracy[OURS]
    fine = agrees[OURS] >= LEAST_AGREEMENT and lost <= MOST_LOST
    text = (
        f"{100 * agrees[OURS]:.1f} % of {len(truth)} answers as in float32, accuracy {100 * accuracy[FLOAT]:.1f} -> "
        f"{100 * accuracy[OURS]:.1f}; the peer: {100 * agrees[PEER]:.1f} %, {100 * accuracy[PEER]:.1f}"
    )
    return Gate(state="passed" if fine else "void", text=text), {"accuracy": accuracy, "agrees": agrees}


def contest(hall: Hall, mix: str, rows: int, form: Form) -> Standing:
    """Let both take turns on one mix and return where the bar stands."""
    where = (hall.base / "tokenizer.json", hall.folder)
    texts = write_texts(mix, MADE_FROM, JUDGED, *where)
    prepare(hall, texts)
    timed = write_texts(mix, rows, 2, *where, 2)
    tuned = write_texts(mix, TUNED, 2, *where, 1)
    chosen = hall.contestants[PEER].ask("tune", file=str(tuned.train), batch_sizes=BATCHES, least_agreement=LEAST_AGREEMENT)
    gate, about = kept(hall, texts, chosen["best"])
    say(f"{mix}: {rows} rows; {chosen['name']}; {gate.text}")

    def turn(contestant: str, given: Mapping[str, Any]) -> Turn:
        to = str(hall.folder / "answers.npy")
        return lambda _: hall.contestants[contestant].round(file=str(timed.train), answers_to=to, **given)

    ways = {OURS: turn(OURS, {"way": OURS}), PEER: turn(PEER, chosen["best"]), FLOAT: turn(OURS, {"way": FLOAT})}
    rounds = compete(ways, form)
    gflop = needed_gflop(hall.base / "config.json", timed.lengths, epochs=0, learnt_layers=None)
    found = standing(BAR, mix, (rounds[OURS], rounds[PEER]), gate, **about_texts(timed, BATCH))
    fp32_s = float(np.median([one.wall_s for one in rounds[FLOAT]]))
    share = Work(gflop=gflop, peak_gflops=hall.peak_gflops).share_of_peak(found.ours_s)
    found.about.update(about, peer=chosen["name"], peer_tried_s=chosen["tried"], peer_agrees=chosen["agrees"])
    found.about.update(fp32_s=round(fp32_s, 4), faster_than_fp32=round(fp32_s / found.ours_s, 3), mfu=round(share, 3))
    return found


def main() -> None:
    """Measure on every mix."""
    form = form_from_arguments(MIXES, __doc__)
    base = open_base()
    scripts = {
        OURS: ("ours_predict.py", None),
        PIPELINE: ("pipeline.py", environment("transformers")),
        PEER: ("graph_int8.py", environment("sentence-transformers-graph")),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(script, python=python, core=form.core))
            for name, (script, python) in scripts.items()
        }
        with Contestant("ours_fit.py", core=form.core) as meter:
            peak = meter.ask("peak")["gflops"]["float32"]
        hall = Hall(contestants, base, Path(folder), peak)
        found = [contest(hall, mix, form.rows(mix, SHORT_ROWS, FULL_ROWS), form) for mix in form.mixes]
        versions = {name: contestant.ask("facts")["versions"] for name, contestant in contestants.items()}
    notes = [
        f"{one.mix}: {one.about['faster_than_fp32']:.2f} times as fast as our fp32; peer: {one.about['peer']}" for one in found
    ]
    notes.append(f"matrix-product peak in fp32, GFLOP/s: {peak}; MFU is of that, so it may pass 1")
    figures = {"standings": [one.to_json() for one in found], "versions": versions}
    measure.report("predict_int8", {"form": form.to_json()} | figures, table(form, found, *notes), ending=form.ending)


if __name__ == "__main__":
    main()

"""B4: batch prediction against the hub's pipeline and against ONNX Runtime and OpenVINO, all in fp32, one artifact.

Inside the clock on all sides: texts in, probabilities out, tokenising counted. Outside: opening the model. The peers' batch
sizes, and for the pipeline whether texts are sorted first, are chosen by measuring; so is which of the two graph runtimes is
the faster one. The gate: every probability of every round within 1e-4 of ours.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import measure
from environments import environment
from figures import Bar, Gate, same_answers
from fits import BASE, open_base
from harness import Contestant, ContestantError, Form, Rounds, Turn, compete, form_from_arguments, say
from rows import MAX_LENGTH, MIXES, Texts, write_texts
from standings import Standing, Work, about_texts, needed_gflop, standing, table

TOLERANCE = 1e-4
BATCH = 32
MADE_FROM, SHORT_ROWS, FULL_ROWS, BAR_ROWS, SHORT_TUNED, FULL_TUNED = 200, 96, 1000, 10_000, 48, 128
PIPELINE, GRAPH = "pipeline", "graph runtime"
BARS = {
    PIPELINE: Bar(name="B4a", what="batch prediction; transformers pipeline fp32", goal=3.0, floor=2.0),
    GRAPH: Bar(name="B4b", what="batch prediction; the best of ONNX Runtime and OpenVINO fp32", goal=1.15, floor=1.0),
}
PIPELINE_BATCHES, GRAPH_BATCHES = [1, 8, 32], [1, 8, 16, 32]


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

    def answers(self, name: str) -> Path:
        """Return the file that a side writes its answers to."""
        return self.folder / f"{name}.npy"

    def texts(self, mix: str, rows: int, seed: int) -> Texts:
        """Return rows of a mix."""
        return write_texts(mix, rows, 2, self.base / "tokenizer.json", self.folder, seed)


def prepare(hall: Hall) -> None:
    """Fit the artifact, export it, and open it on all sides."""
    ours, pipeline, graph = (hall.contestants[name] for name in ("ours", PIPELINE, GRAPH))
    texts, artifact, model = hall.texts("lognormal", MADE_FROM, 7), hall.folder / "artifact", hall.folder / "model.onnx"
    asked = {"base": BASE, "train": str(texts.train), "few": str(texts.few), "out": str(artifact), "max_length": MAX_LENGTH}
    labels = ours.ask("make", **asked)["labels"]
    ours.ask("prepare", artifact=str(artifact))
    pipeline.ask("prepare", artifact=str(artifact), labels=labels, max_length=MAX_LENGTH)
    pipeline.ask("export", to=str(model))
    graph.ask("prepare", model=str(model), tokenizer=str(artifact / "backbone" / "tokenizer.json"), max_length=MAX_LENGTH)


def gate(hall: Hall, peer: str) -> Gate:
    """Compare the answers of the round just done."""
    return same_answers(np.load(hall.answers("ours")), np.load(hall.answers(peer)), TOLERANCE)


def contest(hall: Hall, mix: str, rows: int, form: Form) -> list[Standing]:
    """Let all take turns on one mix and return where both bars stand."""
    few, texts = hall.texts(mix, FULL_TUNED if form.full else SHORT_TUNED, 1), hall.texts(mix, rows, 2)
    sizes = {PIPELINE: PIPELINE_BATCHES, GRAPH: GRAPH_BATCHES}
    tried = {name: hall.contestants[name].ask("tune", file=str(few.train), batch_sizes=sizes[name]) for name in sizes}
    ways: dict[str, dict[str, Any]] = {"ours": {"batch_size": BATCH}, **{name: tried[name]["best"] for name in sizes}}
    say(f"{mix}: {len(texts.lengths)} rows; pipeline {tried[PIPELINE]['name']}; {tried[GRAPH]['name']}")

    def turn(name: str) -> Turn:
        given = {"file": str(texts.train), "answers_to": str(hall.answers(name)), **ways[name]}
        return lambda _: hall.contestants[name].round(**given)

    gates: dict[str, list[Gate]] = {name: [] for name in BARS}

    def check(_: Rounds) -> None:
        for name in BARS:
            gates[name].append(gate(hall, name))
        if all(gates[name][-1].state == "void" for name in BARS):
            raise ContestantError(f"nobody agrees with ours: {gates[PIPELINE][-1].text}")

    rounds = compete({name: turn(name) for name in ("ours", *BARS)}, form, check)
    gflop = needed_gflop(hall.base / "config.json", texts.lengths, epochs=0, learnt_layers=None)
    found = []
    for name, bar in BARS.items():
        worst = next((one for one in gates[name] if one.state == "void"), gates[name][-1])
        one = standing(bar, mix, (rounds["ours"], rounds[name]), worst, **about_texts(texts, BATCH))
        share = Work(gflop=gflop, peak_gflops=hall.peak_gflops).share_of_peak(one.ours_s)
        speeds = {
            "ours_rows_per_s": round(len(texts.lengths) / one.ours_s),
            "peer_rows_per_s": round(len(texts.lengths) / one.peer_s),
        }
        one.about.update(mfu=round(share, 3), peer=tried[name]["name"], peer_tried_s=tried[name]["tried"], **speeds)
        found.append(one)
    return found


def main() -> None:
    """Measure; the full form ends with one mix at the bar's own size."""
    form = form_from_arguments(MIXES, __doc__)
    base = open_base()
    scripts = {
        "ours": ("ours_predict.py", None),
        PIPELINE: ("pipeline.py", environment("transformers")),
        GRAPH: ("graph.py", environment("onnxruntime")),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(script, python=python, core=form.core))
            for name, (script, python) in scripts.items()
        }
        with Contestant("ours_fit.py", core=form.core) as meter:
            peak = meter.ask("peak")["gflops"]["float32"]
        hall = Hall(contestants, base, Path(folder), peak)
        prepare(hall)
        found = [one for mix in form.mixes for one in contest(hall, mix, form.rows(mix, SHORT_ROWS, FULL_ROWS), form)]
        once = (
            contest(hall, "lognormal", round(form.scale * BAR_ROWS), replace(form, rounds=1, warm_ups=0)) if form.full else []
        )
        versions = {name: contestant.ask("facts")["versions"] for name, contestant in contestants.items()}
    notes = [f"at the bar's own size:\n{standing_.line()}" for standing_ in once]
    notes += [
        f"{one.mix}: {one.about['peer']} {one.about['peer_rows_per_s']} rows/s, ours {one.about['ours_rows_per_s']}"
        for one in found
    ]
    notes.append(f"matrix-product peak, GFLOP/s: {peak}; MFU is ours, tokenising included")
    figures = {"standings": [one.to_json() for one in found], "bar_size": [one.to_json() for one in once], "versions": versions}
    measure.report("predict", {"form": form.to_json()} | figures, table(form, found, *notes), full=form.full)


if __name__ == "__main__":
    main()

"""B4: batch prediction against the hub's pipeline and against ONNX Runtime and OpenVINO, all in fp32, one artifact.

Inside the clock on all sides: texts in, probabilities out, tokenising counted. Outside: opening the model. The peers' batch
sizes are chosen by measuring, and so is which of the two graph runtimes is the faster one; these get the texts sorted by
length. The pipeline gets them as they come, as its documentation has it; beside the bar stands what it does with texts that its
user has sorted. The gate: every probability of every round within 1e-4 of ours.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import measure
from environments import environment
from figures import Bar, Gate, interval, same_answers, undisturbed
from fits import BASE, open_base
from harness import Contestant, ContestantError, Form, Rounds, Turn, compete, form_from_arguments, say
from rows import MAX_LENGTH, MIXES, Texts, write_texts
from standings import Standing, Work, about_texts, needed_gflop, standing, table, times_faster

TOLERANCE = 1e-4
BATCH = 32
MADE_FROM, SHORT_ROWS, FULL_ROWS, BAR_ROWS, SHORT_TUNED, FULL_TUNED = 200, 96, 1000, 10_000, 48, 128
PIPELINE, SORTED, GRAPH = "pipeline", "pipeline, sorted", "graph runtime"
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


def ways_of(hall: Hall, texts: Texts) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, Any]]:
    """Find out by measuring how each peer is fastest: arguments of a round, a name for it, and what was tried."""
    file = str(texts.train)
    pipeline = hall.contestants[PIPELINE].ask("tune", file=file, batch_sizes=PIPELINE_BATCHES)
    graph = hall.contestants[GRAPH].ask("tune", file=file, batch_sizes=GRAPH_BATCHES)
    chosen = {PIPELINE: pipeline["as they come"], SORTED: pipeline["sorted"], GRAPH: graph}
    ways = {"ours": {"batch_size": BATCH}, **{name: found["best"] for name, found in chosen.items()}}
    return ways, {name: found["name"] for name, found in chosen.items()}, {PIPELINE: pipeline["tried"], GRAPH: graph["tried"]}


def contest(hall: Hall, mix: str, rows: int, form: Form) -> list[Standing]:
    """Let all take turns on one mix and return where both bars stand."""
    texts = hall.texts(mix, rows, 2)
    ways, names, tried = ways_of(hall, hall.texts(mix, FULL_TUNED if form.full else SHORT_TUNED, 1))
    say(f"{mix}: {len(texts.lengths)} rows; {'; '.join(names.values())}")

    def turn(name: str) -> Turn:
        contestant = hall.contestants[PIPELINE if name == SORTED else name]
        given = {"file": str(texts.train), "answers_to": str(hall.answers(name)), **ways[name]}
        return lambda _: contestant.round(**given)

    gates: dict[str, list[Gate]] = {name: [] for name in names}

    def check(_: Rounds) -> None:
        for name in names:
            gates[name].append(gate(hall, name))
        if all(found[-1].state == "void" for found in gates.values()):
            raise ContestantError(f"nobody agrees with ours: {gates[PIPELINE][-1].text}")

    rounds = compete({name: turn(name) for name in ways}, form, check)
    gflop = needed_gflop(hall.base / "config.json", texts.lengths, epochs=0, learnt_layers=None)
    found = []
    for name, bar in BARS.items():
        worst = next((one for one in gates[name] if one.state == "void"), gates[name][-1])
        one = standing(bar, mix, (rounds["ours"], rounds[name]), worst, **about_texts(texts, BATCH))
        share = Work(gflop=gflop, peak_gflops=hall.peak_gflops).share_of_peak(one.ours_s)
        one.about.update(mfu=round(share, 3), peer=names[name], peer_tried_s=tried[name])
        one.about.update(
            ours_rows_per_s=round(len(texts.lengths) / one.ours_s), peer_rows_per_s=round(len(texts.lengths) / one.peer_s)
        )
        found.append(one)
    beside = interval([times_faster(*pair) for pair in undisturbed(rounds["ours"], rounds[SORTED])])
    found[0].about[SORTED] = (
        None if beside is None else {**asdict(beside), "way": names[SORTED], "gate": gates[SORTED][-1].state}
    )
    return found


def note(standing_: Standing) -> str:
    """Return a line on how the peer was asked."""
    about = standing_.about
    speeds = f"{about['peer_rows_per_s']} rows/s; ours {about['ours_rows_per_s']}"
    text = f"{standing_.bar.name} {standing_.mix}: {about['peer']}, {speeds}"
    beside = about.get(SORTED)
    if beside:
        text += f"; with sorted texts ({beside['way']}) {beside['median']:.2f}x [{beside['low']:.2f}, {beside['high']:.2f}]"
    return text


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
        once = contest(hall, "lognormal", round(form.scale * BAR_ROWS), form.once()) if form.bar_size else []
        versions = {name: contestant.ask("facts")["versions"] for name, contestant in contestants.items()}
    notes = [f"at the bar's own size:\n{standing_.line()}" for standing_ in once]
    notes += [note(one) for one in found]
    notes.append(f"matrix-product peak, GFLOP/s: {peak}; MFU is ours, tokenising included")
    figures = {"standings": [one.to_json() for one in found], "bar_size": [one.to_json() for one in once], "versions": versions}
    measure.report("predict", {"form": form.to_json()} | figures, table(form, found, *notes), full=form.full)


if __name__ == "__main__":
    main()

"""B4: batch prediction against the hub's pipeline, sentence-transformers, and ONNX Runtime and OpenVINO by hand; all in fp32.

Inside the clock on all sides: texts in, probabilities out, tokenising counted. Outside: opening the model. Ours is one artifact
and its ONNX export, asked in every way it can be computed here; the bars are held with the runtime that it chooses by itself.
The peers' batch sizes are chosen by measuring, and so is which of the two graph runtimes, and which back end of
sentence-transformers, is the fastest one. The graph runtimes get the texts sorted by length, as `encode` sorts them itself; the
pipeline gets them as they come, as its documentation has it, and beside the bar stands what it does with texts that its user
has sorted. Pictures are not measured: there is no modality for them yet. The gate: every probability of every round within 1e-4
of ours.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
OURS, TORCH = "ours", "ours, torch"
PIPELINE, SORTED, GRAPH, SENTENCE = "pipeline", "pipeline, sorted", "graph runtime", "sentence-transformers"
BARS = {
    PIPELINE: Bar(name="B4a", what="batch prediction; transformers pipeline fp32", goal=3.0, floor=2.0),
    GRAPH: Bar(name="B4b", what="batch prediction; the best of ONNX Runtime and OpenVINO fp32", goal=1.15, floor=1.0),
}
PIPELINE_BATCHES, GRAPH_BATCHES, SENTENCE_BATCHES = [1, 8, 32], [1, 8, 16, 32], [8, 16, 32]


@dataclass(frozen=True)
class Hall:
    """Where the contest takes place.

    Args:
        contestants: Process of each side.
        base: Folder of the base.
        folder: Where answers and rows are written.
        peak_gflops: Matrix products in fp32.
        ours: Each way in which ours is asked -> the library that computes it; filled by `prepare`.
        missing: Back ends of sentence-transformers that are not installed; filled by `prepare`.
    """

    contestants: Mapping[str, Contestant]
    base: Path
    folder: Path
    peak_gflops: float
    ours: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def answers(self, name: str) -> Path:
        """Return the file that a side writes its answers to."""
        return self.folder / f"{name}.npy"

    def texts(self, mix: str, rows: int, seed: int) -> Texts:
        """Return rows of a mix."""
        return write_texts(mix, rows, 2, self.base / "tokenizer.json", self.folder, seed)


def prepare(hall: Hall) -> None:
    """Fit the artifact, export it, and open it on all sides."""
    ours, pipeline, graph, sentence = (hall.contestants[name] for name in (OURS, PIPELINE, GRAPH, SENTENCE))
    texts, artifact, model = hall.texts("lognormal", MADE_FROM, 7), hall.folder / "artifact", hall.folder / "model.onnx"
    asked = {"base": BASE, "train": str(texts.train), "few": str(texts.few), "out": str(artifact), "max_length": MAX_LENGTH}
    labels = ours.ask("make", **asked)["labels"]
    runtimes = ours.ask("export", artifact=str(artifact), to=str(hall.folder / "export"), format="onnx")["runtimes"]
    ways = {OURS: ("export", "auto"), TORCH: ("artifact", "auto"), **{f"ours, {name}": ("export", name) for name in runtimes}}
    for way, (form, runtime) in ways.items():
        hall.ours[way] = ours.ask("prepare", artifact=str(hall.folder / form), way=way, runtime=runtime)["library"]
    pipeline.ask("prepare", artifact=str(artifact), labels=labels, max_length=MAX_LENGTH)
    pipeline.ask("export", to=str(model))
    graph.ask("prepare", model=str(model), tokenizer=str(artifact / "backbone" / "tokenizer.json"), max_length=MAX_LENGTH)
    hall.missing.extend(sentence.ask("prepare", artifact=str(artifact), max_length=MAX_LENGTH)["missing"])


def gate(hall: Hall, peer: str, ours: str = OURS) -> Gate:
    """Compare the answers of the round just done."""
    return same_answers(np.load(hall.answers(ours)), np.load(hall.answers(peer)), TOLERANCE)


def ways_of(hall: Hall, texts: Texts) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, Any]]:
    """Find out by measuring how each peer is fastest: arguments of a round, a name for it, and what was tried."""
    file = str(texts.train)
    pipeline = hall.contestants[PIPELINE].ask("tune", file=file, batch_sizes=PIPELINE_BATCHES)
    graph = hall.contestants[GRAPH].ask("tune", file=file, batch_sizes=GRAPH_BATCHES)
    sentence = hall.contestants[SENTENCE].ask("tune", file=file, batch_sizes=SENTENCE_BATCHES)
    chosen = {PIPELINE: pipeline["as they come"], SORTED: pipeline["sorted"], GRAPH: graph, SENTENCE: sentence}
    ways = {way: {"way": way, "batch_size": BATCH} for way in hall.ours} | {
        name: found["best"] for name, found in chosen.items()
    }
    tried = {PIPELINE: pipeline["tried"], GRAPH: graph["tried"], SENTENCE: sentence["tried"]}
    return ways, {name: found["name"] for name, found in chosen.items()}, tried


def contest(hall: Hall, mix: str, rows: int, form: Form) -> list[Standing]:
    """Let all take turns on one mix and return where both bars stand."""
    texts = hall.texts(mix, rows, 2)
    ways, names, tried = ways_of(hall, hall.texts(mix, FULL_TUNED if form.full else SHORT_TUNED, 1))
    say(f"{mix}: {len(texts.lengths)} rows; {'; '.join(names.values())}")

    def turn(name: str) -> Turn:
        contestant = hall.contestants[OURS if name in hall.ours else PIPELINE if name == SORTED else name]
        given = {"file": str(texts.train), "answers_to": str(hall.answers(name)), **ways[name]}
        return lambda _: contestant.round(**given)

    gates: dict[str, list[Gate]] = {name: [] for name in ways if name != OURS}

    def check(_: Rounds) -> None:
        for name in gates:
            gates[name].append(gate(hall, name))
        if all(gates[name][-1].state == "void" for name in names):
            raise ContestantError(f"nobody agrees with ours: {gates[PIPELINE][-1].text}")

    rounds = compete({name: turn(name) for name in ways}, form, check)
    worst = {name: next((one for one in found if one.state == "void"), found[-1]) for name, found in gates.items()}
    gflop = needed_gflop(hall.base / "config.json", texts.lengths, epochs=0, learnt_layers=None)
    found = []
    for name, bar in BARS.items():
        one = standing(bar, mix, (rounds[OURS], rounds[name]), worst[name], **about_texts(texts, BATCH))
        share = Work(gflop=gflop, peak_gflops=hall.peak_gflops).share_of_peak(one.ours_s)
        one.about.update(mfu=round(share, 3), peer=names[name], peer_tried_s=tried[name], ours=hall.ours[OURS])
        one.about.update(
            ours_rows_per_s=round(len(texts.lengths) / one.ours_s), peer_rows_per_s=round(len(texts.lengths) / one.peer_s)
        )
        found.append(one)
    found[0].about["every_pair"] = pairs(hall, rounds, worst, names, len(texts.lengths))
    return found


def pairs(hall: Hall, rounds: Rounds, gates: Mapping[str, Gate], names: Mapping[str, str], rows: int) -> list[dict[str, Any]]:
    """Return every way of ours against every peer, and who of them agrees with the way that the bars are held with."""
    found = []
    for way, library in hall.ours.items():
        for peer, told in names.items():
            ratio = interval([times_faster(*pair) for pair in undisturbed(rounds[way], rounds[peer])])
            states = {gates[name].state for name in (way, peer) if name in gates}
            speed = round(rows / float(np.median([one.wall_s for one in rounds[way]])))
            entry = {"ours": way, "library": library, "rows_per_s": speed, "peer": peer, "way": told}
            found.append(
                {
                    **entry,
                    "peer_rows_per_s": round(rows / float(np.median([one.wall_s for one in rounds[peer]]))),
                    "figure": None if ratio is None else {k: round(v, 4) for k, v in asdict(ratio).items()},
                    "gate": "void" if "void" in states else "passed",
                }
            )
    return found


def notes_of(found: Standing) -> list[str]:
    """Return a line for each way of ours: how fast, and how many times faster than each peer."""
    lines: dict[str, str] = {}
    for entry in found.about["every_pair"]:
        head = f"{found.mix}: {entry['ours']} ({entry['library']}), {entry['rows_per_s']} rows/s"
        figure = entry["figure"]
        ratio = (
            "no undisturbed round" if figure is None else f"{figure['median']:.2f}x [{figure['low']:.2f}, {figure['high']:.2f}]"
        )
        void = "" if entry["gate"] == "passed" else ", void"
        lines[entry["ours"]] = lines.get(entry["ours"], head) + f"; {entry['peer']} ({entry['way']}) {ratio}{void}"
    return list(lines.values())


def main() -> None:
    """Measure; the full form ends with one mix at the bar's own size."""
    form = form_from_arguments(MIXES, __doc__)
    base = open_base()
    scripts = {
        OURS: ("ours_predict.py", None),
        PIPELINE: ("pipeline.py", environment("transformers")),
        GRAPH: ("graph.py", environment("onnxruntime")),
        SENTENCE: ("sentence_predict.py", environment("sentence-transformers-graph")),
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
    notes += [line for one in found if one.bar is BARS[PIPELINE] for line in notes_of(one)]
    notes += [f"sentence-transformers without its back end '{name}': not to be had with its pins" for name in hall.missing]
    notes.append(f"matrix-product peak, GFLOP/s: {peak}; MFU is ours, tokenising included")
    figures = {"standings": [one.to_json() for one in found], "bar_size": [one.to_json() for one in once], "versions": versions}
    measure.report("predict", {"form": form.to_json()} | figures, table(form, found, *notes), ending=form.ending)


if __name__ == "__main__":
    main()

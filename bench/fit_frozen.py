"""B2: fitting with a frozen body against the hub's Trainer, and against sentence-transformers with scikit-learn.

B2a and B2b: only the head learns, 10 epochs. B2c: the top 2 of 6 layers learn, 5 epochs. B2b has eight times as many rows: it
is done where the Trainer has not seen a tenth of them. Inside the clock on all sides: read
the rows, tokenise, open the base, compute what is frozen, train. Our cache of frozen features is empty at the start of every
round. Outside: starting Python, imports, judging.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
from environments import environment
from figures import Bar
from fits import BATCH, accuracy_gate, open_base, our_turn, trainer_turn
from harness import Contestant, Form, Turn, compete, form_from_arguments, say
from rows import MAX_LENGTH, MIXES, Texts, write_texts
from standings import Standing, Work, about_texts, median_stages, needed_gflop, standing, table

# The Trainer's pooler learns beside its classifier and bears less than a linear head alone; times do not depend on it.
HEAD_RATE, TRAINER_HEAD_RATE, TOP_RATE = 1e-2, 3e-3, 2e-4
HEAD_EPOCHS, TOP_EPOCHS, TOP_LAYERS = 10, 5, 2
SHORT_ROWS, FULL_ROWS, SHORT_JUDGED, FULL_JUDGED = 32, 128, 64, 200
TIMES_FOR_LINEAR = 8
BAR_ROWS, BAR_JUDGED = 4000, 2000
BATCH_SIZES = [16, 32, 64]
TRAINER, SENTENCE = "Trainer", "sentence-transformers"
HEAD = Bar(name="B2a", what="head only, 10 epochs; Trainer with the body frozen", goal=8.0, floor=5.0)
LINEAR = Bar(name="B2b", what="head only, 10 epochs; encode + logistic regression", goal=1.0, floor=0.8)
TOP = Bar(name="B2c", what="top 2 of 6 layers, 5 epochs; Trainer with the rest frozen", goal=1.45, floor=1.25)
PEERS = {HEAD: TRAINER, LINEAR: SENTENCE, TOP: TRAINER}


@dataclass(frozen=True)
class Hall:
    """Where the contest takes place.

    Args:
        contestants: Process of each side.
        base: Folder of the base.
        peak_gflops: Matrix products in fp32.
    """

    contestants: Mapping[str, Contestant]
    base: Path
    peak_gflops: float


def turns_of(hall: Hall, texts: Texts, bar: Bar, batch_size: int) -> dict[str, Turn]:
    """Return what each side of a bar does in a round.

    Args:
        hall: Where.
        texts: The rows.
        bar: What learns, and who else does it.
        batch_size: Rows that sentence-transformers encodes at once.
    """
    rate, epochs, layers = (TOP_RATE, TOP_EPOCHS, TOP_LAYERS) if bar is TOP else (HEAD_RATE, HEAD_EPOCHS, 0)
    tuning: Any = {"name": "top-k", "layers": layers} if layers else "head"
    turns = {"ours": our_turn(hall.contestants["ours"], texts, rate, epochs=epochs, tuning=tuning, precision="fp32")}
    peer = hall.contestants[PEERS[bar]]
    if bar is LINEAR:
        asked = {"base": str(hall.base), "train": str(texts.train), "judged": str(texts.judged), "max_length": MAX_LENGTH}
        turns[SENTENCE] = lambda number: peer.round(**asked, batch_size=batch_size, seed=number + 100)
    else:
        rate = rate if layers else TRAINER_HEAD_RATE
        turns[TRAINER] = trainer_turn(peer, texts, rate, epochs=epochs, base=hall.base, learnt_layers=layers)
    return turns


def contest(hall: Hall, texts: Texts, form: Form, bars: Sequence[Bar]) -> list[Standing]:
    """Let all take turns on one mix, and return where the bars stand."""
    found = []
    for bar in bars:
        tried: dict[str, Any] = {"best": None}
        if bar is LINEAR:
            asked = {"base": str(hall.base), "train": str(texts.train), "max_length": MAX_LENGTH, "batch_sizes": BATCH_SIZES}
            tried = hall.contestants[SENTENCE].ask("tune", **asked)
        say(f"{texts.mix}, {bar.name}: {len(texts.lengths)} rows")
        rounds = compete(turns_of(hall, texts, bar, tried["best"]), form)
        epochs, layers = (TOP_EPOCHS, TOP_LAYERS) if bar is TOP else (HEAD_EPOCHS, 0)
        gflop = needed_gflop(hall.base / "config.json", texts.lengths, epochs=epochs, learnt_layers=layers)
        share = Work(gflop=gflop, peak_gflops=hall.peak_gflops).share_of_peak(median_stages(rounds["ours"])["train"])
        peer = PEERS[bar]
        gate, about = accuracy_gate(rounds, "ours", peer, texts), about_texts(texts, BATCH)
        about |= {"epochs": epochs, "mfu": round(share, 3), "notes": rounds["ours"][-1].facts["notes"]}
        about |= {"peer": peer} | ({"peer_tried_s": tried["tried"]} if bar is LINEAR else {})
        # The goal of this bar is stated beside what leaving padding out gains.
        held = replace(bar, goal=round(bar.goal * about["padding_ratio"], 2)) if bar is TOP else bar
        found.append(standing(held, texts.mix, (rounds["ours"], rounds[peer]), gate, **about))
    return found


def main() -> None:
    """Measure, and in the full form once more at the bar's own size."""
    form = form_from_arguments(MIXES, __doc__)
    base = open_base()
    scripts = {
        "ours": ("ours_fit.py", None),
        TRAINER: ("trainer.py", environment("transformers")),
        SENTENCE: ("sentence.py", environment("sentence-transformers")),
    }
    found, once = [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(script, python=python, core=form.core))
            for name, (script, python) in scripts.items()
        }
        for contestant in contestants.values():
            contestant.ask("prepare")
        hall = Hall(contestants, base, contestants["ours"].ask("peak")["gflops"]["float32"])
        where = (base / "tokenizer.json", Path(folder))
        for mix in form.mixes:
            rows, judged = form.rows(mix, SHORT_ROWS, FULL_ROWS), FULL_JUDGED if form.full else SHORT_JUDGED
            found += contest(hall, write_texts(mix, rows, judged, *where), form, [HEAD, TOP])
            found += contest(hall, write_texts(mix, TIMES_FOR_LINEAR * rows, judged, *where), form, [LINEAR])
        if form.bar_size:
            texts = write_texts("lognormal", round(form.scale * BAR_ROWS), round(form.scale * BAR_JUDGED), *where)
            once = contest(hall, texts, form.once(), [HEAD, LINEAR, TOP])
        versions = {name: contestant.ask("facts")["versions"] for name, contestant in contestants.items()}
    notes = [f"at the bar's own size, one run:\n{standing_.line()}" for standing_ in once]
    notes.append(f"matrix-product peak, GFLOP/s: {hall.peak_gflops}; MFU is ours, of training alone, what is frozen once a row")
    figures = {"standings": [one.to_json() for one in found], "bar_size": [one.to_json() for one in once], "versions": versions}
    measure.report("fit_frozen", {"form": form.to_json()} | figures, table(form, found, *notes), ending=form.ending)


if __name__ == "__main__":
    main()

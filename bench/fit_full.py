"""B1: full fine-tuning of MiniLM against the hub's Trainer, as it comes, and with batches grouped by length and bf16.

bf16 is used by the second Trainer where this processor multiplies it faster than fp32 (measured here); elsewhere it would be
many times slower, and the Trainer tuned for this machine groups by length in fp32. Ours is fp32 against the first, and
whatever `precision: auto` finds against the second. It finds that once a machine and network (about four passes over 512
positions), in a warm-up or an earlier run, and keeps it: that is not inside the clock.

Inside the clock on both sides: read the rows, tokenise, open the base, train. Outside: starting Python, imports, judging.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
from environments import environment
from figures import Bar
from fits import BATCH, accuracy_gate, open_base, our_turn, trainer_turn
from harness import Contestant, Form, compete, form_from_arguments, say
from rows import MIXES, Texts, write_texts
from standings import Standing, Work, about_texts, median_stages, needed_gflop, standing, table

RATE = 1e-4
EPOCHS, BAR_ROWS, BAR_EPOCHS, BAR_JUDGED = 1, 4000, 3, 2000
SHORT_ROWS, FULL_ROWS, SHORT_JUDGED, FULL_JUDGED = 64, 256, 64, 200
PLAIN = Bar(name="B1a", what="full fine-tuning; Trainer fp32, dynamic padding", goal=3.0, floor=2.2)
TUNED = Bar(
    name="B1b", what="full fine-tuning; Trainer grouped by length, bf16 where the processor has it", goal=1.4, floor=1.1
)
GROUPED = {"train_sampling_strategy": "group_by_length"}


@dataclass(frozen=True)
class Side:
    """One contestant of B1.

    Args:
        name: As it is shown.
        precision: Ours: type of the factors of matrix products.
        arguments: The Trainer's: more of its arguments.
    """

    name: str
    precision: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hall:
    """Where the contest takes place.

    Args:
        ours: Our process.
        trainer: The peer's.
        base: Folder of the base.
        peak: Matrix products in GFLOP/s, by type.
    """

    ours: Contestant
    trainer: Contestant
    base: Path
    peak: Mapping[str, float]

    def pairs(self) -> list[tuple[Bar, Side, Side]]:
        """Return bar, ours and peer, as this machine has it."""
        ours = Side("ours fp32", precision="fp32")
        plain = (PLAIN, ours, Side("Trainer fp32"))
        if self.peak["bfloat16"] > self.peak["float32"]:
            peer = Side("Trainer grouped bf16", arguments={**GROUPED, "bf16": True})
            return [plain, (TUNED, Side("ours auto", precision="auto"), peer)]
        return [plain, (TUNED, ours, Side("Trainer grouped fp32", arguments=GROUPED))]


def contest(hall: Hall, texts: Texts, form: Form, epochs: int = EPOCHS) -> list[Standing]:
    """Let all take turns on one mix and return where both bars stand."""
    say(f"{texts.mix}: {len(texts.lengths)} rows, {epochs} epochs")
    turns, pairs = {}, hall.pairs()
    for _, ours, peer in pairs:
        turns[ours.name] = our_turn(hall.ours, texts, RATE, epochs=epochs, tuning="full", precision=ours.precision)
        given = {"epochs": epochs, "base": hall.base, "learnt_layers": None, **peer.arguments}
        turns[peer.name] = trainer_turn(hall.trainer, texts, RATE, **given)
    rounds = compete(turns, form)
    gflop = needed_gflop(hall.base / "config.json", texts.lengths, epochs=epochs, learnt_layers=None)
    found = []
    for bar, ours, peer in pairs:
        mine, gate = rounds[ours.name], accuracy_gate(rounds, ours.name, peer.name, texts)
        peak = max(hall.peak.values()) if ours.precision == "auto" else hall.peak["float32"]
        share = Work(gflop=gflop, peak_gflops=peak).share_of_peak(median_stages(mine)["train"])
        about = {"epochs": epochs, "sides": [ours.name, peer.name], "notes": mine[-1].facts["notes"], "mfu": round(share, 3)}
        found.append(standing(bar, texts.mix, (mine, rounds[peer.name]), gate, **about_texts(texts, BATCH), **about))
    return found


def in_bf16(hall: Hall, where: tuple[Path, Path], form: Form) -> str:
    """Return in words what the Trainer takes in bf16 where it was not held against us with it: one batch, once."""
    texts = write_texts("lognormal", BATCH, BATCH, *where)
    given = {"epochs": 1, "base": hall.base, "learnt_layers": None, **GROUPED}
    turns = {
        "ours": our_turn(hall.ours, texts, RATE, epochs=1, tuning="full", precision="auto"),
        "bf16": trainer_turn(hall.trainer, texts, RATE, bf16=True, **given),
    }
    taken = {name: rounds[-1].wall_s for name, rounds in compete(turns, form.once()).items()}
    return (
        f"one batch of {BATCH} texts with the Trainer grouped by length and in bf16, as B1b is worded: {taken['bf16']:.1f} s, "
        f"ours {taken['ours']:.1f} s; this processor has no bf16, so B1b is held against the Trainer in fp32, which is faster"
    )


def main() -> None:
    """Measure, and in the full form once more at the bar's own size."""
    form = form_from_arguments(MIXES, __doc__)
    base, python = open_base(), environment("transformers")
    found, once = [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ours = stack.enter_context(Contestant("ours_fit.py", core=form.core))
        trainer = stack.enter_context(Contestant("trainer.py", python=python, core=form.core))
        for contestant in (ours, trainer):
            contestant.ask("prepare")
        hall = Hall(ours, trainer, base, ours.ask("peak")["gflops"])
        where = (base / "tokenizer.json", Path(folder))
        for mix in form.mixes:
            judged = FULL_JUDGED if form.full else SHORT_JUDGED
            found += contest(hall, write_texts(mix, form.rows(mix, SHORT_ROWS, FULL_ROWS), judged, *where), form)
        if form.bar_size:
            texts = write_texts("lognormal", round(form.scale * BAR_ROWS), round(form.scale * BAR_JUDGED), *where)
            once = contest(hall, texts, form.once(), BAR_EPOCHS)
        slow = [in_bf16(hall, where, form)] if form.full and hall.peak["bfloat16"] <= hall.peak["float32"] else []
        versions = {"ours": ours.ask("facts")["versions"], "trainer": trainer.ask("facts")["versions"]}
    notes = [f"at the bar's own size, one run:\n{standing_.line()}" for standing_ in once] + slow
    notes.append(f"matrix-product peak, GFLOP/s: {dict(hall.peak)}; MFU is ours, of training alone")
    figures = {"standings": [one.to_json() for one in found], "bar_size": [one.to_json() for one in once], "versions": versions}
    head = {"form": form.to_json(), "peak_gflops": hall.peak}
    measure.report("fit_full", head | figures, table(form, found, *notes), ending=form.ending)


if __name__ == "__main__":
    main()

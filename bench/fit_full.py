"""B1: full fine-tuning of MiniLM against the hub's Trainer, as it comes, and with batches grouped by length and bf16.

bf16 is used by the second Trainer where this processor multiplies it faster than fp32 (measured here); elsewhere it would be
many times slower, and the Trainer tuned for this machine groups by length in fp32. Ours is fp32 against the first, and
whatever `precision: auto` finds against the second.

Inside the clock on both sides: read the rows, tokenise, open the base, train. Outside: starting Python, imports, judging.
Both sides: batch 32, AdamW (fused) at a peak rate of 1e-4 with 10 % warm-up and a linear fall, decay 0.01, clipping at 1,
dropout 0.1, at most 128 tokens.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import measure
from environments import environment
from figures import Bar, Gate, same_accuracy
from harness import Contestant, Form, Rounds, compete, form_from_arguments, say
from rows import MAX_LENGTH, MIXES, Texts, write_texts
from standings import Standing, Work, about_texts, median_stages, needed_gflop, standing, table

BATCH, RATE = 32, 1e-4
EPOCHS, BAR_ROWS, BAR_EPOCHS = 1, 4000, 3
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


def pairs(peak: Mapping[str, float]) -> list[tuple[Bar, Side, Side]]:
    """Return bar, ours and peer, as this machine has it.

    Args:
        peak: Matrix products in GFLOP/s, by type.
    """
    ours = Side("ours fp32", precision="fp32")
    plain = (PLAIN, ours, Side("Trainer fp32"))
    if peak["bfloat16"] > peak["float32"]:
        peer = Side("Trainer grouped bf16", arguments={**GROUPED, "bf16": True})
        return [plain, (TUNED, Side("ours auto", precision="auto"), peer)]
    return [plain, (TUNED, ours, Side("Trainer grouped fp32", arguments=GROUPED))]


@dataclass(frozen=True)
class Hall:
    """The contestants and what they start from."""

    ours: Contestant
    trainer: Contestant
    base: Path


def ours(hall: Hall, texts: Texts, precision: str, epochs: int) -> Any:
    """Return what we do in a round."""
    train = {"epochs": epochs, "batch_size": BATCH, "learning_rate": RATE, "head_learning_rate": RATE}
    options = {"modality": {"name": "text", "max_length": MAX_LENGTH}, "train": train}
    files = {"train": str(texts.train), "few": str(texts.few), "judged": str(texts.judged)}
    return lambda number: hall.ours.round(base="minilm", options=options, precision=precision, seed=number + 100, **files)


def trainers(hall: Hall, texts: Texts, arguments: Mapping[str, Any], epochs: int) -> Any:
    """Return what the Trainer does in a round."""
    given = {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        **arguments,
    }
    asked = {"base": str(hall.base), "train": str(texts.train), "judged": str(texts.judged), "max_length": MAX_LENGTH}
    return lambda number: hall.trainer.round(**asked, learnt_layers=None, arguments=given, seed=number + 100)


def contest(hall: Hall, texts: Texts, form: Form, peak: Mapping[str, float], epochs: int = EPOCHS) -> list[Standing]:
    """Let all four take turns on one mix and return where both bars stand."""
    say(f"{texts.mix}: {len(texts.lengths)} rows, {epochs} epochs")
    turns = {}
    for _, mine, peer in pairs(peak):
        turns[mine.name] = ours(hall, texts, mine.precision, epochs)
        turns[peer.name] = trainers(hall, texts, peer.arguments, epochs)
    rounds = compete(turns, form)
    gflop = needed_gflop(hall.base / "config.json", texts.lengths, epochs=epochs, learnt_layers=None)
    found = []
    for bar, mine, peer in pairs(peak):
        last, gate = rounds[mine.name][-1], accuracy_gate(rounds, mine.name, peer.name, texts)
        about = about_texts(texts, BATCH) | {"epochs": epochs, "sides": [mine.name, peer.name], "notes": last.facts["notes"]}
        work = Work(gflop=gflop, peak_gflops=max(peak.values()) if mine.precision == "auto" else peak["float32"])
        about["mfu"] = round(work.share_of_peak(median_stages(rounds[mine.name])["train"]), 3)
        found.append(standing(bar, texts.mix, (rounds[mine.name], rounds[peer.name]), gate, **about))
    return found


def accuracy_gate(rounds: Rounds, ours: str, peer: str, texts: Texts) -> Gate:
    """Compare mean accuracies over the rounds; every round is judged on the same rows, so these count once."""
    means = [statistics.mean(round_.facts["accuracy"] for round_ in rounds[name]) for name in (ours, peer)]
    return same_accuracy(*means, n=texts.judged_rows, majority=texts.majority)


def open_base() -> Path:
    """Return the folder of minilm, fetched if it is not there."""
    from regraft.fitting import base_of
    from regraft.models.folder import FolderBase

    base = base_of("minilm")
    base.fetch()
    if not isinstance(base, FolderBase):
        raise TypeError("minilm is not a folder")
    return base.folder()


def main() -> None:
    """Measure, and in the full form once more at the bar's own size."""
    form = form_from_arguments(MIXES, __doc__)
    base, python = open_base(), environment("transformers")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        mine = stack.enter_context(Contestant("ours_fit.py", core=form.core))
        peer = stack.enter_context(Contestant("trainer.py", python=python, core=form.core))
        hall = Hall(mine, peer, base)
        for contestant in (mine, peer):
            contestant.ask("prepare")
        peak = mine.ask("peak")["gflops"]
        found: list[Standing] = []

        def texts_of(mix: str, rows: int, judged: int = FULL_JUDGED if form.full else SHORT_JUDGED) -> Texts:
            return write_texts(mix, rows, judged, base / "tokenizer.json", Path(folder))

        for mix in form.mixes:
            found += contest(hall, texts_of(mix, form.rows(SHORT_ROWS, FULL_ROWS)), form, peak)
        once: list[Standing] = []
        if form.full:
            texts = texts_of("lognormal", round(form.scale * BAR_ROWS), 2000)
            once = contest(hall, texts, replace(form, rounds=1, warm_ups=0), peak, BAR_EPOCHS)
        versions = {"ours": mine.ask("facts")["versions"], "trainer": peer.ask("facts")["versions"]}
    notes = [f"at the bar's own size, one run:\n{standing_.line()}" for standing_ in once]
    notes.append(f"matrix-product peak, GFLOP/s: {peak}; MFU is ours, of training alone")
    figures = {"standings": [one.to_json() for one in found], "bar_size": [one.to_json() for one in once], "versions": versions}
    measure.report(
        "fit_full", {"form": form.to_json(), "peak_gflops": peak, **figures}, table(form, found, *notes), full=form.full
    )


if __name__ == "__main__":
    main()

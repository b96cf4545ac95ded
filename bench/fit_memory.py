"""B9a, B9b: peak memory of full fine-tuning against the hub's Trainer, and of LoRA against our own full fine-tuning.

A fresh process each time, everything in it counted: the figure is VmHWM after the fit, which holds Python and its libraries
too. B9a is ours / the Trainer's; B9b is LoRA of rank 8 on all linear layers / full, both ours.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import measure
from environments import environment
from figures import Bar, Gate, Round
from fits import BATCH, open_base, our_turn, trainer_turn
from harness import Contestant, Turn, compete, form_from_arguments
from rows import write_texts
from standings import about_texts, standing, table

MIXES = ("lognormal", "real")
SHORT_ROWS, FULL_ROWS, RATE = 64, 192, 1e-4
MEMORY = Bar(
    name="B9a", what="peak memory of full fine-tuning; Trainer fp32", goal=0.8, floor=1.0, higher_is_better=False, unit=""
)
ADAPTED = Bar(
    name="B9b", what="peak memory of LoRA r=8; our own full fine-tuning", goal=0.6, floor=0.8, higher_is_better=False, unit=""
)
FULL, LORA, TRAINER = "full", "LoRA", "Trainer"


def memory(ours: Round, peer: Round) -> float:
    """Return our peak / the peer's."""
    return float(ours.facts["peak_mb"] / peer.facts["peak_mb"])


def calm(turn: Turn) -> Turn:
    """Return a turn whose rounds all count: how much memory is taken does not depend on who else has the core."""

    def taken(number: int) -> Round:
        found = turn(number)
        return Round(wall_s=found.wall_s, cpu_s=found.wall_s, facts=found.facts)

    return taken


def main() -> None:
    """Measure."""
    form = form_from_arguments(MIXES, __doc__)
    form = replace(form, rounds=3 if form.full else 1, warm_ups=0)  # hardly moves, and nothing has to warm up
    base, python = open_base(), environment("transformers")
    found, versions = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for mix in form.mixes:
            texts = write_texts(mix, form.rows(mix, SHORT_ROWS, FULL_ROWS), 16, base / "tokenizer.json", Path(folder))

            def ours(number: int, tuning="full", texts=texts) -> Round:
                with Contestant("ours_fit.py", core=form.core) as contestant:
                    contestant.ask("prepare")
                    versions["ours"] = contestant.ask("facts")["versions"]
                    return our_turn(contestant, texts, RATE, epochs=1, tuning=tuning, precision="fp32")(number)

            def trainer(number: int, texts=texts) -> Round:
                with Contestant("trainer.py", python=python, core=form.core) as contestant:
                    contestant.ask("prepare")
                    versions["Trainer"] = contestant.ask("facts")["versions"]
                    return trainer_turn(contestant, texts, RATE, epochs=1, base=base, learnt_layers=None)(number)

            lora = functools.partial(ours, tuning={"name": "lora", "rank": 8})
            rounds = compete({FULL: calm(ours), TRAINER: calm(trainer), LORA: calm(lora)}, form)
            peaks = {name: sorted(round(one.facts["peak_mb"]) for one in rounds[name]) for name in rounds}
            about = about_texts(texts, BATCH) | {"peaks_mb": peaks}
            for bar, pair in ((MEMORY, (FULL, TRAINER)), (ADAPTED, (LORA, FULL))):
                told = "; ".join(f"{name} {peaks[name]} MB" for name in pair)
                gate = Gate(state="passed", text=f"peaks: {told}; how accurate full becomes is the gate of B1a")
                found.append(standing(bar, mix, (rounds[pair[0]], rounds[pair[1]]), gate, memory, **about))
    figures = {"form": form.to_json(), "standings": [one.to_json() for one in found], "versions": versions}
    measure.report("fit_memory", figures, table(form, found), ending=form.ending)


if __name__ == "__main__":
    main()

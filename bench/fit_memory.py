"""B9a: peak memory of full fine-tuning against the hub's Trainer: a fresh process each time, everything in it counted.

The figure is VmHWM after the fit, which holds Python and its libraries too, ours / the Trainer's.
"""

from __future__ import annotations

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

            def ours(number: int, texts=texts) -> Round:
                with Contestant("ours_fit.py", core=form.core) as contestant:
                    contestant.ask("prepare")
                    versions["ours"] = contestant.ask("facts")["versions"]
                    return our_turn(contestant, texts, RATE, epochs=1, tuning="full", precision="fp32")(number)

            def trainer(number: int, texts=texts) -> Round:
                with Contestant("trainer.py", python=python, core=form.core) as contestant:
                    contestant.ask("prepare")
                    versions["Trainer"] = contestant.ask("facts")["versions"]
                    return trainer_turn(contestant, texts, RATE, epochs=1, base=base, learnt_layers=None)(number)

            rounds = compete({"ours": calm(ours), "Trainer": calm(trainer)}, form)
            peaks = {name: sorted(round(one.facts["peak_mb"]) for one in rounds[name]) for name in rounds}
            gate = Gate(state="passed", text=f"peaks in MB {peaks}; how accurate both become is the gate of B1a")
            about = about_texts(texts, BATCH) | {"peaks_mb": peaks}
            found.append(standing(MEMORY, mix, (rounds["ours"], rounds["Trainer"]), gate, memory, **about))
    figures = {"form": form.to_json(), "standings": [one.to_json() for one in found], "versions": versions}
    measure.report("fit_memory", figures, table(form, found), ending=form.ending)


if __name__ == "__main__":
    main()

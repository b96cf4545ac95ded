"""B3: LoRA of rank 8 against PEFT's, on rows of one length: on all linear layers (B3a), on query and value (B3b).

MiniLM, batches of 32, fused AdamW, 10 % warm-up and a linear fall, decay 0.01, clipping at norm 1, no dropout. Both sides start
from the same numbers and see the same batches, so that they make the same updates: the gate holds losses and learnt weights
against each other. Ours runs in Regraft's own loop, PEFT in one that is written by hand and does nothing else. Inside the
clock: training. Outside: opening the base, putting adapters on it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import measure
from environments import environment
from figures import Bar, Gate
from fits import BATCH, open_base
from harness import Contestant, Form, Rounds, Turn, compete, form_from_arguments, say
from standings import Standing, standing, table

MIXES = ("tokens-32", "tokens-128")
LENGTHS = {"tokens-32": 32, "tokens-128": 128}
# Enough that what a fit does once (half a step) does not count; of 128 tokens a step takes four times as long.
SHORT_STEPS, FULL_STEPS = {"tokens-32": 8, "tokens-128": 2}, {"tokens-32": 24, "tokens-128": 8}
ALL = Bar(name="B3a", what="LoRA r=8 on all linear layers, rows of one length; PEFT", goal=1.2, floor=1.0)
SOME = Bar(name="B3b", what="LoRA r=8 on query and value, rows of one length; PEFT", goal=1.0, floor=0.97)
TARGETS = {ALL: "all", SOME: "query-value"}
OURS, PEFT = "ours", "PEFT"
_LOSS, _WEIGHT = 1e-4, 2e-3
_FIRST_SEED = 100  # warm-ups count down from -1, seeds are not negative


@dataclass(frozen=True)
class Hall:
    """Where the contest takes place.

    Args:
        contestants: Process of each side.
        base: Folder of the base.
        folder: Where batches are written.
    """

    contestants: Mapping[str, Contestant]
    base: Path
    folder: Path


def write_batches(length: int, steps: int, folder: Path, seed: int = 0) -> Path:
    """Write batches of random words of one length, with labels that show in the first word.

    Args:
        length: Tokens of a row.
        steps: Batches.
        folder: Where to.
        seed: Draws them.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(2000, 20_000, size=(steps, BATCH, length))
    ids[..., 0], ids[..., -1] = 101, 102
    labels = rng.integers(0, 2, size=(steps, BATCH))
    ids[..., 1] = 3000 + labels
    path = folder / f"batches-{length}-{steps}.npz"
    np.savez(path, ids=ids, labels=labels)
    return path


def turn(contestant: Contestant, hall: Hall, rows: Path, targets: str) -> Turn:
    """Return what a side does in a round."""
    asked = {"base": str(hall.base), "rows": str(rows), "targets": targets}
    return lambda number: contestant.round(**asked, seed=number + _FIRST_SEED)


def same_updates(rounds: Rounds) -> Gate:
    """Judge whether both sides made the same updates: losses of every step, and weights that learnt."""
    loss = weight = 0.0
    for ours, peer in zip(rounds[OURS], rounds[PEFT], strict=True):
        one, other = ours.facts, peer.facts
        if len(one["losses"]) != len(other["losses"]) or one["learnt"].keys() != other["learnt"].keys():
            return Gate(state="void", text="other steps or other weights that learn")
        loss = max(loss, *np.abs(np.subtract(one["losses"], other["losses"])).tolist())
        for name, values in one["learnt"].items():
            weight = max(weight, abs(values[0] - other["learnt"][name][0]) / max(1e-12, abs(values[0])))
    state: Any = "passed" if loss <= _LOSS and weight <= _WEIGHT else "void"  # never true for NaN
    learnt = len(rounds[OURS][-1].facts["learnt"])
    text = f"losses differ by at most {loss:.1e} (allowed {_LOSS:.0e}), norms of {learnt} learnt weights by {weight:.1e} "
    return Gate(state=state, text=text + f"(allowed {_WEIGHT:.0e})")


def contest(hall: Hall, mix: str, form: Form) -> list[Standing]:
    """Let both take turns on one length, and return where the bars stand."""
    steps = max(1, round(form.scale * (FULL_STEPS if form.full else SHORT_STEPS)[mix]))
    rows = write_batches(LENGTHS[mix], steps, hall.folder)
    found = []
    for bar, targets in TARGETS.items():
        say(f"{mix}, {bar.name}: {steps} steps of {BATCH} rows")
        turns = {name: turn(contestant, hall, rows, targets) for name, contestant in hall.contestants.items()}
        rounds = compete(turns, form)
        about: dict[str, Any] = {"steps": steps, "tokens": LENGTHS[mix], "padding_ratio": 1.0}
        about["peak_mb"] = {name: rounds[name][-1].facts["peak_mb"] for name in rounds}
        found.append(standing(bar, mix, (rounds[OURS], rounds[PEFT]), same_updates(rounds), **about))
    return found


def main() -> None:
    """Measure."""
    form = form_from_arguments(MIXES, __doc__)
    base, found = open_base(), []
    scripts = {OURS: ("lora_ours.py", None), PEFT: ("lora_peft.py", environment("peft"))}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Contestant(script, python=python, core=form.core))
            for name, (script, python) in scripts.items()
        }
        for contestant in contestants.values():
            contestant.ask("prepare")
        hall = Hall(contestants, base, Path(folder))
        for mix in form.mixes:
            found += contest(hall, mix, form)
        versions = {name: contestant.ask("facts")["versions"] for name, contestant in contestants.items()}
    figures = {"standings": [one.to_json() for one in found], "versions": versions}
    measure.report("fit_lora", {"form": form.to_json()} | figures, table(form, found), ending=form.ending)


if __name__ == "__main__":
    main()

"""B11: the training loop against one written by hand that does the same updates, at steps of about 10 ms.

The gate: after all steps the weights are the same within 1e-5.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np

import measure
from figures import Bar, Gate, Round
from harness import Contestant, Rounds, Turn, compete, form_from_arguments
from standings import standing, table

STEPS = ("10 ms",)
WIDTH, SHORT_STEPS, FULL_STEPS, TOLERANCE = 512, 150, 400, 1e-5
OVERHEAD = Bar(name="B11", what="our loop; a loop by hand", goal=3.0, floor=5.0, higher_is_better=False, unit=" %")


def overhead(ours: Round, hand: Round) -> float:
    """Return by how many per cent our loop takes longer."""
    return 100 * (ours.wall_s / hand.wall_s - 1)


def same_weights(ours: Path, hand: Path) -> Gate:
    """Judge whether both loops ended with the same weights."""
    worst = float(np.abs(np.load(ours) - np.load(hand)).max())
    state = "passed" if worst <= TOLERANCE else "void"
    return Gate(state=state, text=f"weights after all steps differ by at most {worst:.1e} (allowed {TOLERANCE:.0e})")


def main() -> None:
    """Measure."""
    form = form_from_arguments(STEPS, __doc__)
    count = form.rows(STEPS[0], SHORT_STEPS, FULL_STEPS)
    gates: list[Gate] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        files = {name: Path(folder) / f"{name}.npy" for name in ("ours", "by hand")}

        def turn(name: str) -> Turn:
            contestant = stack.enter_context(Contestant("small_steps.py", core=form.core))
            given = {"ours": name == "ours", "width": WIDTH, "count": count, "weights_to": str(files[name])}
            versions.update(contestant.ask("facts")["versions"])
            return lambda number: contestant.round(**given, seed=number + 100)

        def check(_: Rounds) -> None:
            gates.append(same_weights(files["ours"], files["by hand"]))

        versions: dict[str, str] = {}
        rounds = compete({name: turn(name) for name in files}, form, check)
    gate = next((one for one in gates if one.state == "void"), gates[-1])
    found = standing(OVERHEAD, STEPS[0], (rounds["ours"], rounds["by hand"]), gate, overhead, steps=count)
    step_ms = 1000 * found.peer_s / count
    notes = [f"a step by hand takes {step_ms:.1f} ms, ours {1000 * found.ours_s / count:.1f} ms"]
    figures = {"form": form.to_json(), "standings": [found.to_json()], "step_ms": round(step_ms, 3), "versions": versions}
    measure.report("loop_overhead", figures, table(form, [found], *notes), ending=form.ending)


if __name__ == "__main__":
    main()

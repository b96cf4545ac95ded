"""How long until Regraft is there: `import regraft`, `regraft --help`, and whether torch was imported on the way."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import measure

ROUNDS = 9
CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import regraft": [sys.executable, "-c", "import regraft, sys; sys.exit('torch' in sys.modules)"],
    "regraft --help": [str(Path(sys.executable).parent / "regraft"), "--help"],
    "regraft fit --help": [str(Path(sys.executable).parent / "regraft"), "fit", "--help"],
}


def main() -> None:
    """Run every case in turn, two rounds to warm up and nine that count."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for round_ in range(ROUNDS + 2):
        for name, command in CASES.items():
            took = measure.run(command)[0]
            if round_ >= 2:
                seconds[name].append(took)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    table = "\n".join(f"{name:<20} {value:6.3f} s  (median of {ROUNDS})" for name, value in medians.items())
    measure.report("startup", {"median_s": medians, "torch_imported": False}, table)


if __name__ == "__main__":
    main()

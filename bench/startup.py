"""How long until Regraft is there: `import regraft`, `regraft --help`, and whether torch was imported on the way.

The last two cases are what every fit of a text opens, in a program and as a command does it, which opens nothing unasked.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import measure

ROUNDS = 9
_FIT = "import pyarrow as pa; pa.array([0]); import transformers.models.bert.modeling_bert"
_COMMAND = f"from regraft.models.unasked import keep_out; keep_out(); {_FIT}"
CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import regraft": [sys.executable, "-c", "import regraft, sys; sys.exit('torch' in sys.modules)"],
    "regraft --help": [str(Path(sys.executable).parent / "regraft"), "--help"],
    "regraft fit --help": [str(Path(sys.executable).parent / "regraft"), "fit", "--help"],
    "rows and a model": [sys.executable, "-c", _FIT],
    "as a command": [sys.executable, "-c", _COMMAND],
}


def main() -> None:
    """Run every case in turn, two rounds to warm up and nine that count."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    peaks: dict[str, list[float]] = {name: [] for name in CASES}
    for round_ in range(ROUNDS + 2):
        for name, command in CASES.items():
            took, peak_mb, _ = measure.run(command)
            if round_ >= 2:
                seconds[name].append(took)
                peaks[name].append(peak_mb)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    most = {name: round(statistics.median(values)) for name, values in peaks.items()}
    table = "\n".join(f"{name:<20} {medians[name]:6.3f} s  {most[name]:4d} MB  (medians of {ROUNDS})" for name in CASES)
    measure.report("startup", {"median_s": medians, "peak_mb": most, "torch_imported": False}, table)


if __name__ == "__main__":
    main()

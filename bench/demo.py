"""What `regraft demo` finds and how long it takes; the ladder in the README is this one."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import measure


def main() -> None:
    """Run the demo once into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "regraft"), "demo", "--out", str(Path(folder) / "demo"), "--json"]
        seconds, peak_mb, out = measure.run(command)
    found = json.loads(out.strip().splitlines()[-1])
    lines = []
    for rung in found["ladder"]:
        accuracy = rung["metrics"]["accuracy"]
        lines.append(
            f"{rung['name']:<17} {100 * accuracy['value']:5.1f} [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
        )
    lines += [f"verdict: {found['verdict']}, n = {found['n']}", f"{seconds:.0f} s in all, peak {peak_mb:.0f} MB"]
    figures = {"seconds": round(seconds, 1), "peak_mb": round(peak_mb), "seconds_by_stage": found["seconds_by_stage"]}
    ladder = [{"name": rung["name"], "accuracy": rung["metrics"]["accuracy"]} for rung in found["ladder"]]
    measure.report("demo", {**figures, "verdict": found["verdict"], "ladder": ladder}, "\n".join(lines))


if __name__ == "__main__":
    main()

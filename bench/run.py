"""Run the bench scripts one after another; each writes its output beside itself.

    python bench/run.py [--full] [NAME ...]

The short form takes under 15 minutes on two idle cores and is a look; `--full` takes hours and is what may be claimed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ONE_FORM = ("startup", "demo", "step_profile", "memory_layout")
LONG = {
    "spill": ("spill.py",),
    "spill_minilm": ("spill.py", "--minilm"),
    "checkpoints": ("checkpoints.py",),
    "kill_points": ("kill_points.py",),
}
TWO_FORMS = (
    "start",
    "predict_memory",
    "loop_overhead",
    "predict",
    "predict_pictures",
    "predict_int8",
    "fit_full",
    "fit_frozen",
    "fit_lora",
    "fit_memory",
)


def main() -> int:
    """Run the named scripts, or all; those that have only one form are run as they are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*ONE_FORM, *TWO_FORMS, *LONG)))
    parser.add_argument("--full", action="store_true", help="nine rounds at larger sizes: hours")
    given = parser.parse_args()
    if unknown := set(given.names) - {*ONE_FORM, *TWO_FORMS, *LONG}:
        parser.error(f"unknown script {', '.join(sorted(unknown))}")
    for name in given.names or (*ONE_FORM, *TWO_FORMS, *(LONG if given.full else ())):
        sys.stdout.write(f"--- {name}\n")
        sys.stdout.flush()
        script, *more = LONG.get(name, (f"{name}.py",))
        command = [sys.executable, str(Path(__file__).parent / script), *more]
        began = time.perf_counter()
        code = subprocess.run(command + (["--full"] if given.full and name in TWO_FORMS else []), check=False).returncode
        if code:
            return code
        sys.stdout.write(f"    took {time.perf_counter() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

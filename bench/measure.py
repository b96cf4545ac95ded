"""What every bench script needs: what machine this is, and an output file beside the script."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PACKAGES = ("regraft", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


def machine() -> dict[str, Any]:
    """Return what a reader must know to judge a figure: processor, cores, load, threads, date, versions."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def run(command: list[str], **environment: str) -> tuple[float, float, str]:
    """Run a command to its end.

    Returns:
        Wall seconds, peak resident memory in MB (of the process itself, not of its children), standard output.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **environment})
    out = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024, out.decode()


def report(name: str, figures: dict[str, Any], table: str, *, ending: str = "") -> None:
    """Print the table and one JSON line, and keep both beside the script: `NAME.out`, `NAME_full.out`, `NAME_bar.out`."""
    result = {"bench": name, **figures, "machine": machine()}
    text = f"{table}\n{json.dumps(result)}\n"
    sys.stdout.write(text)
    (HERE / f"{name}{ending}.out").write_text(text, encoding="utf-8")


__all__ = ["HERE", "machine", "report", "run"]

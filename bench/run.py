"""Run the bench scripts one after another; each writes its output beside itself. `python bench/run.py [NAME ...]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("startup", "demo", "predict_memory")


def main() -> int:
    """Run the named scripts, or all."""
    for name in sys.argv[1:] or SCRIPTS:
        sys.stdout.write(f"--- {name}\n")
        sys.stdout.flush()
        code = subprocess.run([sys.executable, str(Path(__file__).parent / f"{name}.py")], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

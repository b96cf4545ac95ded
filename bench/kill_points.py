"""B10: fits killed with SIGKILL at random moments and resumed, against the hub's Trainer: are the final weights the same bits?

    python bench/kill_points.py [--points 200] [--peer-points 48] [--seed 0]        writes bench/kill_points.out

Ours are the fits of tests/integration/kill_points.py, the peer's those of contestants/kill_trainer.py, in its own environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from environments import environment

HERE = Path(__file__).resolve().parent
OURS = HERE.parent / "tests" / "integration" / "kill_points.py"
PEER = HERE / "contestants" / "kill_trainer.py"


def main() -> None:
    """Run both and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--peer-points", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    single = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(environment("transformers")), str(PEER), "--points", str(asked.peer_points), "--seed", str(asked.seed)]
    peer = subprocess.run(command, env=single, stdout=subprocess.PIPE, text=True, check=True)
    outcomes = json.loads(peer.stdout.splitlines()[-1])["outcomes"]
    command = [sys.executable, str(OURS), "--points", str(asked.points), "--seed", str(asked.seed)]
    ours = subprocess.run(command, env=single, stdout=subprocess.PIPE, text=True, check=False)
    lines = [
        f"python bench/kill_points.py --points {asked.points} --peer-points {asked.peer_points} --seed {asked.seed}",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, one thread a side, Python {platform.python_version()}",
        "",
        "Regraft",
        ours.stdout.partition("\n\n")[2].rstrip() or f"ended with {ours.returncode}: {ours.stdout[-500:]}",
        "",
        "transformers Trainer",
        f"{'fit':64} points  bitwise equal  other weights  does not resume",
    ]
    total: Counter[str] = Counter()
    for name, found in [*outcomes.items(), ("all", total)]:
        total.update(found if name != "all" else {})
        numbers = [sum(found.values()), *(found.get(key, 0) for key in ("same", "differs", "does not resume"))]
        lines.append(f"{name:64} {numbers[0]:6d}  {numbers[1]:13d}  {numbers[2]:13d}  {numbers[3]:15d}")
    text = "\n".join(lines) + "\n"
    (HERE / "kill_points.out").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    sys.exit(ours.returncode)


if __name__ == "__main__":
    main()

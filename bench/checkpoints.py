"""What checkpoints cost: MiniLM, full fine-tuning on e-mails, checkpoints as often as it chooses by itself; then it is killed.

    python bench/checkpoints.py [--seconds 90]        writes bench/checkpoints.out

The fit is the command of a user in a process of its own. Counted are the seconds in which training stood still for a checkpoint
(writing the files) and those in which the disk was waited for beside training; then the process is killed and the command runs
again with `--resume`: counted are the seconds from the first line of training to the first update, which is what going on takes
beyond starting up, and, for comparison, the same of a fit from the start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA, TARGET = "spam", "label"


def child(out: str, resume: bool, seconds: float, report: str) -> None:
    """Fit in this process, note what checkpoints take, and die after so many seconds of training or the first update."""
    import regraft
    from regraft.artifact.run import RunFolder
    from regraft.artifact.run_keeper import RunKeeper

    noted: dict[str, list[float]] = {"stall_s": [], "disk_s": [], "mb": [], "begin_s": [], "first_step_s": [], "went_on_s": []}
    stage, finish, begin = RunFolder.stage, RunFolder.finish, RunKeeper.begin

    def timed_stage(self, state):
        began = time.perf_counter()
        staged = stage(self, state)
        noted["stall_s"].append(time.perf_counter() - began)
        noted["mb"].append(sum(size for size, _ in staged.entries.values()) / 1e6)
        return staged

    def timed_finish(self, staged, keep):
        began = time.perf_counter()
        finish(self, staged, keep)
        noted["disk_s"].append(time.perf_counter() - began)

    def timed_begin(self):
        began = time.perf_counter()
        found = begin(self)
        noted["went_on_s"].append(time.perf_counter() - began)
        return found

    RunFolder.stage, RunFolder.finish, RunKeeper.begin = timed_stage, timed_finish, timed_begin

    def listen(event):
        kind = type(event).__name__
        if kind == "BeginEvent":
            noted["begin_s"].append(event.seconds)
        if kind == "StepEvent":
            noted["first_step_s"] = noted["first_step_s"] or [event.seconds]
            if event.seconds > seconds or (resume and len(noted["first_step_s"]) == 1):
                noted["trained_s"] = [event.seconds]
                Path(report).write_text(json.dumps(noted))
                os._exit(0)

    if resume:
        regraft.fit(resume=out, listen=listen)
    else:
        regraft.fit(DATA, target=TARGET, out=out, train={"epochs": 20}, machine={"threads": 1}, listen=listen)


def run(out: str, folder: str, *, resume: bool, seconds: float) -> dict[str, list[float]]:
    """Run `child` and return what it noted."""
    import subprocess

    report = str(Path(folder) / "report.json")
    asked = [sys.executable, __file__, "--child", out, "--report", report, "--seconds", str(seconds)]
    subprocess.run([*asked, *(["--resume"] if resume else [])], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, list[float]] = json.loads(Path(report).read_text())
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--child")
    parser.add_argument("--report", default="")
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.resume, asked.seconds, asked.report)
        return
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "emails")
        first = run(out, folder, resume=False, seconds=asked.seconds)
        again = run(out, folder, resume=True, seconds=asked.seconds)
    stalls, trained = first["stall_s"], first["trained_s"][0]
    lines = [
        f"python bench/checkpoints.py --seconds {asked.seconds:g}",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, one thread, Python {platform.python_version()}",
        f"MiniLM, full fine-tuning on '{DATA}': {len(stalls)} checkpoints of {first['mb'][0]:.0f} MB in {trained:.0f} s",
        f"training stood still for {sum(stalls):.2f} s: {100 * sum(stalls) / trained:.2f} % ({max(stalls):.2f} s the longest)",
        f"the disk was waited for beside it: {sum(first['disk_s']):.2f} s",
        f"going on: {again['went_on_s'][0]:.2f} s to find, read and verify the checkpoint; first update",
        f"{again['first_step_s'][0]:.2f} s after training began, {first['first_step_s'][0]:.2f} s in the fit from the start",
        json.dumps({"first": first, "again": again}),
    ]
    (HERE / "checkpoints.out").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines[:-1]) + "\n")


if __name__ == "__main__":
    main()

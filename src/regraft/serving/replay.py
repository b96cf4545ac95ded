"""Replay an artifact's golden rows in a fresh process: the gate behind every write, and a check for any machine.

    python -m regraft.serving.replay ARTIFACT_DIR [--threads N] [--device cpu]

prints one JSON line and ends with 0 if the artifact answers as it did when it was judged, else with 1 (or 2 if it cannot be
opened). A fresh process shares nothing with the one that trained: what answers here answers anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from regraft.artifact.golden import Replay, replay
from regraft.errors import GateError, Problem, RegraftError
from regraft.models.unasked import keep_out
from regraft.options import JSON
from regraft.serving.parity import said_by
from regraft.serving.predictor import Predictor

TIMEOUT_S = 600.0


def replay_artifact(predictor: Predictor) -> Replay:
    """Replay the golden rows of the artifact that a predictor was loaded from, and check that its tensors are the judged ones.

    Raises:
        GateError: An answer or a tensor is not what it was.
    """
    result = replay(predictor, predictor.goldens(), predictor.task.same_answer)
    digest = predictor.runtime.weights_digest()
    artifact = predictor.artifact
    if digest and artifact is not None and digest != artifact.weights_digest:
        raise GateError(
            Problem(
                what="the tensors that were loaded are not the ones that were judged",
                where=str(artifact.path),
                got=f"weights digest {digest[:12]}...",
                expected=f"{artifact.weights_digest[:12]}...",
                fix="report this: saving or loading changes tensors",
            )
        )
    return result


def replay_in_fresh_process(
    path: Path, *, threads: int | None = None, device: str = "cpu", timeout_s: float = TIMEOUT_S
) -> dict[str, JSON]:
    """Start a new Python, load the artifact there, replay its golden rows.

    Args:
        path: Folder of the artifact.
        threads: Threads of the numeric libraries; the same as the goldens were made with gives the same bits.
        device: Where the network runs.
        timeout_s: Seconds after which the process is stopped.

    Returns:
        What the process printed: rows, worst, bitwise, same_environment, digest.

    Raises:
        GateError: The artifact does not answer as it did, cannot be opened, or the process died; with what it said.
    """
    command = [sys.executable, "-m", "regraft.serving.replay", str(path), "--device", device]
    if threads is not None:
        command += ["--threads", str(threads)]
    # Packages that were put on the path by hand (a notebook, a checkout) must be found there too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        fix = "try again when the machine is less busy, or with fewer threads"
        got = f"no answer after {timeout_s:g} s"
        what = "replaying the golden rows in a fresh process took too long"
        raise GateError(Problem(what=what, where=str(path), got=got, fix=fix)) from None
    except OSError as error:
        fix = "see why this Python cannot be started"
        what = "a fresh process could not be started"
        raise GateError(Problem(what=what, where=sys.executable, got=str(error), fix=fix)) from error
    return said_by(done, path, "replays the golden rows")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m regraft.serving.replay", description="Replay an artifact's golden rows.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args(arguments)
    said: dict[str, Any]
    try:
        predictor = Predictor.load(given.artifact, threads=given.threads, device=given.device)
        result = replay_artifact(predictor)
        digest = cast(Any, predictor.artifact).digest
        said, code = {"ok": True, **result.to_json(), "digest": digest}, 0
    except RegraftError as error:
        said, code = {"ok": False, "problems": [problem.to_json() for problem in error.problems]}, error.exit_code
    sys.stdout.write(json.dumps(said) + "\n")
    return code


if __name__ == "__main__":
    keep_out()
    sys.exit(main())

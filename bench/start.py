"""B6: from the start of a process to its first right answer, and to the end of `import regraft`.

    python bench/start.py [--full]

One e-mail, one artifact, one process a round: the clock runs from before the process is started to the line with the answer.
Ours is a script of three lines on an ONNX export in the environment that `regraft[runtime]` makes, every file of the artifact
verified; the peers are `transformers.pipeline` with the same weights, and the shortest script that runs the same ONNX file
with onnxruntime and tokenizers and verifies nothing. The export holds its weights in the ONNX file (`one file`) or beside it
(`two files`: mapped into memory, not copied). Files are in the memory of the system for all of them. Pictures are not measured:
there is no modality for them yet. The gate: every probability of every round within 1e-4 of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import measure
from environments import environment
from figures import Bar, Gate, Round, same_answers
from fits import BASE, open_base
from harness import CONTESTANTS, ONE_CORE, Contestant, ContestantError, Form, Rounds, compete, form_from_arguments, say
from rows import MAX_LENGTH, write_texts
from standings import Standing, standing, table

TOLERANCE = 1e-4
MADE_FROM = 200
ONE_FILE, TWO_FILES = "one file", "two files"
MIXES: dict[str, Any] = {ONE_FILE: "onnx", TWO_FILES: {"name": "onnx", "external_data": True}}
SOURCE = Path(__file__).parents[1] / "src"
PIPELINE, BARE, PASS = "transformers pipeline", "bare onnxruntime", "python -c pass"
OURS, IMPORT, OURS_TORCH = "ours", "import regraft", "ours, torch"


def slower(ours: Round, peer: Round) -> float:
    """Return our time / the peer's."""
    return ours.wall_s / peer.wall_s


def seconds(ours: Round, _: Round) -> float:
    """Return our time."""
    return ours.wall_s


BARS = {
    PIPELINE: Bar(
        name="B6a", what="start to first answer; transformers pipeline", goal=0.25, floor=0.40, higher_is_better=False
    ),
    BARE: Bar(name="B6b", what="start to first answer; bare onnxruntime", goal=1.3, floor=1.6, higher_is_better=False),
    PASS: Bar(name="B6c", what="import regraft", goal=0.25, floor=0.5, higher_is_better=False, unit=" s"),
}


@dataclass(frozen=True)
class Start:
    """How a process is started.

    Args:
        command: The whole command line.
        source: Whether our sources are on its path.
    """

    command: tuple[str, ...]
    source: bool = False

    def round(self, core: int) -> Round:
        """Start it and return how long its first line took."""
        environment_ = {**os.environ, **ONE_CORE}
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):  # an installed package is compiled already
            environment_.pop(name, None)
        if self.source:
            environment_["PYTHONPATH"] = str(SOURCE)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
            began = time.perf_counter()
            process = subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment_,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
            line = process.stdout.readline() if process.stdout else ""
            took = time.perf_counter() - began
            process.communicate()
            errors.seek(0)
            if process.returncode or not line:
                raise ContestantError(f"{' '.join(self.command)} failed:\n{errors.read()[-3000:]}")
        said = json.loads(line)
        return Round(wall_s=took, cpu_s=said.pop("cpu_s"), facts=said)


def named(contestant: str, mix: str) -> str:
    """Return what a contestant is called on one form of the export."""
    return f"{contestant}, {mix}"


def starts(artifact: Path, exports: dict[str, Path], labels: list[str], text: Path) -> dict[str, Start]:
    """Return every contestant by name."""
    ours, hub, bare = (environment(name) for name in ("regraft-runtime", "transformers", "onnxruntime"))
    said = "import sys, time; print('{\"cpu_s\": %f}' % time.process_time(), flush=True)"
    torch_there = "import regraft; assert 'torch' not in __import__('sys').modules; "
    asked = (str(text), str(MAX_LENGTH))

    def script(python: Path | str, name: str, *arguments: str) -> tuple[str, ...]:
        return (str(python), str(CONTESTANTS / f"start_{name}.py"), *arguments)

    made: dict[str, Start] = {}
    for mix, export in exports.items():
        made[named(OURS, mix)] = Start(script(ours, "ours", str(export), str(text)), source=True)
        model, preprocessing = str(export / "network" / "model.onnx"), str(export / "preprocessing")
        made[named(BARE, mix)] = Start(script(bare, "bare", model, preprocessing, *asked))
    return {
        **made,
        PIPELINE: Start(script(hub, "pipeline", str(artifact), json.dumps(labels), *asked)),
        OURS_TORCH: Start(script(sys.executable, "ours", str(artifact), str(text)), source=True),
        IMPORT: Start((str(ours), "-c", torch_there + said), source=True),
        PASS: Start((str(ours), "-c", said)),
    }


def prepare(folder: Path, form: Form) -> tuple[Path, dict[str, Path], list[str], Path]:
    """Fit an artifact, export it in each form, and write the e-mail that everybody answers."""
    texts = write_texts("lognormal", MADE_FROM, 2, open_base() / "tokenizer.json", folder, 7)
    mail = write_texts("real", 2, 2, open_base() / "tokenizer.json", folder, 3)
    text = folder / "mail.txt"
    text.write_text(json.loads(mail.train.read_text(encoding="utf-8").splitlines()[0])["text"], encoding="utf-8")
    artifact, exports = folder / "artifact", {mix: folder / mix.replace(" ", "-") for mix in form.mixes}
    with Contestant("ours_predict.py", core=form.core) as ours:
        asked = {"base": BASE, "train": str(texts.train), "few": str(texts.few), "out": str(artifact)}
        labels = ours.ask("make", **asked, max_length=MAX_LENGTH)["labels"]
        for mix, export in exports.items():
            ours.ask("export", artifact=str(artifact), to=str(export), format=MIXES[mix])
    return artifact, exports, labels, text


def gate(rounds: Rounds, ours: str, peer: str) -> Gate:
    """Compare the answers of the last round."""
    answers = [np.array([rounds[name][-1].facts["probabilities"]]) for name in (ours, peer)]
    return same_answers(answers[0], answers[1], TOLERANCE)


def contest(made: dict[str, Start], form: Form) -> tuple[list[Standing], Rounds]:
    """Let all start in turn and return where the bars stand."""
    pairs = [
        (bar, mix, named(OURS, mix), PIPELINE if bar is BARS[PIPELINE] else named(BARE, mix))
        for mix in form.mixes
        for bar in (BARS[PIPELINE], BARS[BARE])
    ]
    gates: dict[tuple[str, str], list[Gate]] = {(ours, peer): [] for _, _, ours, peer in pairs}

    def check(taken: Rounds) -> None:
        for pair, found in gates.items():
            found.append(gate(taken, *pair))

    rounds = compete({name: lambda _, one=one: one.round(form.core) for name, one in made.items()}, form, check)
    worst = {pair: next((one for one in found if one.state == "void"), found[-1]) for pair, found in gates.items()}
    found = [standing(bar, mix, (rounds[ours], rounds[peer]), worst[ours, peer], slower) for bar, mix, ours, peer in pairs]
    light = Gate(state="passed", text="torch is not imported")
    return [*found, standing(BARS[PASS], "import", (rounds[IMPORT], rounds[PASS]), light, seconds)], rounds


def main() -> None:
    """Measure."""
    form = form_from_arguments(tuple(MIXES), __doc__)
    with tempfile.TemporaryDirectory() as name:
        artifact, exports, labels, text = prepare(Path(name), form)
        say(f"one e-mail of {len(text.read_text(encoding='utf-8'))} characters")
        made = starts(artifact, exports, labels, text)
        found, rounds = contest(made, form)
    medians: dict[str, Any] = {
        name: round(float(np.median([one.wall_s for one in taken])), 3) for name, taken in rounds.items()
    }
    notes = [f"{name:<26} {value:6.3f} s  (median of {len(rounds[name])})" for name, value in medians.items()]
    figures = {"standings": [one.to_json() for one in found], "median_s": medians}
    measure.report("start", {"form": form.to_json()} | figures, table(form, found, *notes), ending=form.ending)


if __name__ == "__main__":
    main()

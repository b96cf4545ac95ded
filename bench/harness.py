"""Contestants in turn: each a process in an environment of its own, one thread, one core, alive over all rounds.

A contestant is a script in `contestants/` that answers JSON lines (`contestants/speak.py`). The rounds interleave A B A B, so
that whatever happens to the machine happens to all. Rounds in which somebody else had the core are dropped and counted, and
made up for, up to twice as many rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from figures import Round

CONTESTANTS = Path(__file__).parent / "contestants"
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_LONG = ("real",)
_QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits shall not burn the core of the other contestant
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONWARNINGS": "ignore",
}
ONE_CORE = {**dict.fromkeys(_ONE_THREAD, "1"), **_QUIET}
"""What a contestant finds in its environment."""


class ContestantError(RuntimeError):
    """A contestant could not do what it was asked to."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How much is measured.

    Args:
        full: Whether this is the long form, whose figures may be claimed.
        rounds: Rounds that count.
        warm_ups: Rounds before them.
        scale: By what the numbers of rows are multiplied.
        mixes: Which length mixes.
        core: The core that all contestants share.
        load_before: Processes that wanted a core in the minute before.
        tries: Most rounds are taken, as a multiple of those that count, when rounds are disturbed.
        bar_size: Whether there is also one run at the size that the bar names; many minutes.
    """

    full: bool
    rounds: int
    warm_ups: int
    scale: float
    mixes: tuple[str, ...]
    core: int
    load_before: float = 0.0
    tries: int = 2
    bar_size: bool = False

    @property
    def ending(self) -> str:
        """What the name of the output ends with."""
        if not self.full:
            return ""
        return "_full" if self.mixes else "_bar"

    def once(self) -> Form:
        """Return a single round that is taken as it comes, for sizes that take many minutes."""
        return replace(self, rounds=1, warm_ups=0, tries=1)

    def rows(self, mix: str, short: int, full: int) -> int:
        """Return how many rows of a mix are worked on, from the size of each form; half as many where texts are long."""
        share = self.scale * (0.5 if mix in _LONG else 1.0)
        return max(8, round(share * (full if self.full else short)))

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the JSON."""
        return {**asdict(self), "mixes": list(self.mixes), "threads": 1}

    def describe(self) -> str:
        """Return one line for the head of a table."""
        kind = "full form" if self.full else "SHORT FORM: few rounds, small sizes, a look and not a claim"
        return (
            f"{kind}; {self.rounds} rounds after {self.warm_ups}, core {self.core}, one thread, load before {self.load_before}"
        )


def form_from_arguments(mixes: tuple[str, ...], what: str | None) -> Form:
    """Read `--full`, `--rounds`, `--warm-ups`, `--scale`, `--mixes`, `--no-bar-size`, `--only-bar-size` and `--core`."""
    parser = argparse.ArgumentParser(description=(what or "").split("\n\n")[0])
    parser.add_argument("--full", action="store_true", help="nine rounds at larger sizes, and the run at the bar's own size")
    parser.add_argument("--rounds", type=int, help="rounds that count (3, full 9)")
    parser.add_argument("--warm-ups", type=int, help="rounds before them (1, full 2)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of rows")
    parser.add_argument("--mixes", default=",".join(mixes), help="length mixes, with commas between")
    parser.add_argument("--no-bar-size", action="store_true", help="with --full: leave out the run at the bar's own size")
    parser.add_argument("--only-bar-size", action="store_true", help="nothing but the run at the bar's own size")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="core that the contestants share")
    given = parser.parse_args()
    chosen = tuple(given.mixes.split(",")) if not given.only_bar_size else ()
    if unknown := set(chosen) - set(mixes):
        parser.error(f"unknown mix {', '.join(sorted(unknown))}: there are {', '.join(mixes)}")
    return Form(
        full=given.full or given.only_bar_size,
        rounds=given.rounds or (9 if given.full else 3),
        warm_ups=(2 if given.full else 1) if given.warm_ups is None else given.warm_ups,
        scale=given.scale,
        mixes=chosen,
        core=given.core,
        load_before=round(os.getloadavg()[0], 2),
        bar_size=given.only_bar_size or (given.full and not given.no_bar_size),
    )


class Contestant:
    """A process that answers requests.

    Args:
        script: File name in `contestants/`.
        python: Interpreter of its environment; this one if not given.
        core: Core it is pinned to.
    """

    def __init__(self, script: str, *, python: Path | None = None, core: int) -> None:
        self.script = script
        environment = {**os.environ, **ONE_CORE}
        if python is not None:
            environment.pop("PYTHONPATH", None)  # what stands there is meant for our interpreter
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [str(python or sys.executable), str(CONTESTANTS / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            # Pinned before it starts: libraries count the cores they may use when they are imported.
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            ContestantError: It failed; the end of what it said is shown.
        """
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise ContestantError(f"{self.script} failed at '{do}':\n{answer['error']}")
        return answer

    def round(self, **request: Any) -> Round:
        """Return what one round took."""
        answer = self.ask("round", **request)
        return Round(wall_s=answer["wall_s"], cpu_s=answer["cpu_s"], facts=answer["facts"])

    def _last_words(self) -> str:
        self._process.wait(timeout=20)
        self._errors.seek(0)
        return f"exit code {self._process.returncode}\n{self._errors.read()[-3000:]}"


Turn = Callable[[int], Round]
Rounds = dict[str, list[Round]]


def compete(turns: Mapping[str, Turn], form: Form, check: Callable[[Rounds], None] = lambda _: None) -> Rounds:
    """Let contestants take turns.

    Args:
        turns: Name -> what is done in a round, called with its number (warm-ups count down from -1).
        form: How many rounds.
        check: Called with the rounds after each one, the first warm-up included; raises where answers are not the same.

    Returns:
        Name -> its rounds after the warm-ups, the same number for all: until `form.rounds` are undisturbed, at most
        `form.tries` times as many.
    """
    rounds: Rounds = {name: [] for name in turns}
    for number in _numbers(form, rounds):
        taken = {name: turn(number) for name, turn in turns.items()}
        check({name: [round_] for name, round_ in taken.items()})
        if number >= 0:
            for name, round_ in taken.items():
                rounds[name].append(round_)
        say("  " + ("warm-up" if number < 0 else f"round {number + 1}") + "".join(_shown(*item) for item in taken.items()))
    return rounds


def _numbers(form: Form, rounds: Rounds) -> Iterator[int]:
    yield from range(-form.warm_ups, 0)
    for number in range(form.tries * form.rounds):
        counted = sum(not any(round_.disturbed for round_ in taken) for taken in zip(*rounds.values(), strict=True))
        if counted >= form.rounds:
            return
        yield number


def _shown(name: str, round_: Round) -> str:
    return f" | {name} {round_.wall_s:.2f} s" + (" (disturbed)" if round_.disturbed else "")


def say(text: str) -> None:
    """Tell the person who waits; tables and results are printed by `measure.report`."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


__all__ = [
    "CONTESTANTS",
    "ONE_CORE",
    "Contestant",
    "ContestantError",
    "Form",
    "Rounds",
    "compete",
    "form_from_arguments",
    "say",
]

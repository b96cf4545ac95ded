"""Hold an exported artifact against its source, in a fresh process that has only what serving the export needs.

    python -m regraft.serving.parity EXPORT_DIR EXPECTED_DIR --runtime onnxruntime --threads 1 --without torch,transformers

prints one JSON line and ends with 0 if every row is answered as the source answered it, else with 1. Three things are held
against each other for every row, so that a difference is named where it arises: what the preprocessing made of it, the raw
output of the network, and the decoded answer (names in order, probabilities, value).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from regraft.artifact.golden import record
from regraft.errors import GateError, Problem, RegraftError
from regraft.options import JSON
from regraft.serving.absent import hide
from regraft.tasks.task import decided
from regraft.types import Encoded, FloatArray, Prediction

if TYPE_CHECKING:
    from regraft.serving.predictor import Predictor

LOGITS, PROBABILITIES, AGREEMENT = 1e-4, 1e-5, 0.99
TIMEOUT_S = 900.0
GOLDENS = "goldens"
"""Under this name an export of reduced precision says how it answers the golden rows."""
_ROWS, _ARRAYS = "rows.json", "outputs.npy"
_ALONE = 16
"""So many rows are also answered one at a time: a form with fixed shapes would show."""
_SHOWN_CHARACTERS = 4000


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far answers may move.

    Args:
        logits: Largest difference of a raw output, relative to the row's largest one where that is above 1.
        probabilities: Largest difference of a probability.
        agreement: Smallest share of rows with the same answer (numbers: within a tenth of the target's deviation); 1 asks for
            the same order of all classes too, and for numbers no further apart than their raw outputs.
    """

    logits: float
    probabilities: float
    agreement: float

    @classmethod
    def of(cls, precision: str, steepness: float = 1.0) -> Self:
        """Return the tolerance for full ("fp32") or for reduced precision, where only answers count.

        Args:
            precision: Of the export.
            steepness: By what factor calibrating lets a move grow (`Task.steepness`); raw outputs may move no more for it.
        """
        if precision == "fp32":
            return cls(logits=LOGITS, probabilities=PROBABILITIES * steepness, agreement=1.0)
        return cls(logits=float("inf"), probabilities=float("inf"), agreement=AGREEMENT)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Rows and everything that was made of them.

    Args:
        rows: Raw values (JSON).
        encoded: For each row a digest of what the preprocessing made of it.
        outputs: Raw outputs (N, ...), float32.
        names: Names of the classes, in order.
        probabilities: (N, C), float64; (N, 0) where a task has none.
        values: The answers.
        truth: What each row's answer should be, None where that is not known; empty where it is known of none.
    """

    rows: Sequence[JSON]
    encoded: Sequence[str]
    outputs: FloatArray
    names: Sequence[str]
    probabilities: FloatArray
    values: Sequence[JSON]
    truth: Sequence[JSON] = ()

    @classmethod
    def of(cls, predictor: Predictor, rows: Sequence[Any], *, batch_size: int = 32, truth: Sequence[JSON] = ()) -> Self:
        """Answer rows."""
        outputs, predictions = predictor.answers(rows, batch_size=batch_size)
        names = list(predictions[0].probabilities) if predictions else []
        raws, _ = predictor.raws(rows)
        return cls(
            rows=list(rows),
            encoded=[encoded_digest(row) for row in predictor.modality.encode(raws, spans=False)],
            outputs=outputs,
            names=names,
            probabilities=np.array([[p.probabilities[n] for n in names] for p in predictions], dtype=np.float64),
            values=[prediction.value for prediction in predictions],
            truth=truth,
        )

    def save(self, folder: Path) -> None:
        """Write them into an existing folder."""
        said = {"rows": self.rows, "encoded": self.encoded, "names": self.names, "values": self.values}
        said |= {"truth": list(self.truth)} if self.truth else {}
        (folder / _ROWS).write_text(json.dumps({**said, "probabilities": self.probabilities.tolist()}), encoding="utf-8")
        np.save(folder / _ARRAYS, self.outputs, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        said = json.loads((folder / _ROWS).read_text(encoding="utf-8"))
        probabilities = np.array(said.pop("probabilities"), dtype=np.float64)
        return cls(**said, probabilities=probabilities, outputs=np.load(folder / _ARRAYS, allow_pickle=False))


class Rules(Protocol):
    """What a task says about answers; `Task` says it."""

    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        """Return whether two answers agree, where what they are made of may differ by `near`."""

    def alike(self, was: JSON, now: JSON) -> bool:
        """Return whether two values count as the same under reduced precision."""

    def cost(self, truth: JSON, value: JSON) -> float:
        """Return how bad a value is where another one is true; NaN where nothing can be said."""


class _RightOrWrong:
    def same_answer(self, was: Prediction, now: Prediction, near: float) -> bool:
        return was.value == now.value or not decided(was.probabilities, near)

    def alike(self, was: JSON, now: JSON) -> bool:
        return bool(was == now)

    def cost(self, truth: JSON, value: JSON) -> float:
        return float(truth != value)


def encoded_digest(row: Encoded) -> str:
    """Return the digest of the arrays of an encoded row, by name, type and shape."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(row.arrays().items()):
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def difference(expected: Answers, got: Answers, tolerance: Tolerance, rules: Rules | None = None) -> dict[str, JSON]:
    """Hold answers against those of the source.

    Args:
        expected: What the source answered.
        got: What the export answered.
        tolerance: How far answers may move.
        rules: When two answers count as the same, and how bad one is: the task; by default answers are right or wrong.

    Returns:
        rows, worst_logit, worst_probability, agreement, bitwise.

    Raises:
        GateError: They moved further than the tolerance; names the worst row and in which step it moved.
    """
    if not len(expected.rows):
        fix = "name rows with --rows DATA"
        raise GateError(Problem(what="there is no row to hold the export against its source with", fix=fix))
    _same_rows(expected, got)
    if list(expected.names) != list(got.names):
        raise _refused("the labels stand in another order", "", ", ".join(got.names[:10]), ", ".join(expected.names[:10]))
    _finite(expected, got)
    logits = _moves(expected.outputs, got.outputs, relative=True)
    shares = _moves(expected.probabilities, got.probabilities, relative=False)
    rules = rules or _RightOrWrong()
    same = np.array([rules.alike(theirs, mine) for mine, theirs in zip(got.values, expected.values, strict=True)])
    _within(expected, got, logits, tolerance.logits, "a raw output")
    if tolerance.agreement == 1.0:
        _same_order(expected, got, tolerance, rules)
    elif same.mean() < tolerance.agreement:
        what = f"only {same.mean():.2%} of the rows are answered alike"
        raise _moved(expected, got, int(np.argmin(same)), what, f"at least {tolerance.agreement:.0%}")
    _within(expected, got, shares, tolerance.probabilities, "a probability")
    judged = _as_right(expected, got, rules) if tolerance.agreement < 1.0 else {}
    return {
        "rows": len(expected.rows),
        "worst_logit": float(logits.max(initial=0.0)),
        "worst_probability": float(shares.max(initial=0.0)),
        "agreement": float(same.mean()),
        "bitwise": bool(np.array_equal(expected.outputs, got.outputs)),
        **judged,
        "tolerance": {key: (value if np.isfinite(value) else None) for key, value in asdict(tolerance).items()},
    }


def _as_right(expected: Answers, got: Answers, rules: Rules) -> dict[str, JSON]:
    """Return how good the answers are before and after; refuses what is worse than the interval of the source allows."""
    known = [row for row, truth in enumerate(expected.truth) if truth is not None]
    costs_2K = np.array([[rules.cost(expected.truth[row], one.values[row]) for row in known] for one in (expected, got)])
    sound = np.flatnonzero(~np.isnan(costs_2K.sum(axis=0)))
    if not len(sound):
        return {}
    known, costs_2K = [known[place] for place in sound], costs_2K[:, sound]
    if np.isin(costs_2K, (0.0, 1.0)).all():
        return _as_often_right(expected, got, known, costs_2K)
    return _as_near(expected, got, known, costs_2K)


def _as_often_right(expected: Answers, got: Answers, known: Sequence[int], costs_2K: FloatArray) -> dict[str, JSON]:
    from regraft.evaluation.shares import wilson

    before, after = (int((costs_K == 0).sum()) for costs_K in costs_2K)
    low, high = wilson(before, len(known))
    if after < low * len(known):
        lost = known[int(np.argmax(costs_2K[1] > costs_2K[0]))]
        what = f"of {len(known):,} rows whose answer is known only {after:,} are answered rightly, {before:,} before"
        raise _moved(expected, got, lost, what, f"at least {low:.2%}, the low end of the source's interval")
    return {"right": {"rows": len(known), "source": before, "export": after, "interval": [low, high]}}


def _as_near(expected: Answers, got: Answers, known: Sequence[int], costs_2K: FloatArray) -> dict[str, JSON]:
    """Hold mean distances from the truth against each other; the interval is the normal one of the source's mean."""
    from regraft.evaluation.shares import quantile_of_normal

    before, after = (float(mean) for mean in costs_2K.mean(axis=1))
    half = quantile_of_normal(0.975) * float(costs_2K[0].std()) / np.sqrt(len(known))
    low, high = before - half, before + half
    if after > high:
        lost = known[int(np.argmax(costs_2K[1] - costs_2K[0]))]
        what = f"over {len(known):,} rows whose answer is known the mean distance from it is {after:.6g}, {before:.6g} before"
        raise _moved(expected, got, lost, what, f"at most {high:.6g}, the high end of the source's interval")
    return {"distance": {"rows": len(known), "source": before, "export": after, "interval": [low, high]}}


def _same_rows(expected: Answers, got: Answers) -> None:
    """Refuse a preprocessing that makes other arrays of a row, and outputs of another shape."""
    for row, (mine, theirs) in enumerate(zip(got.encoded, expected.encoded, strict=True)):
        if mine != theirs:
            raise _refused("the preprocessing makes other arrays of a row", _shown(expected.rows[row], row), mine, theirs)
    if expected.outputs.shape != got.outputs.shape or expected.probabilities.shape != got.probabilities.shape:
        shapes = f"{got.outputs.shape}, {got.probabilities.shape}", f"{expected.outputs.shape}, {expected.probabilities.shape}"
        raise _refused("the outputs have another shape", "", *shapes)


def _finite(expected: Answers, got: Answers) -> None:
    """Refuse what is not a number, whatever the tolerance: no difference to it can be told."""
    for row in range(len(expected.rows)):
        for answers, whose in ((expected, "the source"), (got, "the export")):
            if not (np.isfinite(answers.outputs[row]).all() and np.isfinite(answers.probabilities[row]).all()):
                raise _moved(expected, got, row, f"{whose} gives something that is not a finite number", "finite numbers")


def _within(expected: Answers, got: Answers, moved: FloatArray, limit: float, what: str) -> None:
    worst = int(np.argmax(moved))
    if not moved[worst] <= limit:
        raise _moved(expected, got, worst, f"{what} moved by {moved[worst]:.3g}", f"at most {limit:g}")


def _moves(expected: FloatArray, got: FloatArray, *, relative: bool) -> FloatArray:
    """Return how far each row moved (N,)."""
    flat = [np.asarray(values, dtype=np.float64).reshape(len(values), -1) for values in (expected, got)]
    scale_N = np.maximum(1.0, np.abs(flat[0]).max(axis=1, initial=0.0)) if relative else 1.0
    moved_N: FloatArray = np.abs(flat[0] - flat[1]).max(axis=1, initial=0.0) / scale_N
    return moved_N


def _same_order(expected: Answers, got: Answers, tolerance: Tolerance, rules: Rules) -> None:
    """Refuse classes in another order, unless two of them are so close that a move within the tolerance swaps them."""
    near = tolerance.probabilities
    for row, (was, now) in enumerate(zip(expected.probabilities, got.probabilities, strict=True)):
        order = np.argsort(-now, kind="stable")
        # Walking down the new order, the old probability may never rise by more than two moves.
        if np.any(np.diff(was[order]) > 2 * near):
            raise _moved(expected, got, row, "the classes are in another order", "the same order")
    # Numbers follow raw outputs; classes follow probabilities.
    far = near if expected.probabilities.size else tolerance.logits
    for row in range(len(expected.rows)):
        if not rules.same_answer(_prediction(expected, row), _prediction(got, row), far):
            raise _moved(expected, got, row, "a row is answered otherwise", "the same answer")


def _prediction(answers: Answers, row: int) -> Prediction:
    shares = dict(zip(answers.names, answers.probabilities[row].tolist(), strict=True))
    return Prediction(value=answers.values[row], probabilities=shares, logits=answers.outputs[row].ravel().tolist())


def _moved(expected: Answers, got: Answers, row: int, what: str, limit: str) -> GateError:
    def told(answers: Answers) -> str:
        shares = dict(zip(answers.names, np.round(answers.probabilities[row], 6).tolist(), strict=True))
        return f"{answers.values[row]!r} {shares or answers.outputs[row].ravel()[:8].tolist()}"

    return _refused(what, _shown(expected.rows[row], row), told(got), f"{told(expected)}; {limit}")


def _shown(raw: JSON, row: int) -> str:
    text = json.dumps(raw, ensure_ascii=False)
    return f"row {row + 1}: " + (text if len(text) <= 120 else text[:117] + "...")


def _refused(what: str, where: str, got: str, expected: str) -> GateError:
    fix = "nothing was written; export in another format (regraft list exporters), or report this with the artifact's options"
    what = f"the export does not answer as its source: {what}"
    return GateError(Problem(what=what, where=where, got=got, expected=expected, fix=fix))


def compare_export(export: Predictor, expected: Answers, tolerance: Tolerance) -> dict[str, JSON]:
    """Answer the expected rows with an export, in batches and some of them one at a time, and hold the answers against them.

    Raises:
        GateError: An answer moved too far.
    """
    found = difference(expected, Answers.of(export, list(expected.rows)), tolerance, export.task)
    few = _first(expected, _ALONE)
    alone = difference(few, Answers.of(export, list(few.rows), batch_size=1), tolerance, export.task)
    moved: dict[str, Any] = {key: max(found[key], alone[key]) for key in ("worst_logit", "worst_probability")}
    found = {**found, **moved, "environment": export.environment()}
    return found if tolerance.agreement == 1.0 else {**found, GOLDENS: _renewed(export, found)}


def _renewed(export: Predictor, found: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the golden rows with the answers of an export of reduced precision."""
    goldens = record(export, export.goldens().rows, export.modality.shortened, export.task.steepness)
    moved = max(goldens.tolerance, found["worst_probability"] or found["worst_logit"])
    return replace(goldens, tolerance=moved).to_json()


def _first(answers: Answers, count: int) -> Answers:
    return Answers(
        rows=answers.rows[:count],
        encoded=answers.encoded[:count],
        outputs=answers.outputs[:count],
        names=answers.names,
        probabilities=answers.probabilities[:count],
        values=answers.values[:count],
        truth=answers.truth[:count],
    )


def compare_in_fresh_process(
    export: Path, expected: Path, *, runtime: str, threads: int, precision: str = "fp32", without: frozenset[str] = frozenset()
) -> dict[str, JSON]:
    """Start a new Python that cannot import `without`, load the export there and hold it against the expected answers.

    Args:
        export: Folder of the export, with a manifest.
        expected: Folder that `Answers.save` wrote.
        runtime: Registered name of what computes the network.
        threads: Threads of the numeric libraries.
        precision: See `Tolerance.of`.
        without: Packages that the new Python must do without.

    Returns:
        What `compare_export` found there.

    Raises:
        GateError: An answer moved too far, the export cannot be opened, or the process died; with what it said.
    """
    command = [sys.executable, "-m", "regraft.serving.parity", str(export), str(expected), "--runtime", runtime]
    command += ["--threads", str(threads), "--precision", precision, "--without", ",".join(sorted(without))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        fix = "try again when the machine is less busy, or with fewer --sample rows"
        got = f"no answer after {TIMEOUT_S:g} s"
        raise GateError(Problem(what="holding the export against its source took too long", got=got, fix=fix)) from None
    except OSError as error:
        what, fix = "a fresh process could not be started", "see why this Python cannot be started"
        raise GateError(Problem(what=what, where=sys.executable, got=str(error), fix=fix)) from error
    return said_by(done, export, "holds the export against its source")


def said_by(done: subprocess.CompletedProcess[str], where: Path, doing: str) -> dict[str, JSON]:
    """Return the JSON line that a process which judges an artifact printed last.

    Raises:
        GateError: It refused the artifact, or died.
    """
    lines = done.stdout.strip().splitlines()
    try:
        last = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = None
    said: dict[str, JSON] = last if isinstance(last, dict) else {}
    if done.returncode == 0 and said.pop("ok", False):
        return said
    if "problems" in said:
        raise GateError([Problem(**problem) for problem in said["problems"]])
    ended = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    told = done.stderr.strip()[-_SHOWN_CHARACTERS:] or "it said nothing"
    what, fix = f"the fresh process that {doing} died", "see the message above; the artifact was not accepted"
    raise GateError(Problem(what=what, where=str(where), got=f"{ended}: {told}", fix=fix))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m regraft.serving.parity", description="Hold an export against its source.")
    parser.add_argument("export", type=Path)
    parser.add_argument("expected", type=Path)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "reduced"), default="fp32")
    parser.add_argument("--without", default="")
    given = parser.parse_args(arguments)
    hide(filter(None, given.without.split(",")))
    said: Mapping[str, Any]
    try:
        from regraft.serving.predictor import Predictor

        predictor = Predictor.load(given.export, runtime=given.runtime, threads=given.threads, device="cpu")
        found = compare_export(predictor, Answers.load(given.expected), Tolerance.of(given.precision, predictor.task.steepness))
        said, code = {"ok": True, **found}, 0
    except RegraftError as error:
        said, code = {"ok": False, "problems": [problem.to_json() for problem in error.problems]}, error.exit_code
    sys.stdout.write(json.dumps(said) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

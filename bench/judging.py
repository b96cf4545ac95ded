"""Do intervals hold the truth, do tests call equal models different, do they find what they say they would find?

    python bench/judging.py [--sets 500] [--seed 0]        writes bench/judging.out

Sets of rows are drawn from worlds whose truth is known: answers of two and three classes (accuracy, F1, ROC-AUC) and numbers
with normal and with skewed errors (MAE), few and many rows, and rows in groups. Counted are the intervals of 95 % that hold the
truth, by the very functions that write reports, and beside them plain percentile intervals; then verdicts other than "no
evidence" on pairs of equally good models; then how often a true difference is found on as many rows as `rows_needed` asks for,
and on those for which it is the smallest detectable one.

Goals: coverage from 0.93 to 0.97; false verdicts at most 0.05 and two standard errors of a share of so many pairs; power within
three standard errors of 0.8, or above.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from regraft.evaluation import METRICS
from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.compare import compare_right, rows_needed, smallest_detectable
from regraft.evaluation.intervals import percentile, resample_weights
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import compare_by
from regraft.evaluation.seeds import compare_seeds
from regraft.types import Array, FloatArray

HERE = Path(__file__).resolve().parent
OPTIONS = JudgeOptions(resamples=600)
LOW, HIGH = 0.93, 0.97
BIG = 400_000
World = Callable[[np.random.Generator, int], tuple[Array, FloatArray]]


def classes(classes: int, shift: float, shares: tuple[float, ...]) -> World:
    """Return a world of classes: probabilities from normal logits, the true class's raised."""

    def draw(rng: np.random.Generator, rows: int) -> tuple[Array, FloatArray]:
        targets = rng.choice(classes, rows, p=shares)
        logits = rng.normal(size=(rows, classes))
        logits[np.arange(rows), targets] += shift
        raised = np.exp(logits)
        return targets, raised / raised.sum(axis=1, keepdims=True)

    return draw


def numbers(*, skewed: bool) -> World:
    """Return a world of numbers: errors normal, or exponential with a long tail."""

    def draw(rng: np.random.Generator, rows: int) -> tuple[Array, FloatArray]:
        truth = rng.normal(size=rows)
        errors = rng.standard_exponential(rows) if skewed else rng.normal(size=rows)
        return truth, (truth + errors)[:, None]

    return draw


def coverage(kind_name: str, world: World, names: tuple[str, ...], rows: int, sets: int, seed: int) -> Iterator[str]:
    """Yield one line a metric: how often its interval holds the value on very many rows of the same world."""
    targets, outputs = world(np.random.default_rng(10**6 + seed), BIG)
    kind = kind_of(kind_name, [str(k) for k in range(outputs.shape[1])] if kind_name == "classes" else ())
    measures = {name: METRICS.get(name).of(kind) for name in names}
    truth = {name: measure.value(targets, outputs) for name, measure in measures.items()}
    held, before = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for number in range(sets):
        rng = np.random.default_rng((seed, rows, number))
        targets, outputs = world(rng, rows)
        found = kind.judge(names, *kind.checked(targets, outputs), options=OPTIONS, seed=number).metrics
        drawn = list(resample_weights(rows, OPTIONS.resamples, rng))
        for name, measure in measures.items():
            held[name] += found[name].low <= truth[name] <= found[name].high
            low, high = percentile(np.concatenate([measure.values(targets, outputs, w) for w in drawn]), 0.95)
            before[name] += low <= truth[name] <= high
    for name in names:
        share = held[name] / sets
        met = "" if LOW <= share <= HIGH else "   MISSED"
        yield f"  {name:<18} n = {rows:>5,}   {share:.3f}   (percentile {before[name] / sets:.3f}){met}"


def grouped(groups: int, size: int, sets: int, seed: int) -> str:
    """Return how often the accuracy's interval over groups holds the truth where rows of a group err together."""
    kind, held, alone = kind_of("classes", ["a", "b"]), 0, 0
    codes = np.repeat(np.arange(groups), size)
    for number in range(sets):
        rng = np.random.default_rng((seed, groups, number))
        easy = np.clip(rng.normal(0.75, 0.15, groups), 0, 1)
        targets = rng.integers(0, 2, groups * size)
        right = rng.random(groups * size) < easy[codes]
        outputs = np.where((np.arange(2) == targets[:, None]) == right[:, None], 0.9, 0.1)
        ends = [
            kind.judge(["accuracy"], targets, outputs, options=OPTIONS, groups_N=g).metrics["accuracy"] for g in (codes, None)
        ]
        held += ends[0].low <= TRUE_OF_GROUPS <= ends[0].high
        alone += ends[1].low <= TRUE_OF_GROUPS <= ends[1].high
    share = held / sets
    met = "" if LOW <= share <= HIGH else "   MISSED"
    return f"  accuracy, {groups} groups of {size}     {share:.3f}   (rows by themselves {alone / sets:.3f}){met}"


TRUE_OF_GROUPS = float(np.clip(np.random.default_rng(0).normal(0.75, 0.15, 4_000_000), 0, 1).mean())


def false_verdicts(name: str, rows: int, pairs: int, seed: int) -> str:
    """Return how often two equally good models of one world are called different by a metric."""
    numeric, called = name in {"mae", "rmse", "r2"}, 0
    kind = kind_of("numbers") if numeric else kind_of("classes", ["a", "b", "c"])
    world = numbers(skewed=True) if numeric else classes(3, 1.5, (0.5, 0.3, 0.2))
    options = JudgeOptions(resamples=500, metric=name)
    for number in range(pairs):
        rng = np.random.default_rng((seed, rows, number, len(name)))
        targets, first = world(rng, rows)
        _, again = world(rng, rows)
        if numeric:
            errors = rng.standard_exponential(rows)[:, None]
            second = targets[:, None] + errors
        else:
            logits = rng.normal(size=again.shape)
            logits[np.arange(rows), targets] += 1.5
            second = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        found = compare_by(kind, targets, (first, second), ("a", "b"), options=options, seed=number)
        called += found.verdict != "no evidence"
    return _false(f"{name}, n = {rows}", called, pairs)


def false_seeds(seeds: int, pairs: int, seed: int) -> str:
    """Return how often two ways to fit that are alike are called different over several seeds."""
    called = 0
    for number in range(pairs):
        rng = np.random.default_rng((seed, seeds, number, 7))
        rows = rng.normal(size=(1, 200))
        a, b = (rows + 0.15 * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=(seeds, 200)) for _ in range(2))
        called += compare_seeds((a, b), ("mae", False), ("a", "b"), options=OPTIONS).verdict != "no evidence"
    return _false(f"mae over {seeds} and {seeds} seeds, n = 200", called, pairs)


def _false(what: str, called: int, pairs: int) -> str:
    most = 0.05 + 2 * math.sqrt(0.05 * 0.95 / pairs)
    met = "" if called / pairs <= most else "   MISSED"
    return f"  {what:<38} {called / pairs:.3f}   (at most {most:.3f}){met}"


def power(only_a: float, only_b: float, sets: int, seed: int) -> Iterator[str]:
    """Yield how often a true difference of accuracies is found on as many rows as are said to be needed."""
    needed = rows_needed(10_000, round(10_000 * only_a), round(10_000 * only_b))
    if needed is None:
        raise ValueError("there is no difference to find")
    yield _powered(only_a, only_b, needed, sets, seed, f"{100 * (only_b - only_a):.1f} points, n = {needed:,} (rows needed)")
    rows, share = 1500, only_a + only_b
    small = smallest_detectable(rows, round(rows * share))
    told = f"{100 * small:.1f} points, n = {rows:,} (smallest detectable)"
    yield _powered((share - small) / 2, (share + small) / 2, rows, sets, seed, told)


def _powered(only_a: float, only_b: float, rows: int, sets: int, seed: int, told: str) -> str:
    rng, found = np.random.default_rng((seed, rows)), 0
    for _ in range(sets):
        kinds = rng.choice(3, rows, p=[only_a, only_b, 1 - only_a - only_b])
        found += compare_right(kinds != 1, kinds != 0, ("a", "b"), options=OPTIONS).verdict == "better"
    error = math.sqrt(0.8 * 0.2 / sets)
    met = "" if found / sets >= 0.8 - 3 * error and found / sets <= 0.8 + 6 * error else "   MISSED"
    return f"  {told:<46} {found / sets:.3f}   (0.8 is said){met}"


def main() -> int:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sets, seed = asked.sets, asked.seed
    lines = [f"python bench/judging.py --sets {sets} --seed {seed}"]
    lines.append(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    )

    def say(*told: str) -> None:
        for line in told:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        lines.extend(told)

    of_classes = ("accuracy", "macro-f1", "roc-auc")
    say(f"coverage of 95 % intervals over {sets} sets (goal {LOW} to {HIGH}):")
    for what, world in (
        ("two classes", classes(2, 1.5, (0.6, 0.4))),
        ("three classes, one rare", classes(3, 2.0, (0.55, 0.3, 0.15))),
    ):
        say(f" {what}")
        for rows in (100, 200, 500):
            say(*coverage("classes", world, of_classes, rows, sets, seed))
    for what, skewed in (("numbers, normal errors", False), ("numbers, exponential errors", True)):
        say(f" {what}")
        for rows in (50, 100, 1000):
            say(*coverage("numbers", numbers(skewed=skewed), ("mae",), rows, sets, seed))
    say(" rows that belong together", grouped(40, 10, sets, seed), grouped(20, 25, sets, seed))
    say(f"false verdicts over {sets} pairs of equal models:")
    say(*(false_verdicts(name, rows, sets, seed) for name in ("accuracy", "macro-f1", "roc-auc", "mae") for rows in (50, 200)))
    say(false_seeds(3, sets, seed), false_seeds(5, sets, seed))
    say(f"power over {sets} sets:")
    say(*power(0.04, 0.08, sets, seed), *power(0.01, 0.03, sets, seed))
    (HERE / "judging.out").write_text("\n".join(lines) + "\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())

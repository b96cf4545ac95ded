"""Weak-slice search on made-up test sets: is a planted bad slice found and named, and is nothing found where there is nothing?

    python bench/weak_slices.py [--sets 100] [--rows 2000 4000 6000 8000]        writes bench/weak_slices.out

Rows have a country, a device (sometimes missing), an age, a length and 8 features that mean nothing. The planted slice is
3 % of the rows, "country = IT and length > its 70th percentile", and is answered right 20 points less often than the rest. A
slice counts as found where a reported rule covers at least half of what it and the planted one cover together, and as named
where the rule says both the country and that the length is above something. On a clean set all rows are answered alike.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from measure import report
from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.metadata import Metadata, described
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.slices import computed_columns
from regraft.evaluation.weak_search import overlap
from regraft.evaluation.weak_slices import WeakSlice, weak_slices_of
from regraft.types import Array, FloatArray

COUNTRIES, SHARES = ["DE", "FR", "US", "ES", "IT"], [0.3, 0.2, 0.2, 0.2, 0.1]
DROP = 0.2
_RULES = {"IT": "country = IT", "length": "length >"}


@dataclass(frozen=True)
class World:
    """One made-up test set.

    Args:
        targets_N: Classes.
        outputs_NC: Probabilities.
        known: What is known of the rows.
        bad_N: The planted slice.
    """

    targets_N: Array
    outputs_NC: FloatArray
    known: Metadata
    bad_N: Array

    def weak(self, seed: int) -> tuple[WeakSlice, ...]:
        """Return what is found in it."""
        found = weak_slices_of(kind_of("classes", "abc"), self.targets_N, self.outputs_NC, self.known, JudgeOptions(), seed)
        return found or ()

    def rows_of(self, rule: str) -> Array:
        """Return the rows that a rule of the planted slice's columns holds for."""
        inside_N = np.ones(len(self.targets_N), dtype=bool)
        columns = {column.name: column for column in (*self.known.columns, *self.known.computed)}
        for text in rule.split(" and "):
            name, _, rest = text.partition(" ")
            sign, _, bound = rest.rpartition(" ")
            if name not in columns:
                return ~inside_N
            column = columns[name]
            if sign in {">", "<="}:
                above_N = column.numbers() > float(bound)
                inside_N &= above_N if sign == ">" else ~above_N & (column.codes_N >= 0)
            else:
                same_N = (column.codes_N < 0) if bound == "missing" else column.codes_N == column.values.index(bound)
                inside_N &= same_N if sign in {"=", "is"} and bound != "there" else ~same_N
        return inside_N


def world(rows: int, accuracy: float, seed: int, *, planted: bool) -> World:
    """Make up a test set."""
    rng = np.random.default_rng(seed)
    country = rng.choice(COUNTRIES, p=SHARES, size=rows)
    device = rng.choice(["phone", "web", ""], p=[0.5, 0.45, 0.05], size=rows)
    age, length = np.round(rng.normal(45, 15, rows), 1), np.exp(rng.normal(4.5, 0.9, rows)).astype(int) + 3
    bad_N = (country == "IT") & (length > np.quantile(length, 0.7))
    right_N = rng.random(rows) < np.where(bad_N & planted, accuracy - DROP, accuracy)
    targets_N = rng.integers(0, 3, rows)
    given_N = np.where(right_N, targets_N, (targets_N + 1) % 3)
    made = {"country": country, "device": device, "age": age}
    columns = tuple(column for name, values in made.items() if (column := described(name, values.tolist())))
    known = Metadata(
        columns=columns,
        computed=computed_columns(length, None, list(made)),
        numbers_N=np.arange(1, rows + 1),
        features_ND=rng.normal(size=(rows, 8)).astype(np.float32),
    )
    return World(targets_N, np.eye(3)[given_N] * 0.8 + 0.2 / 3, known, bad_N)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 4000, 6000, 8000])
    asked = parser.parse_args()
    heads = ("rows", "accuracy", "planted", "found", "named", "others", "clean", "alarms", "s a set")
    lines = ["".join(f"{head:>9}" for head in heads)]
    figures = []
    for rows in asked.rows:
        for accuracy in (0.9, 0.8):
            found = named = others = alarms = 0
            began = time.perf_counter()
            for seed in range(asked.sets):
                one = world(rows, accuracy, seed, planted=True)
                rules = [weak.rule for weak in one.weak(seed)]
                hits = [rule for rule in rules if overlap(one.rows_of(rule), one.bad_N) >= 0.5]
                found += bool(hits)
                named += any(all(text in rule for text in _RULES.values()) for rule in hits)
                others += any(not one.bad_N[one.rows_of(rule)].any() for rule in rules)
                alarms += bool(world(rows, accuracy, 10_000 + seed, planted=False).weak(seed))
            seconds = (time.perf_counter() - began) / (2 * asked.sets)
            sizes = (asked.sets, found, named, others, asked.sets, alarms)
            lines.append("{:9d}{:9.0%}{:9d}{:9d}{:9d}{:9d}{:9d}{:9d}{:9.2f}".format(rows, accuracy, *sizes, seconds))
            figures.append(
                {"rows": rows, "accuracy": accuracy, "sets": asked.sets, "found": found, "named": named, "alarms": alarms}
            )
    report("weak_slices", {"figures": figures}, "\n".join(lines))


if __name__ == "__main__":
    main()

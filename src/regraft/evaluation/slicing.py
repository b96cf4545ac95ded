"""Where a model is good and where it is not: slices, weak slices and fairness of one target, as they stand in a report.

Shapes: N rows, C columns of what is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from regraft.evaluation.answer_kind import kind_for
from regraft.evaluation.fairness import Fairness, fairness_of
from regraft.evaluation.metadata import Metadata
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.slices import SliceRow, slices_of
from regraft.evaluation.weak_slices import FEWEST_ROWS, WeakSlice, weak_slices_of
from regraft.options import JSON
from regraft.tasks.task import Part
from regraft.types import Array, FloatArray


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """What was found of groups of rows.

    Args:
        slices: Every group that was looked at (`regraft.evaluation.slices`).
        weak_slices: Groups that are much worse (`regraft.evaluation.weak_slices`); None where none were looked for.
        fairness: How groups of people are treated (`regraft.evaluation.fairness`), if a column of them was named.
    """

    slices: tuple[SliceRow, ...] = ()
    weak_slices: tuple[WeakSlice, ...] | None = None
    fairness: Fairness | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return the keys that this adds to a report; none for what was not looked at."""
        return {
            **({"slices": [one.to_json() for one in self.slices]} if self.slices else {}),
            **({"weak_slices": [one.to_json() for one in self.weak_slices]} if self.weak_slices is not None else {}),
            **({"fairness": self.fairness.to_json()} if self.fairness else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Slicing:
        """Return what `to_json` wrote, from a whole report."""
        weak, fairness = values.get("weak_slices"), values.get("fairness")
        return cls(
            slices=tuple(SliceRow.from_json(one) for one in values.get("slices", ())),
            weak_slices=None if weak is None else tuple(WeakSlice.from_json(one) for one in weak),
            fairness=None if fairness is None else Fairness.from_json(fairness),
        )


def slicing_of(
    part: Part, targets: Array, outputs_NC: FloatArray, known: Metadata, options: JudgeOptions, seed: int
) -> tuple[Slicing, list[str]]:
    """Return what is found of groups of the rows that have one target, and what a reader must know.

    Args:
        part: The target.
        targets: Of the judged rows, those of all targets.
        outputs_NC: What the judged model gives for all targets.
        known: What is known of the rows.
        options: What is looked at; resamples and confidence.
        seed: Seeds resamples and searches.
    """
    rows, kind = part.rows(targets), kind_for(part.task)
    targets_N, own_NC = kind.checked(part.own(targets, rows), outputs_NC[rows][:, part.judged])
    own = known if len(rows) == len(targets) else known.take(rows)
    slices, notes = slices_of(kind, targets_N, own_NC, own, options, seed)
    weak = weak_slices_of(kind, targets_N, own_NC, own, options, seed) if options.weak_slices else None
    if options.weak_slices and weak is None:
        notes.append(f"weak slices are not looked for in fewer than {FEWEST_ROWS} rows")
    elif weak is not None and find_spec("sklearn") is None:
        notes.append("weak slices were searched without trees and clusters, which scikit-learn makes: it is not installed")
    fairness = None
    if options.fairness and (column := own.column(options.fairness)):
        fairness, told = fairness_of(kind, targets_N, own_NC, column, options, seed)
        notes += told
    return Slicing(slices=slices, weak_slices=weak, fairness=fairness), notes

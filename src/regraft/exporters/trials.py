"""Shapes that no sample of rows can be relied on to have: what was written must answer them too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from regraft.errors import Problem
from regraft.exporters.exporter import Source
from regraft.types import Array, Batch, FloatArray

TOLERANCE = 1e-4


def shape_faults(
    source: Source, path: Path, answer: Callable[[Batch], FloatArray], tolerance: float = TOLERANCE
) -> list[Problem]:
    """Return the shapes (one position, one row, the longest row) that a file answers otherwise than its source.

    Args:
        source: What was exported.
        path: The file, for messages.
        answer: Computes a batch with the file.
        tolerance: How far outputs may move, as a share of the largest.
    """
    from regraft.exporters.graph import answers_of, trial_batches

    problems = []
    for told, batch in trial_batches(source.modality):
        expected = answers_of(source.network(), batch)
        try:
            moved = _moved(expected, answer(batch))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            problems.append(_problem(told, path, " ".join(str(error).split())[:300], tolerance))
            continue
        if not moved <= tolerance:
            problems.append(_problem(told, path, f"outputs that moved by {moved:.3g}", tolerance))
    return problems


def _moved(expected: Array, got: Array) -> float:
    if expected.shape != got.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float(np.abs(expected - got).max(initial=0.0)) / scale


def _problem(told: str, path: Path, got: str, tolerance: float) -> Problem:
    what = f"the exported file does not answer a batch of {told} positions as its source does"
    fix = "nothing was written; export in another format (regraft list exporters)"
    return Problem(what=what, where=str(path), got=got, expected=f"at most {tolerance:g} away", fix=fix)

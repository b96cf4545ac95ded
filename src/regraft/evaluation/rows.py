"""What can be judged: targets and probabilities that fit each other."""

from __future__ import annotations

import numpy as np

from regraft.errors import DataError, Problem
from regraft.types import Array, FloatArray

SUM_TOLERANCE = 1e-3
"""How far the probabilities of a row may be from 1 in total; rounding in half precision stays within."""


def checked(targets_N: Array, probabilities_NC: FloatArray, who: str = "the model") -> tuple[Array, FloatArray]:
    """Return targets as int64 and probabilities as float64 when they can be judged.

    Args:
        targets_N: Class index of each row, 0 to C - 1.
        probabilities_NC: Probability of every class for each row.
        who: Whose probabilities they are, for messages.

    Raises:
        DataError: There are no rows, the shapes do not fit, or values are out of range; all problems at once.
    """
    targets_N, probabilities_NC = np.asarray(targets_N), np.asarray(probabilities_NC)
    problems = _shape_problems(targets_N, probabilities_NC, who)
    if not problems:
        probabilities_NC = probabilities_NC.astype(np.float64, copy=False)
        problems = _value_problems(targets_N, probabilities_NC, who)
    if problems:
        raise DataError(problems)
    return targets_N.astype(np.int64, copy=False), probabilities_NC


def size_problems(
    targets_N: Array, outputs_NC: FloatArray, who: str, row: tuple[int, ...], target: tuple[int, ...] = ()
) -> list[Problem]:
    """Return what is wrong with the shapes of answers that are no classes.

    Args:
        targets_N: What is true.
        outputs_NC: What was given.
        who: Whose answers they are, for messages.
        row: Shape of one row of the outputs.
        target: Shape of one target.
    """
    what = f"{who} cannot be judged on these arrays"
    if targets_N.shape[1:] != target or outputs_NC.shape[1:] != row or not targets_N.ndim or not outputs_NC.ndim:
        shapes = f"targets of shape {targets_N.shape}, answers of shape {outputs_NC.shape}"
        expected = f"targets {('N', *target)}, answers {('N', *row)}".replace("'", "")
        return [Problem(what=what, got=shapes, expected=expected, fix="judge rows and answers of the same task")]
    if len(targets_N) != len(outputs_NC):
        sizes = f"{len(targets_N)} targets, {len(outputs_NC)} answers"
        return [Problem(what=what, got=sizes, expected="the same number of rows", fix="give one answer a row")]
    if not len(targets_N):
        return [Problem(what="there are no rows to judge", expected="at least one row", fix="give data with labelled rows")]
    return []


def broken_rows(outputs_NC: FloatArray, whose: str) -> list[Problem]:
    """Return the problem of outputs that are not finite."""
    broken = np.flatnonzero(~np.isfinite(outputs_NC).all(axis=1))
    if not len(broken):
        return []
    fix = "training has diverged: lower the learning rate, or check the inputs of these rows"
    where, got = _places(broken), _numbers(outputs_NC[broken[0]])
    return [Problem(what=f"{whose} are not finite numbers", where=where, got=got, expected="finite numbers", fix=fix)]


def _shape_problems(targets_N: Array, probabilities_NC: FloatArray, who: str) -> list[Problem]:
    if targets_N.ndim != 1 or probabilities_NC.ndim != 2 or probabilities_NC.shape[1] < 1:
        shapes = f"targets of shape {targets_N.shape}, probabilities of shape {probabilities_NC.shape}"
        return [
            Problem(what=f"{who} cannot be judged on these arrays", got=shapes, expected="targets (N,), probabilities (N, C)")
        ]
    if len(targets_N) != len(probabilities_NC):
        sizes = f"{len(targets_N)} targets, {len(probabilities_NC)} rows of probabilities"
        return [Problem(what=f"{who} cannot be judged on these arrays", got=sizes, expected="the same number of rows")]
    if not len(targets_N):
        return [Problem(what="there are no rows to judge", expected="at least one row", fix="give data with labelled rows")]
    if not np.issubdtype(targets_N.dtype, np.integer):
        return [Problem(what="targets are class indexes", got=f"{targets_N.dtype} values", expected="integers")]
    return []


def _value_problems(targets_N: Array, probabilities_NC: FloatArray, who: str) -> list[Problem]:
    classes = probabilities_NC.shape[1]
    problems = []
    outside = np.flatnonzero((targets_N < 0) | (targets_N >= classes))
    if len(outside):
        problems.append(
            Problem(
                what="targets are out of range",
                where=_places(outside),
                got=f"{int(targets_N[outside[0]])}",
                expected=f"0 to {classes - 1}",
                fix="leave out the rows whose label the model has not learnt",
            )
        )
    broken = np.flatnonzero(~np.isfinite(probabilities_NC).all(axis=1))
    if len(broken):
        problems.append(
            Problem(
                what=f"the probabilities of {who} are not finite numbers",
                where=_places(broken),
                got=_numbers(probabilities_NC[broken[0]]),
                expected=f"{classes} numbers from 0 to 1",
                fix="training has diverged: lower the learning rate, or check the inputs of these rows",
            )
        )
        return problems
    odd = (probabilities_NC < 0).any(axis=1) | (np.abs(probabilities_NC.sum(axis=1) - 1.0) > SUM_TOLERANCE)
    unnormed = np.flatnonzero(odd)
    if len(unnormed):
        problems.append(
            Problem(
                what=f"the outputs of {who} are not probabilities",
                where=_places(unnormed),
                got=_numbers(probabilities_NC[unnormed[0]]),
                expected="numbers from 0 to 1 that add up to 1",
                fix="give what `Task.probabilities` returns, not logits",
            )
        )
    return problems


def _places(positions: Array) -> str:
    named = ", ".join(str(int(position)) for position in positions[:3])
    more = f" and {len(positions) - 3} more" if len(positions) > 3 else ""
    return f"row {named}{more} (counted from 0)"


def _numbers(row: FloatArray) -> str:
    more = ", ..." if len(row) > 4 else ""
    return "[" + ", ".join(f"{number:.4g}" for number in row[:4]) + more + "]"

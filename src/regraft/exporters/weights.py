"""Whether the weights in an exported file are the source's: every tensor, bit for bit, in whatever layout it lies. No torch.

Answers alone do not show a changed weight that no row of the gate touches: one number in the table of tokens, say.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from regraft.errors import Problem
from regraft.types import Array

_MOST_AXES = 3
_ALIKE = 0.5


def weight_faults(
    expected: Mapping[str, Array], found: Sequence[tuple[str, Array]], where: Path, tables: Collection[str]
) -> list[Problem]:
    """Return what shows that weights in a file are not those of the source.

    A tensor is the source's if its bytes are, in any order of its axes and under any name. One that is not there as it was may
    have been computed with others into a constant when the graph was simplified: then only answers can tell. But if there is a
    tensor of its name, or one that is the same in most of its numbers, it has been changed.

    Args:
        expected: Name -> values of every tensor of the source that the graph uses.
        found: Name and values of every tensor in the file.
        where: The file, for messages.
        tables: Names of tensors of which a row of data touches only a part: these must be there.
    """
    wanted = {name: array for name, array in expected.items() if np.issubdtype(array.dtype, np.floating) and array.size}
    prints = {name: [_print(layout) for layout in _layouts(array)] for name, array in wanted.items()}
    theirs = [(name, array, _print(array)) for name, array in found if np.issubdtype(array.dtype, np.floating)]
    there = {print_ for _, _, print_ in theirs}
    known = {print_ for prints_ in prints.values() for print_ in prints_}
    strangers = [(name, array) for name, array, print_ in theirs if print_ not in known]
    problems = []
    for name, array in wanted.items():
        if there.isdisjoint(prints[name]):
            problem = _changed(name, array, strangers, where)
            if problem is None and name in tables:
                problem = _problem(name, where, "no such tensor")
            if problem is not None:
                problems.append(problem)
    return problems


def _layouts(array: Array) -> list[Array]:
    """Return an array with its axes in every order; of more than three axes only as it is."""
    if array.ndim < 2 or array.ndim > _MOST_AXES:
        return [array]
    return [array.transpose(axes) for axes in itertools.permutations(range(array.ndim))]


def _print(array: Array) -> bytes:
    """Return a digest of the bytes and the type, whatever the shape: (2, 6) and (12,) hold the same numbers."""
    digest = hashlib.blake2b(str(array.dtype).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _changed(name: str, array: Array, strangers: Sequence[tuple[str, Array]], where: Path) -> Problem | None:
    """Return the problem where one of the tensors that nobody knows is this one, changed."""
    for other, values in strangers:
        if values.size != array.size:
            continue
        equal = max(int((layout.reshape(-1) == values.reshape(-1)).sum()) for layout in _layouts(array))
        if equal >= _ALIKE * array.size or other == name:
            return _problem(name, where, f"{array.size - equal} of {array.size} numbers are others")
    return None


def _problem(name: str, where: Path, got: str) -> Problem:
    return Problem(
        what=f"the weight '{name}' in the exported file is not the source's",
        where=str(where),
        got=got,
        expected="the same numbers, bit for bit",
        fix="nothing was written; report this with the artifact's options",
    )

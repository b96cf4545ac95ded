"""Which calibrator: each is judged on rows that it did not learn from, and of equally good ones the simplest is taken.

Shapes: N rows, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regraft.calibration import CALIBRATORS
from regraft.calibration.calibrator import Calibrator
from regraft.calibration.links import Link
from regraft.types import Array, FloatArray

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A calibrator, and how it was found.

    Args:
        calibrator: Learnt from all rows.
        losses: Name -> mean loss of the rows under calibrators that were learnt from the other folds.
        outside_NC: Evidence of the rows as calibrators of the chosen kind, learnt from the other folds, change it: as new rows
            would have it.
    """

    calibrator: Calibrator
    losses: Mapping[str, float]
    outside_NC: FloatArray


def names_for(link: Link) -> list[str]:
    """Return the names of the calibrators that are for a link, the simplest first."""
    return [name for name in CALIBRATORS if link.kind in CALIBRATORS.get(name).kinds]


def folds(targets: Array, count: int, seed: int) -> Array:
    """Return the fold of each row (N,), 0 to count - 1, every fold with as many rows, and rows of a target spread over them.

    Args:
        targets: What is true; rows that are alike are spread.
        count: Number of folds.
        seed: Shuffles.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(targets))
    keys_N = targets if targets.ndim == 1 else targets.sum(axis=1)
    order = shuffled[np.argsort(keys_N[shuffled], kind="stable")]
    fold_N = np.empty(len(targets), dtype=np.int64)
    fold_N[order] = np.arange(len(targets)) % count
    return fold_N


def outside(cls: type[Calibrator], evidence_NC: FloatArray, targets: Array, link: Link, fold_N: Array) -> FloatArray:
    """Return evidence changed by calibrators each of which learnt from the rows of the other folds (N, C)."""
    changed_NC = np.empty_like(evidence_NC)
    for fold in np.unique(fold_N):
        own = fold_N == fold
        learnt = cls.fit(evidence_NC[~own], targets[~own], link)
        changed_NC[own] = learnt.apply(evidence_NC[own], link)
    return changed_NC


def choose(
    names: Sequence[str], evidence_NC: FloatArray, targets: Array, link: Link, seed: int, beside: Sequence[str] = ()
) -> Chosen:
    """Return the simplest of the calibrators whose loss is within one standard error of the smallest.

    The standard error is that of the difference to the smallest, row by row (the rule of Breiman et al. 1984, section 3.4.3,
    with paired rows).

    Args:
        names: Registered names, the simplest first.
        evidence_NC: Of rows that the network did not learn from; at least `FOLDS` of them.
        targets: What is true.
        link: What the evidence means.
        seed: Draws the folds.
        beside: Names whose losses are told too, but which are not taken.
    """
    fold_N = folds(targets, FOLDS, seed)
    every = dict.fromkeys([*beside, *names])
    changed = {name: outside(CALIBRATORS.get(name), evidence_NC, targets, link, fold_N) for name in every}
    losses = {name: link.losses(changed_NC, targets) for name, changed_NC in changed.items()}
    means = {name: float(losses_N.mean()) for name, losses_N in losses.items()}
    best = min(names, key=means.__getitem__)

    def near(name: str) -> bool:
        worse_N = losses[name] - losses[best]
        return bool(worse_N.mean() <= worse_N.std(ddof=1) / np.sqrt(len(worse_N)))

    taken = next(name for name in names if near(name))
    calibrator = CALIBRATORS.get(taken).fit(evidence_NC, targets, link)
    return Chosen(calibrator=calibrator, losses=means, outside_NC=changed[taken])

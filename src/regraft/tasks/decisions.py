"""How probabilities become answers, where the answer is not simply the most probable class; metrics decide in the same way.

Shapes: N rows, C ranks, L labels.
"""

from __future__ import annotations

import numpy as np

from regraft.types import Array, FloatArray

THRESHOLD = 0.5
"""Probability from which a label is given."""


def decide_rank(probabilities_NC: FloatArray) -> Array:
    """Return the median rank (N,): the first one up to which at least half of the probability lies.

    It is the number of ranks k with P(rank > k) above one half (Cao, Mirjalili & Raschka 2020, arXiv:1901.07884, eq. 1), and
    has the smallest expected distance in ranks.

    Example:
        >>> decide_rank(np.array([[0.4, 0.2, 0.4], [0.1, 0.1, 0.8]])).tolist()
        [1, 2]
    """
    above_NK = 1.0 - np.cumsum(probabilities_NC[:, :-1], axis=1)
    return np.asarray((above_NK > 0.5).sum(axis=1))


def decide_sets(probabilities_NL: FloatArray) -> Array:
    """Return 1 for each label that is given to a row, else 0 (N, L).

    Example:
        >>> decide_sets(np.array([[0.4, 0.5, 0.9]])).tolist()
        [[0, 1, 1]]
    """
    return (probabilities_NL >= THRESHOLD).astype(np.int64)

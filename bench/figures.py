"""From the rounds of two contestants to one figure with its interval, and to what it means: goal, floor, below, or void.

Nothing here measures anything, so that every rule can be tested with made-up rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

LEAST_BUSY = 0.95
"""CPU seconds / wall seconds under which somebody else had the core, and the round says nothing."""

_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one contestant did in one round.

    Args:
        wall_s: Seconds by the clock.
        cpu_s: Seconds of processor time of the process.
        facts: Whatever else the contestant tells.
    """

    wall_s: float
    cpu_s: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def disturbed(self) -> bool:
        """Whether somebody else had the core for part of the round."""
        return self.cpu_s < LEAST_BUSY * self.wall_s


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median and where it may lie.

    Args:
        median: Of the values.
        low: Lower end of the 95 % interval.
        high: Upper end of it.
        n: Number of values.
    """

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Whether two contestants did the same work.

    Args:
        state: "undecided" where the size is too small to tell.
        text: What was compared, and what came out.
    """

    state: Literal["passed", "void", "undecided"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What is promised about one piece of work.

    Args:
        name: Its number in the list of bars.
        what: The work and the peer.
        goal: What it should reach.
        floor: What it must reach.
        higher_is_better: Whether the figure should be large.
        unit: What stands behind the figure.
    """

    name: str
    what: str
    goal: float
    floor: float
    higher_is_better: bool = True
    unit: str = "x"

    def verdict(self, figure: Interval | None, gate: Gate) -> str:
        """Return what the claim, the end of the interval on the bad side, amounts to."""
        if gate.state == "void":
            return "void"
        if figure is None:
            return "too disturbed"
        sign = 1.0 if self.higher_is_better else -1.0
        claim = sign * (figure.low if self.higher_is_better else figure.high)
        if claim >= sign * self.goal:
            return "goal"
        return "floor" if claim >= sign * self.floor else "below the floor"


def undisturbed(first: Sequence[Round], second: Sequence[Round]) -> list[tuple[Round, Round]]:
    """Return the pairs of rounds in which both contestants had their core to themselves."""
    return [pair for pair in zip(first, second, strict=True) if not any(round_.disturbed for round_ in pair)]


def interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Return the median with its percentile bootstrap interval (Efron 1979); nothing without values.

    Args:
        values: One a round.
        seed: Draws the resamples.

    Example:
        >>> interval([2.0, 2.0, 2.0])
        Interval(median=2.0, low=2.0, high=2.0, n=3)
    """
    if not len(values):
        return None
    values_N = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values_N), size=(_RESAMPLES, len(values_N)))
    low, high = np.quantile(np.median(values_N[drawn], axis=1), [0.025, 0.975])
    return Interval(median=float(np.median(values_N)), low=float(low), high=float(high), n=len(values_N))


def share_interval(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927).

    Args:
        right: How many of the rows.
        n: Rows.
    """
    z = 1.959963984540054
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def same_accuracy(ours: float, peer: float, n: int, majority: float) -> Gate:
    """Judge whether we are as accurate as the peer: not below the lower end of its 95 % interval.

    Args:
        ours: Our accuracy.
        peer: The peer's.
        n: Rows that both were judged on.
        majority: Share of the commonest class; while the peer is not clearly above it, neither has learnt anything.
    """
    low, high = share_interval(round(peer * n), n)
    text = f"accuracy ours {100 * ours:.1f}, peer {100 * peer:.1f} [{100 * low:.1f}, {100 * high:.1f}], n = {n}"
    if ours < low:
        state: Literal["passed", "void", "undecided"] = "void" if low > majority else "undecided"
    else:
        state = "passed" if min(ours, low) > majority else "undecided"
    return Gate(state=state, text=text + ("" if state != "undecided" else "; too few updates to tell"))


def same_answers(ours: np.ndarray[Any, Any], peer: np.ndarray[Any, Any], tolerance: float) -> Gate:
    """Judge whether two contestants gave the same probabilities.

    Args:
        ours: Our answers (N, C).
        peer: The peer's.
        tolerance: Largest difference.
    """
    if ours.shape != peer.shape:
        return Gate(state="void", text=f"answers of shape {ours.shape} against {peer.shape}")
    worst = float(np.abs(ours - peer).max())
    same = worst <= tolerance  # never true for NaN
    text = f"answers differ by at most {worst:.1e} (allowed {tolerance:.0e}), n = {len(ours)}"
    return Gate(state="passed" if same else "void", text=text)


__all__ = ["Bar", "Gate", "Interval", "Round", "interval", "same_accuracy", "same_answers", "share_interval", "undisturbed"]

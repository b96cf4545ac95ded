"""How honest probabilities are: of the rows that were given 0.9, how many were right.

Shapes: N rows, C classes, K bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.evaluation.intervals import percentile
from regraft.evaluation.shares import quantile_of_normal, wilson
from regraft.types import Array, FloatArray

BINS = 15
_FEWEST_IN_BIN = 10
_DRAWS = 2000
_TINY = 1e-12


@dataclass(frozen=True)
class Bins:
    """Rows in groups of as many rows each, by their confidence; rows of equal confidence are together.

    Args:
        rows_K: Rows of each bin.
        confidence_K: Their mean confidence.
        share_K: The share of them that is right.
        low_K: Their lowest confidence.
        high_K: Their highest.
    """

    rows_K: Array
    confidence_K: FloatArray
    share_K: FloatArray
    low_K: FloatArray
    high_K: FloatArray

    @classmethod
    def of(cls, confidences_N: FloatArray, right_N: Array, bins: int = BINS) -> Bins:
        """Group rows into bins of equal mass (Nguyen & O'Connor 2015; Roelofs et al. 2022, arXiv:2012.08668, section 3).

        Args:
            confidences_N: Probability of being right.
            right_N: Whether they are.
            bins: Most bins; fewer where they would hold fewer than ten rows.
        """
        count = min(bins, max(1, len(confidences_N) // _FEWEST_IN_BIN))
        sorted_N = np.sort(confidences_N)
        firsts: FloatArray = np.unique(sorted_N[len(sorted_N) * np.arange(1, count) // count])
        bin_N = np.searchsorted(firsts, confidences_N, side="right")
        _, bin_N, rows_K = np.unique(bin_N, return_inverse=True, return_counts=True)
        sums = [np.bincount(bin_N, weights=each.astype(np.float64)) / rows_K for each in (confidences_N, right_N)]
        low_K, high_K = np.full(len(rows_K), np.inf), np.full(len(rows_K), -np.inf)
        np.minimum.at(low_K, bin_N, confidences_N)
        np.maximum.at(high_K, bin_N, confidences_N)
        return cls(rows_K, sums[0], sums[1], low_K, high_K)

    @property
    def weights(self) -> FloatArray:
        """Share of the rows in each bin (K,)."""
        weights_K: FloatArray = self.rows_K / self.rows_K.sum()
        return weights_K

    @property
    def gaps(self) -> FloatArray:
        """Share that is right less mean confidence (K,)."""
        return self.share_K - self.confidence_K

    @property
    def spreads(self) -> FloatArray:
        """Standard error of the share of each bin (K,): the larger of that of the share seen, and of the one that is said."""
        variances_K = np.maximum(*(each * (1.0 - each) for each in (self.share_K, np.clip(self.confidence_K, 0.0, 1.0))))
        spreads_K: FloatArray = np.sqrt(np.maximum(variances_K, _TINY) / self.rows_K)
        return spreads_K

    def error(self) -> float:
        """Return the mean over rows of the gap of their bin: the expected calibration error (Naeini et al. 2015) as it is."""
        return float(self.weights @ np.abs(self.gaps))

    def debiased_error(self) -> float:
        """Return the expected calibration error less an estimate of what chance adds to it; not below 0.

        A gap that is seen is normal around the true one, and its absolute value too large: by E|N(gap, spread^2)| - |gap| where
        the gap is the true one (the bootstrap's bias; Kumar, Liang & Ma 2019, arXiv:1909.10155, appendix, with the mean of the
        folded normal distribution in the place of draws; Ferro & Fricker 2012 for squares).
        """
        return float(_debiased(self.gaps[None], self.spreads, self.weights)[0])

    def rms_error(self) -> float:
        """Return the root of the mean squared gap, less what chance adds to it.

        Kumar, Liang & Ma 2019, arXiv:1909.10155, definition 5.1. Bins of one row say nothing of their spread and are left out.
        """
        there = self.rows_K > 1
        chance_K = self.share_K[there] * (1.0 - self.share_K[there]) / (self.rows_K[there] - 1)
        return math.sqrt(max(0.0, float(self.weights[there] @ (np.square(self.gaps[there]) - chance_K))))

    def interval(self, confidence: float, seed: int = 0) -> tuple[float, float]:
        """Return the basic bootstrap interval of the debiased error, gaps drawn as normal (Davison & Hinkley 1997, 5.2)."""
        drawn_RK = self.gaps + self.spreads * np.random.default_rng(seed).normal(size=(_DRAWS, len(self.gaps)))
        value = self.debiased_error()
        low, high = percentile(_debiased(drawn_RK, self.spreads, self.weights), confidence)
        return min(value, max(0.0, 2 * value - high)), max(value, 2 * value - low)

    def to_json(self, confidence: float) -> list[dict[str, Any]]:
        """Return one entry a bin, for a reliability diagram, the share that is right with Wilson's interval."""
        found = []
        for rows, mean, share, low, high in zip(
            *(each.tolist() for each in (self.rows_K, self.confidence_K, self.share_K, self.low_K, self.high_K)), strict=True
        ):
            ends = wilson(share * rows, rows, confidence)
            entry = {"low": low, "high": high, "confidence": mean, "share_right": share, "n": rows}
            found.append({**entry, "share_low": ends[0], "share_high": ends[1]})
        return found


def _debiased(gaps_RK: FloatArray, spreads_K: FloatArray, weights_K: FloatArray) -> FloatArray:
    """Return the debiased error of each row of gaps (R,)."""
    ratio_RK = np.abs(gaps_RK) / spreads_K
    below_RK = 0.5 * _erfc(ratio_RK / math.sqrt(2.0))
    bell_RK = math.sqrt(2.0 / math.pi) * np.exp(-0.5 * np.square(ratio_RK))
    folded_RK = spreads_K * (bell_RK + ratio_RK * (1.0 - 2.0 * below_RK))
    errors_R: FloatArray = np.maximum(0.0, (2.0 * np.abs(gaps_RK) - folded_RK) @ weights_K)
    return errors_R


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def brier_parts(targets_NC: Array, shares_NC: FloatArray, bins: int = BINS) -> dict[str, float]:
    """Return what a Brier score is made of: reliability - resolution + uncertainty + what bins hold together.

    Murphy 1973, "A new vector partition of the probability score", for each column against the rest, added up; rows of a bin
    need not have one probability, and `within_bins` is what remains of that (Stephenson, Coelho & Jolliffe 2008).

    Args:
        targets_NC: 1 where a column is true, else 0.
        shares_NC: Its probability.
        bins: Most bins of a column.
    """
    parts = dict.fromkeys(("reliability", "resolution", "uncertainty", "within_bins"), 0.0)
    for truth_N, share_N in zip(targets_NC.T, shares_NC.T, strict=True):
        found, mean = Bins.of(share_N, truth_N, bins), float(truth_N.mean())
        reliability = float(found.weights @ np.square(found.gaps))
        resolution = float(found.weights @ np.square(found.share_K - mean))
        score = float(np.square(share_N - truth_N).mean())
        parts["reliability"] += reliability
        parts["resolution"] += resolution
        parts["uncertainty"] += mean * (1.0 - mean)
        parts["within_bins"] += score - (reliability - resolution + mean * (1.0 - mean))
    return parts


@dataclass(frozen=True, kw_only=True)
class Honesty:
    """How honest probabilities are on some rows.

    Args:
        figures: Name -> number.
        intervals: Name -> its ends.
        diagram: One entry a bin or a level.
    """

    figures: dict[str, Any]
    intervals: dict[str, list[float]]
    diagram: list[dict[str, Any]]


def of_probabilities(bins: Bins, losses: dict[str, FloatArray], parts: dict[str, float], confidence: float) -> Honesty:
    """Return the figures of probabilities.

    Args:
        bins: Confidences against what was right.
        losses: "brier" and "log_loss" of each row (N,).
        parts: Of the Brier score.
        confidence: Of the intervals.
    """
    figures: dict[str, Any] = {"ece": bins.debiased_error(), "ece_plain": bins.error(), "rms_error": bins.rms_error()}
    figures |= {"share_right": float(bins.weights @ bins.share_K), "confidence": float(bins.weights @ bins.confidence_K)}
    figures |= {name: float(losses_N.mean()) for name, losses_N in losses.items()} | {"brier_parts": parts}
    intervals = {"ece": list(bins.interval(confidence))}
    intervals |= {name: mean_interval(losses_N, confidence) for name, losses_N in losses.items()}
    return Honesty(figures=figures, intervals=intervals, diagram=bins.to_json(confidence))


def mean_interval(losses_N: FloatArray, confidence: float) -> list[float]:
    """Return the normal interval of a mean of losses, which are not below 0; of one row there is none."""
    mean = float(losses_N.mean())
    if len(losses_N) == 1:
        return [math.nan, math.nan]
    half = quantile_of_normal(0.5 + confidence / 2) * float(losses_N.std(ddof=1)) / math.sqrt(len(losses_N))
    return [max(0.0, mean - half), mean + half]

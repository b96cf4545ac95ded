"""Columns of a table as they were learnt, and how their cells become numbers. numpy only.

Shapes: N rows, Q knots, V numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from regraft.modalities.table_values import READ, Cell, Kind
from regraft.types import FloatArray

DATE_PARTS = 9
"""Numbers that a date becomes: when, and four pairs of sine and cosine: time of day, weekday, day of month, day of year."""

OTHER = 1
"""Number of the category that stands for rare and unseen values; that of a missing one is 0."""

_FURTHEST = 100.0
_UNSCALED = "none"
_DAY_S = 86_400.0
_FIRST_WEEKDAY = 3  # 1 January 1970 was a Thursday


@dataclass(frozen=True)
class Learnt:
    """One column.

    Args:
        name: Its name.
        kind: What it holds.
        gaps: Whether training rows lack it; then the network is told where it is missing.
        mean: Of numbers, and of dates in seconds since 1970.
        deviation: 1 where all are the same.
        knots: Quantiles at even distances (Q,), ascending; none where numbers are not ranked.
        rows: Training rows that have a value.
        values: Categories that are known, the commonest first.
    """

    name: str
    kind: Kind
    gaps: bool
    mean: float = 0.0
    deviation: float = 1.0
    knots: tuple[float, ...] = ()
    rows: int = 0
    values: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that it becomes; none for a category."""
        return 0 if self.kind == "category" else (DATE_PARTS if self.kind == "date" else 1) + self.gaps

    @property
    def size(self) -> int:
        """Categories, the missing and the other one included; none for anything else."""
        return len(self.values) + OTHER + 1 if self.kind == "category" else 0

    def numbers(self, cells: Sequence[Cell], scale: str) -> FloatArray:
        """Return cells as numbers for a network (N, width), float32; what is missing is 0, and 1 in the last of them."""
        raw_N = np.array([math.nan if cell is None else cell for cell in cells], dtype=np.float64)
        missing_N = np.isnan(raw_N)
        found_NV = np.where(missing_N[:, None], 0.0, self._parts(np.where(missing_N, self.mean, raw_N), scale))
        if self.gaps:
            found_NV = np.concatenate([found_NV, missing_N[:, None]], axis=1)
        return found_NV.astype(np.float32)

    def _parts(self, raw_N: FloatArray, scale: str) -> FloatArray:
        if self.kind == "boolean":
            return (2.0 * raw_N - 1.0)[:, None]
        if self.kind == "date":
            scaled_N = ((raw_N - self.mean) / self.deviation).clip(-_FURTHEST, _FURTHEST)
            return np.concatenate([scaled_N[:, None], date_parts(raw_N)], axis=1)
        if scale == _UNSCALED:
            return raw_N[:, None]
        if scale == "quantile":
            return ranked(raw_N, np.array(self.knots), self.rows)[:, None]
        return ((raw_N - self.mean) / self.deviation).clip(-_FURTHEST, _FURTHEST)[:, None]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**asdict(self), "knots": list(self.knots), "values": list(self.values)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`.

        Raises:
            KeyError: A field is missing.
            ValueError: A field has an impossible value.
        """
        kind = values["kind"]
        knots = tuple(map(float, values["knots"]))
        deviation = float(values["deviation"])
        if kind not in READ or deviation <= 0 or list(knots) != sorted(knots):
            raise ValueError(f"the column '{values['name']}' was learnt as something impossible")
        return cls(
            name=str(values["name"]),
            kind=kind,
            gaps=bool(values["gaps"]),
            mean=float(values["mean"]),
            deviation=deviation,
            knots=knots,
            rows=int(values["rows"]),
            values=tuple(map(str, values["values"])),
        )


def date_parts(seconds_N: FloatArray) -> FloatArray:
    """Return sine and cosine of time of day, weekday, day of month and day of year (N, 8), in UTC."""
    days_N = np.floor(seconds_N / _DAY_S)
    dates_N = days_N.astype("datetime64[D]")
    months_N, years_N = dates_N.astype("datetime64[M]"), dates_N.astype("datetime64[Y]")
    day_of_month_N = (dates_N - months_N.astype("datetime64[D]")).astype(np.float64)
    day_of_year_N = (dates_N - years_N.astype("datetime64[D]")).astype(np.float64)
    turns = (
        (seconds_N - days_N * _DAY_S) / _DAY_S,
        np.mod(days_N + _FIRST_WEEKDAY, 7.0) / 7.0,
        day_of_month_N / 31.0,
        day_of_year_N / 366.0,
    )
    angles_N4 = 2.0 * math.pi * np.stack(turns, axis=1)
    return np.stack([np.sin(angles_N4), np.cos(angles_N4)], axis=2).reshape(len(seconds_N), 2 * len(turns))


def ranked(raw_N: FloatArray, knots_Q: FloatArray, rows: int) -> FloatArray:
    """Return numbers as the normal quantiles of their rank among the training rows.

    The rank between two knots is interpolated from both sides and averaged, which puts a value that stands often in the middle
    of its ranks; as `QuantileTransformer` of scikit-learn does it. Other than there, the smallest and the largest are not sent
    to the end of the scale (5.2 deviations whatever the number of rows) but to the ranks 1/2n and 1 - 1/2n.

    Args:
        raw_N: Numbers.
        knots_Q: Quantiles of the training rows at even distances.
        rows: Training rows.
    """
    ranks_Q = np.linspace(0.0, 1.0, len(knots_Q))
    up_N = np.interp(raw_N, knots_Q, ranks_Q)
    down_N = 1.0 - np.interp(-raw_N, -knots_Q[::-1], 1.0 - ranks_Q[::-1])
    edge = 0.5 / max(rows, 1)
    return normal_quantile((0.5 * (up_N + down_N)).clip(edge, 1.0 - edge))


def normal_quantile(share_N: FloatArray) -> FloatArray:
    """Return the standard normal quantile of shares between 0 and 1 (algorithm AS 241 of Wichura 1988, PPND16).

    Example:
        >>> normal_quantile(np.array([0.5, 0.975])).round(6).tolist()
        [0.0, 1.959964]
    """
    apart_N = share_N - 0.5
    central_N = np.abs(apart_N) <= _SPLIT
    inner_N = np.where(central_N, _SQUARE - apart_N * apart_N, 0.0)
    middle_N = apart_N * np.polyval(_A, inner_N) / np.polyval(_B, inner_N)
    tail_N = np.sqrt(-np.log(np.where(central_N, 0.25, np.minimum(share_N, 1.0 - share_N))))
    near_N, far_N = tail_N - 1.6, tail_N - 5.0
    outer_N = np.where(
        tail_N <= 5.0, np.polyval(_C, near_N) / np.polyval(_D, near_N), np.polyval(_E, far_N) / np.polyval(_F, far_N)
    )
    found: FloatArray = np.where(central_N, middle_N, np.where(apart_N < 0.0, -outer_N, outer_N))
    return found


# fmt: off
_SPLIT, _SQUARE = 0.425, 0.180625
_A = (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
      1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0)
_B = (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
      5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0)
_C = (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
      3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0)
_D = (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
      6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0)
_E = (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
      2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0)
_F = (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
      1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0)
# fmt: on

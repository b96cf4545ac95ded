"""How numbers are written on the page; the test of the page reads back what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from regraft.evaluation import METRICS
from regraft.evaluation.judge import metric_name
from regraft.evaluation.measure import shown


@dataclass(frozen=True)
class Form:
    """One way to write a number.

    Args:
        text: Returns what is written.
        factor: What the written number is of the number.
    """

    text: Callable[[float], str]
    factor: float = 1.0


def _p(value: float) -> str:
    return "&lt; 0.0001" if value < 0.0001 else f"{value:.2g}"


def _seconds(value: float) -> str:
    if value < 0.1:
        return f"{1000 * value:.2g} ms"
    return f"{value:,.3g} s" if value < 100 else f"{value:,.0f} s"


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else shown(value, in_units=True)


FORMS: dict[str, Form] = {
    "plain": Form(_plain),
    "count": Form(lambda value: f"{value:,.0f}"),
    "share": Form(lambda value: f"{100 * value:.1f} %", 100.0),
    "percent": Form(lambda value: f"{100 * value:g} %", 100.0),
    "ratio": Form(lambda value: shown(value, in_units=False)),
    "points": Form(lambda value: f"{100 * value:+.1f}", 100.0),
    "unsigned": Form(lambda value: f"{100 * value:.1f}", 100.0),
    "signed": Form(lambda value: f"{value:+.3g}"),
    "p": Form(_p),
    "seconds": Form(_seconds),
    "megabytes": Form(lambda value: f"{value / 1e6:,.1f} MB", 1e-6),
    "mb": Form(lambda value: f"{value:,.0f} MB"),
    "rate": Form(lambda value: f"{value:.2e}"),
    "digit": Form(lambda value: f"{value:.4g}"),
}


def form_of(name: str) -> str:
    """Return the form of a metric by its JSON name: shares in percent, what is in the unit of the target as it is.

    Example:
        >>> form_of("accuracy"), form_of("log_loss"), form_of("mae"), form_of("nobody_knows")
        ('share', 'ratio', 'plain', 'ratio')
    """
    registered = metric_name(name)[1]
    if registered not in METRICS:
        return "ratio"
    measure = METRICS.get(registered)
    if measure.in_units:
        return "plain"
    return "share" if measure.bounds == (0.0, 1.0) and measure.higher_is_better else "ratio"


def bounds_of(name: str) -> tuple[float, float] | None:
    """Return the ends between which a metric lies, by its JSON name; nothing where they are not both finite."""
    registered = metric_name(name)[1]
    bounds = METRICS.get(registered).bounds if registered in METRICS else None
    return bounds if bounds is not None and all(abs(end) < float("inf") for end in bounds) else None

"""Charts of the page, drawn by matplotlib as SVG that takes its colours from the page, so that they follow light and dark.

Colours are written as placeholders and then become CSS variables; what is drawn differs in line and mark too, so that it can be
told apart without colour. Importing matplotlib takes about half a second, a chart about 30 ms.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.registry import installed
from regraft.rendering.renderer import plain
from regraft.reporting.words import Words
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"#010203": "--ink", "#040506": "--quiet", "#070809": "--line", "#0a0b0c": "--accent", "#0d0e0f": "--warm"}
INK, QUIET, LINE, ACCENT, WARM = _COLOURS
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "regraft",
    "font.size": 10.5,
    "font.family": ["sans-serif"],
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "text.color": INK,
    "legend.frameon": False,
    "axes.unicode_minus": True,
}
_SIDES = {"before": "s", "after": "o"}
_REM_IN = 5.9
"""Width of a chart on the page for an inch of it, so that all have letters of the same size."""
_SIZE = (4.4, 2.5)
_POINTS = 600
_DASHES: tuple[Any, ...] = (
    "-",
    "--",
    ":",
    "-.",
    (0, (5, 1)),
    (0, (1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
    (0, (2, 4)),
    "-",
)
_MARKS = "osD^vPX*<>"
_NAMED_IDS = re.compile(r' id="[a-zA-Z]+_\d+"')
_DIGITS = re.compile(r"(\d\.\d{2})\d+")
_FONT = re.compile(r"font: ([\d.]+px) [^;\"]+")


class Charts:
    """Draw the charts of a page."""

    def curves(self, events: Sequence[Mapping[str, Any]], words: Words) -> list[tuple[str, str]]:
        """Return charts of the loss, of each validation metric, of rate and gradient norm, each with its caption as HTML.

        Args:
            events: Lines of `events.jsonl`.
            words: Language.
        """
        steps = [line for line in events if line.get("event") == "step"]
        at = _column(steps, "step")
        found = [(self._loss(at, _column(steps, "loss"), words), words.html("of-batches"))]
        valid = [line for line in events if line.get("event") == "valid"]
        # One validation is no curve: its numbers stand in the table.
        names = dict.fromkeys(name for line in valid for name in line["metrics"]) if len(valid) > 1 else {}
        found += [(self._metric(valid, name, words), words.html("on-validation", name=_escaped(name))) for name in names]
        rates = self._line(at, _column(steps, "learning_rate"), words.plain("rate-caption"), words)
        norms = self._line(at, _column(steps, "gradient_norm"), words.plain("gradient-before"), words, logarithmic=True)
        return [*found, (rates, words.html("rate-caption")), (norms, words.html("gradient-before"))]

    def losses(self, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], words: Words) -> str:
        """Return the running means of the losses of several fits in one chart."""
        with _settings():
            figure, axes = _figure((6.2, 3.0))
            for number, (name, events) in enumerate(runs):
                steps = [line for line in events if line.get("event") == "step"]
                at, loss = _thinned(_column(steps, "step"), _smooth(_column(steps, "loss")))
                colour = ACCENT if number == 0 else INK
                axes.plot(at, loss, color=colour, linestyle=_DASHES[number % len(_DASHES)], linewidth=1.6, label=_plain(name))
            axes.set_xlabel(words.plain("updates"))
            axes.legend(fontsize=9)
            return _svg(figure, words.plain("losses-together"))

    def reliability(self, bins: Mapping[str, Sequence[Mapping[str, Any]]], words: Words) -> list[tuple[str, str]]:
        """Return the reliability diagrams before and after calibration, each with its caption as HTML."""
        return [(self._side(bins[side], side, words), words.html(side)) for side in _SIDES if bins.get(side)]

    def _side(self, bins: Sequence[Mapping[str, Any]], side: str, words: Words) -> str:
        names = ("level", "share_below") if any("level" in row for row in bins) else ("confidence", "share_right")
        rows = [row for row in bins if row.get("n") and row.get(names[1]) is not None]
        said, right = _column(rows, names[0]), _column(rows, names[1])
        low, high = _column(rows, "share_low"), _column(rows, "share_high")
        bars = np.clip(np.stack([right - low, high - right]), 0, None) if np.isfinite([*low, *high]).all() else None
        with _settings():
            figure, axes = _figure((3.3, 3.1))
            axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle="--")
            axes.errorbar(said, right, yerr=bars, color=ACCENT, marker=_SIDES[side], markersize=5, linewidth=1.3, capsize=2.5)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            axes.set_xlabel(words.plain("said-probability"))
            axes.set_ylabel(words.plain("share-right"))
            return _svg(figure, f"{words.plain('reliability')}: {words.plain(side)}")

    def coverage_risk(self, curve: Sequence[Mapping[str, Any]], words: Words) -> str:
        """Return how many of the answered rows are wrong, against how many are answered."""
        with _settings():
            figure, axes = _figure((4.8, 2.8))
            order = np.argsort(_column(curve, "coverage"))
            coverage, risk = _column(curve, "coverage")[order], _column(curve, "risk")[order]
            low, high = _column(curve, "risk_low")[order], _column(curve, "risk_high")[order]
            axes.fill_between(coverage, low, high, color=ACCENT, alpha=0.18, linewidth=0)
            axes.plot(coverage, risk, color=ACCENT, linewidth=1.8)
            axes.set(xlim=(0, 1), ylim=(0, None))
            axes.set_xlabel(words.plain("coverage-axis"))
            axes.set_ylabel(words.plain("risk-axis"))
            return _svg(figure, words.plain("abstain"))

    def heat(self, counts: Sequence[Sequence[int]], words: Words) -> str:
        """Return the confusion matrix of many classes as a picture of shares of its rows."""
        counts_CC = np.asarray(counts, dtype=float)
        shares_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
        with _settings(), _settings({"axes.grid": False}):
            figure, axes = _figure((4.6, 4.2))
            axes.imshow(shares_CC**0.5, cmap="Greys", interpolation="nearest", vmin=0, vmax=1)
            axes.set_xlabel(words.plain("answer"))
            axes.set_ylabel(words.plain("truth"))
            return _svg(figure, words.plain("confusion"))

    def _loss(self, at: Array, loss: FloatArray, words: Words) -> str:
        with _settings():
            figure, axes = _figure()
            axes.plot(*_thinned(at, loss), color=QUIET, linewidth=0.7, alpha=0.6)
            axes.plot(*_thinned(at, _smooth(loss)), color=ACCENT, linewidth=1.8)
            axes.set_ylim(0 if np.nanmin(loss, initial=0.0) >= 0 else None, None)
            axes.set_xlabel(words.plain("updates"))
            return _svg(figure, words.plain("loss"))

    def _metric(self, valid: Sequence[Mapping[str, Any]], name: str, words: Words) -> str:
        at, values = _column(valid, "step"), _column([line["metrics"] for line in valid], name)
        with _settings():
            figure, axes = _figure()
            axes.plot(at, values, color=ACCENT, linewidth=1.5, marker="o", markersize=3.5, markerfacecolor="none")
            best = [place for place, line in enumerate(valid) if line.get("best")][-1:]
            axes.plot(at[best], values[best], color=ACCENT, marker="o", markersize=7, linestyle="")
            axes.set_xlabel(words.plain("updates"))
            return _svg(figure, words.plain("on-validation", name=name))

    def _line(self, at: Array, values: FloatArray, told: str, words: Words, *, logarithmic: bool = False) -> str:
        with _settings():
            figure, axes = _figure()
            axes.plot(*_thinned(at, values), color=INK, linewidth=1.1)
            if logarithmic and np.nanmin(values, initial=1.0) > 0:
                axes.set_yscale("log")
            else:
                axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
            axes.set_xlabel(words.plain("updates"))
            return _svg(figure, told)


def charts() -> Charts | None:
    """Return what draws, or nothing where matplotlib is not installed."""
    return Charts() if installed("matplotlib") else None


def _settings(own: Mapping[str, Any] = _SETTINGS) -> Any:
    import matplotlib

    settings: Any = dict(own)
    return matplotlib.rc_context(settings)


def _new(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure


def _figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = _new(size)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    return figure, axes


def _svg(figure: Figure, told: str) -> str:
    """Return a figure as an SVG element to be put into HTML: no XML head, no ids that stand twice, colours of the page."""
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
        axes.title.set_fontsize(11)
    file = io.StringIO()
    with warnings.catch_warnings():
        # Letters are drawn by the reader's browser with its fonts; that none here has them changes nothing but their width.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from font")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, name in _COLOURS.items():
        text = text.replace(colour, f"var({name})")
    text = _NAMED_IDS.sub("", text)
    text = _FONT.sub(r"font-size: \1", text)
    widest = f"max-width:{_REM_IN * figure.get_figwidth():.1f}rem"
    text = re.sub(r"<svg ", f'<svg role="img" aria-label="{_escaped(told)}" style="{widest}" ', text, count=1)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = _DIGITS.sub(r"\1", text)
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2).replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> FloatArray:
    """Return a field of all rows; NaN where it is missing."""
    values = [row.get(name) for row in rows]
    return np.array([np.nan if value is None else float(value) for value in values])


def _smooth(values: FloatArray) -> FloatArray:
    """Return the running mean over a thirtieth of all, at the ends over what is there."""
    width = max(1, len(values) // 30)
    known = np.nan_to_num(values)
    weights = np.convolve(np.isfinite(values).astype(float), np.ones(width), mode="same")
    found: FloatArray = np.convolve(known, np.ones(width), mode="same") / np.maximum(weights, 1)
    return found


def _thinned(at: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most so many points; more cannot be told apart on the page."""
    if len(at) <= _POINTS:
        return at, values
    places = np.unique(np.linspace(0, len(at) - 1, _POINTS).astype(int))
    return at[places], values[places]


def _plain(text: str) -> str:
    """Return a name that matplotlib does not read as mathematics or hide from a legend."""
    return plain(text).replace("$", r"\$").lstrip("_") or " "


def _escaped(text: str) -> str:
    return html.escape(plain(text), quote=True)

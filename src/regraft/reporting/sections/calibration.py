"""Whether probabilities mean what they say, before and after calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from regraft.reporting.section import NONE, Found, Page, Section, details, figure, key, table, text

_SIDES = ("before", "after")


class Calibration(Section):
    """Calibration errors before and after, and the reliability diagram."""

    title: ClassVar[str] = "calibration"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return table and diagram."""
        calibration = found.values.get("calibration") or {}
        sides = [side for side in _SIDES if isinstance(calibration.get(side), dict)]
        bins = calibration.get("reliability") or {}
        if not sides and not bins:
            return ""
        parts = [f"<p>{page.say('calibrated-by', method=text(calibration['method']))}</p>"] if calibration.get("method") else []
        paths = list(dict.fromkeys(path for side in sides for path in _paths(calibration[side])))
        rows = [[_named(path), *(_error(found, side, path) for side in sides)] for path in paths]
        if rows:
            heads = [page.say(side) for side in sides]
            parts.append(table(["", *heads], rows, caption=page.say("calibration-note")))
        if page.charts is not None and any(bins.get(side) for side in _SIDES):
            drawn = "".join(figure(svg, caption) for svg, caption in page.charts.reliability(bins, page.words))
            parts.append(f'<div class="charts">{drawn}</div><p class="caption">{page.say("reliability-note")}</p>')
        parts += [_bins(found, page, side) for side in _SIDES if bins.get(side)]
        return "".join(parts)


def _paths(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Yield the paths of the figures of one side; parts of a figure stand below it."""
    for name, value in values.items():
        path = f"{before}{key(name)}"
        if isinstance(value, Mapping) and "value" not in value:
            yield from _paths(value, f"{path}/")
        else:
            yield path


def _named(path: str) -> str:
    return text(path.replace("~1", "/").replace("~0", "~").replace("_", " "))


def _error(found: Found, side: str, path: str) -> str:
    """Return a figure, which is a number whose ends stand elsewhere, or a metric with its interval."""
    plain = found.number_at(f"calibration/{side}/{path}", "digit")
    if "data-path" not in plain:
        return found.interval(f"calibration/{side}/{path}", "digit")
    ends = [found.number_at(f"calibration/intervals/{side}/{path}/{end}", "digit") for end in range(2)]
    return plain if NONE in ends else f'<span class="est">{plain}</span> <span class="ends">[{ends[0]}, {ends[1]}]</span>'


def _bins(found: Found, page: Page, side: str) -> str:
    rows = []
    for place, one in enumerate(found.values["calibration"]["reliability"][side]):
        at = f"calibration/reliability/{side}/{place}"
        said, right = ("level", "share_below") if "level" in one else ("confidence", "share_right")
        ends = "–".join(found.number_at(f"{at}/{end}", "ratio") for end in ("low", "high")) if "low" in one else NONE
        between = ", ".join(found.number_at(f"{at}/{end}", "share") for end in ("share_low", "share_high"))
        share = f'{found.number_at(f"{at}/{right}", "share")} <span class="ends">[{between}]</span>'
        rows.append([ends, found.number_at(f"{at}/{said}", "share"), share, found.number_at(f"{at}/n", "count")])
    head = [page.say(name) for name in ("bin", "said", "were-right", "rows")]
    return details(f"{page.say('reliability')}: {page.say(side)}", table(head, rows))

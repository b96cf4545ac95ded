"""Whether probabilities mean what they say, before and after calibration."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.section import Found, Page, Section, details, figure, key, table, text

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
        names = list(dict.fromkeys(name for side in sides for name in calibration[side]))
        rows = [[text(name), *(_error(found, f"calibration/{side}/{key(name)}") for side in sides)] for name in names]
        if rows:
            heads = [page.say(side) for side in sides]
            parts.append(table(["", *heads], rows, caption=page.say("calibration-note")))
        if page.charts is not None and any(bins.get(side) for side in _SIDES):
            drawn = "".join(figure(svg, caption) for svg, caption in page.charts.reliability(bins, page.words))
            parts.append(f'<div class="charts">{drawn}</div><p class="caption">{page.say("reliability-note")}</p>')
        parts += [_bins(found, page, side) for side in _SIDES if bins.get(side)]
        return "".join(parts)


def _error(found: Found, path: str) -> str:
    """Return an error, which is a number or a metric with its interval."""
    plain = found.number_at(path, "digit")
    return plain if "data-path" in plain else found.interval(path, "digit")


def _bins(found: Found, page: Page, side: str) -> str:
    rows = []
    for place in range(len(found.values["calibration"]["reliability"][side])):
        at = f"calibration/reliability/{side}/{place}"
        ends = "–".join(found.number_at(f"{at}/{end}", "ratio") for end in ("low", "high"))
        right = found.number_at(f"{at}/share_right", "share")
        between = ", ".join(found.number_at(f"{at}/{end}", "share") for end in ("share_low", "share_high"))
        cells = [ends, found.number_at(f"{at}/confidence", "share"), f'{right} <span class="ends">[{between}]</span>']
        rows.append([*cells, found.number_at(f"{at}/n", "count")])
    head = [page.say(name) for name in ("bin", "said", "were-right", "rows")]
    return details(f"{page.say('reliability')}: {page.say(side)}", table(head, rows))

"""What it costs to leave the unsure rows to somebody else."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.section import Found, Page, Section, details, figure, table

_LISTED = 11


class Abstain(Section):
    """The curve of coverage and risk."""

    title: ClassVar[str] = "abstain"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the chart and some points of it."""
        curve = (found.values.get("abstain") or {}).get("curve") or []
        if not curve:
            return ""
        drawn = ""
        if page.charts is not None:
            drawn = figure(page.charts.coverage_risk(curve, page.words), page.say("abstain-note"))
        places = sorted({round(number * (len(curve) - 1) / (_LISTED - 1)) for number in range(_LISTED)})
        rows = []
        for place in places:
            at = f"abstain/curve/{place}"
            risk = found.number_at(f"{at}/risk", "share")
            ends = ", ".join(found.number_at(f"{at}/{end}", "share") for end in ("risk_low", "risk_high"))
            cells = [found.number_at(f"{at}/threshold", "digit"), found.number_at(f"{at}/coverage", "share")]
            rows.append([*cells, f'{risk} <span class="ends">[{ends}]</span>'])
        drawn += _promises(found, page)
        listed = table([page.say("threshold"), page.say("answered"), page.say("risk")], rows)
        return drawn + (details(page.say("as-numbers"), listed) if page.charts is not None else listed)


def _promises(found: Found, page: Page) -> str:
    """Return which threshold keeps which precision, and what it costs; nothing where none is told."""
    promises = (found.values.get("abstain") or {}).get("promises") or []
    rows = []
    for place in range(len(promises)):
        at = f"abstain/promises/{place}"
        cells = [found.number_at(f"{at}/precision", "percent"), found.number_at(f"{at}/threshold", "digit")]
        rows.append([*cells, _seen(found, f"{at}/coverage_seen"), _seen(found, f"{at}/precision_seen")])
    head = [page.say(name) for name in ("wanted-precision", "threshold", "answered", "seen-precision")]
    return table(head, rows) if rows else ""


def _seen(found: Found, path: str) -> str:
    plain = found.number_at(path, "share")
    return plain if "data-path" in plain else found.interval(path, "share")

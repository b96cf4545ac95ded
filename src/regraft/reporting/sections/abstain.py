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
        listed = table([page.say("threshold"), page.say("answered"), page.say("risk")], rows)
        return drawn + (details(page.say("as-numbers"), listed) if drawn else listed)

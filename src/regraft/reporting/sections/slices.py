"""How the model fares on rows of each value of a column."""

from __future__ import annotations

from typing import Any, ClassVar

from regraft.reporting.forms import bounds_of, form_of
from regraft.reporting.section import Found, Page, Section, details, key, span_of, table, text, whisker

_LISTED = 12


class Slices(Section):
    """One table a column."""

    title: ClassVar[str] = "slices"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the tables."""
        slices = found.values.get("slices") or []
        columns: dict[str, list[int]] = {}
        for place, one in enumerate(slices):
            columns.setdefault(str(one.get("column")), []).append(place)
        parts = [f"<p>{page.say('slices-note')}</p>"] if columns else []
        for column, places in columns.items():
            first = _table(found, page, places[:_LISTED])
            more = details(page.say("all-others"), _table(found, page, places[_LISTED:])) if len(places) > _LISTED else ""
            parts.append(f"<h4>{text(column)}</h4>{first}{more}")
        return "".join(parts)


def _table(found: Found, page: Page, places: list[int]) -> str:
    slices = found.values["slices"]
    headline = next(iter(slices[places[0]].get("metrics") or {}), "")
    span = span_of([(slices[place].get("metrics") or {}).get(headline) for place in places], bounds_of(headline))
    rows = [_row(found, place, headline, span) for place in places]
    head = [
        "",
        text(headline),
        page.say("value-and-interval"),
        page.say("difference"),
        "p",
        page.say("p-holm"),
        page.say("rows"),
    ]
    return table(head, rows, wide=True)


def _row(found: Found, place: int, headline: str, span: tuple[float, float]) -> list[str]:
    one, at = found.values["slices"][place], f"slices/{place}"
    metric: dict[str, Any] = (one.get("metrics") or {}).get(headline) or {}
    form = form_of(headline)
    return [
        text(one.get("value")),
        whisker(metric.get("value"), metric.get("low"), metric.get("high"), span),
        found.interval(f"{at}/metrics/{key(headline)}", form),
        found.interval(f"{at}/difference", "points" if form == "share" else "signed"),
        found.number_at(f"{at}/p_value", "p"),
        found.number_at(f"{at}/p_holm", "p"),
        found.number_at(f"{at}/n", "count"),
    ]

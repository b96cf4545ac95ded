"""Precision, recall and F1 of every class."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.section import Found, Page, Section, details, span_of, table, text, whisker

_LISTED = 30


class ClassesSection(Section):
    """One line a class, the weakest first where there are many."""

    title: ClassVar[str] = "classes"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the table."""
        classes = found.values.get("per_class") or []
        if not classes:
            return ""
        order = list(range(len(classes)))
        if len(classes) > _LISTED:
            order.sort(key=lambda place: (classes[place]["f1"]["value"] is None, classes[place]["f1"]["value"] or 0.0))
        span = span_of([classes[place]["f1"] for place in order], (0.0, 1.0))
        rows = [_row(found, place, span) for place in order]
        head = [page.say("class"), page.say("f1-scale"), "F1", page.say("precision"), page.say("recall"), page.say("rows")]
        first = table(head, rows[:_LISTED], wide=True)
        if len(rows) <= _LISTED:
            return first
        told = f'<p class="caption">{page.say("weakest-first", shown=str(_LISTED), all=str(len(rows)))}</p>'
        return told + first + details(page.say("all-others"), table(head, rows[_LISTED:], wide=True))


def _row(found: Found, place: int, span: tuple[float, float]) -> list[str]:
    row, at = found.values["per_class"][place], f"per_class/{place}"
    drawn = whisker(row["f1"]["value"], row["f1"]["low"], row["f1"]["high"], span)
    f1, precision, recall = (found.interval(f"{at}/{part}", "share") for part in ("f1", "precision", "recall"))
    return [text(row["label"]), drawn, f1, precision, recall, found.number_at(f"{at}/support", "count")]

"""How far the figure of a contender moves with the seed of its fits, and how far with the rows."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.forms import form_of
from regraft.reporting.section import Found, Page, Section, key, table, text

_PARTS = ("seeds", "rows", "both")


class Seeds(Section):
    """One line a contender that is several fits."""

    title: ClassVar[str] = "seeds"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the table."""
        rows = []
        for name, study in (found.values.get("seeds") or {}).items():
            at, form = f"seeds/{key(name)}", form_of(str(study.get("metric", "")))
            cells = [text(name), text(study.get("metric")), found.interval(f"{at}/mean", form)]
            cells.append(found.number_at(f"{at}/spread", form))
            rows.append([*cells, *(found.number_at(f"{at}/variance/{part}", "rate") for part in _PARTS)])
        head = ["", page.say("metric"), page.say("mean-and-interval"), page.say("spread")]
        head += [page.say(f"variance-of-{part}") for part in _PARTS]
        return table(head, rows, wide=True) if rows else ""

"""What the model is without each part of a row."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.section import Found, Page, Section
from regraft.reporting.sections.ladder import steps_table


class Ablation(Section):
    """One line a part that is taken away."""

    title: ClassVar[str] = "ablation"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the table."""
        steps = found.values.get("ablation") or []
        return f"<p>{page.say('ablation-note')}</p>" + steps_table(found, page, steps, "ablation") if steps else ""

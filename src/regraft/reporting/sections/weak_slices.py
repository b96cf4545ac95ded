"""Groups of rows on which the model is worse than on all, found by search."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.forms import form_of
from regraft.reporting.section import Found, Page, Section, table, text


class WeakSlices(Section):
    """One line a rule; that none was found is told too."""

    title: ClassVar[str] = "weak-slices"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the table."""
        slices = found.values.get("weak_slices")
        if slices is None:
            return ""
        if not slices:
            return f"<p>{page.say('no-weak-slice')}</p>"
        rows = []
        for place, one in enumerate(slices):
            at, form = f"weak_slices/{place}", form_of(str(one.get("metric", "")))
            ends = ", ".join(found.number_at(f"{at}/{end}", form) for end in ("low", "high"))
            here = f'<span class="est">{found.number_at(f"{at}/value", form)}</span> <span class="ends">[{ends}]</span>'
            size = f"{found.number_at(f'{at}/n', 'count')} ({found.number_at(f'{at}/share', 'share')})"
            cells = [text(one.get("rule")), size, text(one.get("metric")), here, found.number_at(f"{at}/overall", form)]
            rows.append([*cells, found.number_at(f"{at}/p_value", "p"), found.number_at(f"{at}/p_holm", "p")])
        head = [page.say(name) for name in ("rule", "rows", "metric", "value-and-interval", "overall")]
        return table([*head, "p", page.say("p-holm")], rows, wide=True, caption=page.say("weak-slices-note"))

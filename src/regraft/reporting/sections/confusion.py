"""What was taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from regraft.reporting.section import Found, Page, Section, figure, table, text

SQUARE = 20
"""Up to so many classes the matrix is a square of numbers; of more, a picture and the most frequent mistakes."""
_LISTED = 20


class ConfusionSection(Section):
    """Rows are the truth, columns the answer; what is right stands on the diagonal, framed."""

    title: ClassVar[str] = "confusion"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the matrix."""
        confusion = found.values.get("confusion")
        if not confusion:
            return ""
        labels = confusion["labels"]
        if len(labels) <= SQUARE and "counts" in confusion:
            return _square(found, page, labels, confusion["counts"])
        drawn = ""
        if page.charts is not None and "counts" in confusion:
            drawn = figure(page.charts.heat(confusion["counts"], page.words), page.say("heat-note"))
        return drawn + _mistakes(found, page, labels, confusion)


def _square(found: Found, page: Page, labels: Sequence[object], counts: Sequence[Sequence[int]]) -> str:
    head = "".join(f'<th scope="col"><span>{text(label)}</span></th>' for label in labels)
    lines = []
    for truth, row in enumerate(counts):
        total = sum(row) or 1
        cells = "".join(_cell(found, (truth, given), rows, rows / total) for given, rows in enumerate(row))
        lines.append(f'<tr><th scope="row">{text(labels[truth])}</th>{cells}</tr>')
    corner = f'<th class="corner">{page.say("is-taken-for")}</th>'
    inner = f"<thead><tr>{corner}{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    small = " many" if len(labels) > 8 else ""
    caption = f'<p class="caption">{page.say("confusion-note")}</p>'
    return f'<div class="scroll"><table class="confusion{small}">{inner}</table></div>{caption}'


def _cell(found: Found, place: tuple[int, int], rows: int, share: float) -> str:
    kind = "right" if place[0] == place[1] else "wrong"
    number = found.number_at(f"confusion/counts/{place[0]}/{place[1]}", "count")
    empty = " empty" if not rows else ""
    return f'<td class="{kind}{empty}" style="--s:{share:.3f}">{number}</td>'


def _mistakes(found: Found, page: Page, labels: Sequence[object], confusion: Mapping[str, Any]) -> str:
    if "counts" in confusion:
        cells = [
            (rows, truth, given, f"confusion/counts/{truth}/{given}")
            for truth, row in enumerate(confusion["counts"])
            for given, rows in enumerate(row)
        ]
    else:
        cells = [(rows, truth, given, f"confusion/cells/{k}/2") for k, (truth, given, rows) in enumerate(confusion["cells"])]
    wrong = sorted((cell for cell in cells if cell[0] and cell[1] != cell[2]), key=lambda cell: (-cell[0], cell[1], cell[2]))
    rows = [
        [text(labels[truth]), text(labels[given]), found.number_at(path, "count")] for _, truth, given, path in wrong[:_LISTED]
    ]
    head = [page.say("truth"), page.say("was-taken-for"), page.say("rows")]
    return table(head, rows, caption=page.say("mistakes-note", shown=str(len(rows)), all=f"{len(wrong):,}")) if rows else ""

"""What went in: rows of the splits, what was lost or odd on the way, notes."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.section import Found, Page, Section, key, table, text

_DIGITS = 16


class Data(Section):
    """Fingerprints, the ledger, and what a reader must know."""

    title: ClassVar[str] = "data"

    def html(self, found: Found, page: Page) -> str:
        """Return tables and notes."""
        report = found.values
        parts = [_splits(found, page), _ledger(found, page)]
        notes = "".join(f"<li>{text(note)}</li>" for note in report.get("notes") or [])
        if notes:
            parts.append(f'<h4>{page.say("notes")}</h4><ul class="notes">{notes}</ul>')
        return "".join(parts)


def _splits(found: Found, page: Page) -> str:
    prints = found.values.get("fingerprint")
    if not isinstance(prints, dict):
        return ""
    rows = [
        [text(split), found.number_at(f"fingerprint/{key(split)}/rows", "count"), _digest(facts.get("rows_digest"))]
        for split, facts in prints.items()
        if isinstance(facts, dict)
    ]
    return table([page.say("split"), page.say("rows"), page.say("digest")], rows) if rows else ""


def _digest(digest: object) -> str:
    return f"<code>{text(str(digest or '')[:_DIGITS])}</code>"


def _ledger(found: Found, page: Page) -> str:
    ledger = found.values.get("ledger") or {}
    if not ledger:
        return f"<p>{page.say('nothing-lost')}</p>"
    rows = [
        [text(why), found.number_at(f"ledger/{key(why)}/count", "count"), "<br>".join(map(text, loss.get("examples") or []))]
        for why, loss in ledger.items()
    ]
    return table([page.say("lost"), page.say("how-often"), page.say("where-first")], rows)

"""How to make the artifact again, and how to use it."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.section import Found, Page, Section, text


class Again(Section):
    """The command, and what the same command gives."""

    title: ClassVar[str] = "again"

    def html(self, found: Found, page: Page) -> str:
        """Return the commands; nothing where nobody knows them."""
        command = found.subject.command
        if not command:
            return ""
        name = text(found.subject.name)
        use = f"regraft predict {name} FILE --out answers.csv\nregraft evaluate {name} LABELLED-FILE\nregraft serve {name}"
        made = f"<pre>{text(command)}</pre><p>{page.say('again-note')}</p>"
        return made + f"<h4>{page.say('use')}</h4><pre>{use}</pre>"

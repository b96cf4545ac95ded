"""Sets or ranges of answers that hold the truth as often as was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from regraft.reporting.section import Found, Page, Section, key, table, text

_SHARES = ("coverage", "share")


class Conformal(Section):
    """What was asked for and what was seen."""

    title: ClassVar[str] = "conformal"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return one line a figure, under the names that the report gives them."""
        conformal = found.values.get("conformal") or {}
        rows = list(_rows(found, conformal, "conformal", ""))
        return table(["", page.say("value")], rows, caption=page.say("conformal-note")) if rows else ""


def _rows(found: Found, values: Mapping[str, Any], path: str, before: str) -> Iterator[list[str]]:
    for name, value in values.items():
        at, told = f"{path}/{key(name)}", f"{before}{name}".replace("_", " ")
        form = "share" if any(word in name for word in _SHARES) else "digit"
        if isinstance(value, Mapping) and "value" in value:
            yield [text(told), found.interval(at, form)]
        elif isinstance(value, Mapping):
            yield from _rows(found, value, at, f"{told}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield [text(told), found.number_at(at, form)]
        elif isinstance(value, list):
            for place, one in enumerate(value):
                if isinstance(one, Mapping) and "value" in one:
                    yield [text(f"{told}: {one.get('label', place)}"), found.interval(f"{at}/{place}", "share")]
        elif isinstance(value, str):
            yield [text(told), text(value)]

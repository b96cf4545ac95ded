"""Rates by declared groups, and their differences."""

from __future__ import annotations

from typing import Any, ClassVar

from regraft.reporting.section import Found, Page, Section, key, table, text

_OWN = frozenset({"group", "n", "too_small"})


class Fairness(Section):
    """One line a group, then one a difference."""

    title: ClassVar[str] = "fairness"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the tables."""
        fairness = found.values.get("fairness") or {}
        groups, differences = fairness.get("groups") or [], fairness.get("differences") or []
        if not groups and not differences:
            return ""
        rates = list(dict.fromkeys(name for group in groups for name in group if name not in _OWN))
        rows = [
            [
                text(group.get("group"))
                + (f' <span class="quiet">{page.say("few-rows")}</span>' if group.get("too_small") else ""),
                found.number_at(f"fairness/groups/{place}/n", "count"),
                *(_rate(found, f"fairness/groups/{place}/{key(rate)}") for rate in rates),
            ]
            for place, group in enumerate(groups)
        ]
        head = [text(fairness.get("column")), page.say("rows"), *(text(rate.replace("_", " ")) for rate in rates)]
        drawn = f"<p>{page.say('positive-answer', label=text(fairness['positive']))}</p>" if "positive" in fairness else ""
        drawn += table(head, rows, wide=True) if rows else ""
        return drawn + _differences(found, page, differences)


def _rate(found: Found, path: str) -> str:
    plain = found.number_at(path, "share")
    return plain if "data-path" in plain else found.interval(path, "share")


def _name(one: dict[str, Any]) -> str:
    """Return what differs, and of which label."""
    name, label = str(one.get("name")).replace("_", " "), one.get("label")
    return f"{name} ({label})" if label else name


def _differences(found: Found, page: Page, differences: list[dict[str, Any]]) -> str:
    rows = [
        [
            text(_name(one)),
            found.interval(f"fairness/differences/{place}", "points"),
            text(" − ".join(map(str, one.get("between") or ()))),
        ]
        for place, one in enumerate(differences)
    ]
    return table(["", page.say("difference"), page.say("between")], rows, caption=page.say("fairness-note")) if rows else ""

"""The ladder: what the model is held against, from the weakest baseline to the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from regraft.reporting.forms import bounds_of, form_of
from regraft.reporting.section import NONE, Found, Page, Section, details, key, span_of, table, text, whisker

_COSTS = {"size_bytes": ("megabytes", ""), "latency_ms": ("digit", " ms")}
"""What a rung takes to answer -> how the number is written, and what follows it; the seconds of learning have their column."""
_MARKS = {"better": "▲", "no evidence": "≈", "worse": "▼"}


class LadderSection(Section):
    """One line a rung, with dot and whisker, and the test against the rung below."""

    title: ClassVar[str] = "ladder"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the table."""
        steps = found.values.get("ladder") or []
        if not steps:
            return ""
        return steps_table(found, page, steps, "ladder", len(steps) - 1) + _others(found, page, steps)


def steps_table(found: Found, page: Page, steps: Sequence[Mapping[str, Any]], path: str, strong: int = -1) -> str:
    """Return rungs as a table, the strongest of the whiskers being that of one rung.

    Args:
        found: What the section draws.
        page: Language.
        steps: Rungs, or what the model is without parts of a row.
        path: Where they stand.
        strong: Which is the model.
    """
    headline = next(iter(steps[-1]["metrics"]))
    form, bounds = form_of(headline), bounds_of(headline)
    span = span_of([step["metrics"].get(headline) for step in steps], bounds)
    with_cost = any((step.get("cost") or {}).get(name) is not None for step in steps for name in _COSTS)
    rows = []
    for place, step in enumerate(steps):
        metric, at = step["metrics"].get(headline) or {}, f"{path}/{place}"
        drawn = whisker(metric.get("value"), metric.get("low"), metric.get("high"), span, strong=place == strong)
        name = f"<strong>{text(step['name'])}</strong>" if place == strong else text(step["name"])
        cells = [name, drawn, found.interval(f"{at}/metrics/{key(headline)}", form), *tested(found, page, step, at)]
        cells.append(found.number_at(f"{at}/seconds", "seconds") if step.get("seconds") else NONE)
        if with_cost:
            cells.append(_cost(found, step, at))
        rows.append(cells)
    head = [
        "",
        text(headline),
        page.say("value-and-interval"),
        page.say("verdict"),
        page.say("difference"),
        "p",
        page.say("time"),
    ]
    notes = "".join(f"<li><b>{text(step['name'])}</b>: {text(step['note'])}</li>" for step in steps if step.get("note"))
    below = page.say("scale-from-to", low=_end(span[0], form), high=_end(span[1], form)) + " " + page.say("against-row-above")
    drawn = table([*head, *([page.say("cost")] if with_cost else [])], rows, wide=True, caption=below)
    return drawn + (f'<ul class="notes">{notes}</ul>' if notes else "")


def tested(found: Found, page: Page, step: Mapping[str, Any], at: str) -> list[str]:
    """Return verdict, difference and p-value of a rung against the one below it."""
    comparison = step.get("against_previous")
    if not comparison:
        return [NONE] * 3
    form = "signed" if comparison.get("quantity") else "points"
    return [
        badge(page, comparison["verdict"]),
        found.interval(f"{at}/against_previous/difference", form),
        _p(found, page, f"{at}/against_previous", comparison),
    ]


def _p(found: Found, page: Page, at: str, comparison: Mapping[str, Any]) -> str:
    """Return the p-value of a test, and below it the corrected one that the verdict follows, where there is one."""
    plain = found.number_at(f"{at}/p_value", "p")
    if comparison.get("p_holm") is None:
        return plain
    return f'{plain}<br><span class="quiet">Holm {found.number_at(f"{at}/p_holm", "p")}</span>'


def badge(page: Page, verdict: str) -> str:
    """Return a verdict with its sign, so that it can be told without colour."""
    kind = verdict.replace(" ", "-")
    return f'<span class="badge {kind}">{_MARKS.get(verdict, "")} {page.say(f"verdict-{kind}")}</span>'


def _end(value: float, form: str) -> str:
    return f"{100 * value:.0f} %" if form == "share" else f"{value:.3g}"


def _others(found: Found, page: Page, steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the other metrics of the rungs, to be unfolded."""
    names = list(dict.fromkeys(name for step in steps for name in step["metrics"]))
    if len(names) < 2:
        return ""
    rows = [
        [text(step["name"]), *(found.interval(f"ladder/{place}/metrics/{key(name)}", form_of(name)) for name in names)]
        for place, step in enumerate(steps)
    ]
    return details(page.say("all-metrics"), table(["", *map(text, names)], rows, wide=True))


def _cost(found: Found, step: Mapping[str, Any], at: str) -> str:
    """Return what a rung takes to answer, as far as it is known."""
    told = step.get("cost") or {}
    there = [(name, *how) for name, how in _COSTS.items() if told.get(name) is not None]
    return "<br>".join(f"{found.number_at(f'{at}/cost/{name}', form)}{unit}" for name, form, unit in there) or NONE

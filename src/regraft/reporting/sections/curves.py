"""Learning curves: loss, validation metrics, learning rate, gradient norm."""

from __future__ import annotations

from typing import ClassVar

from regraft.artifact.kept_events import steps_of
from regraft.reporting.section import Found, Page, Section, details, figure, key, table, text

_LISTED = 12
_SHOWN = {"loss": "digit", "learning_rate": "rate", "gradient_norm": "digit"}


class Curves(Section):
    """A chart a curve; the numbers of some updates and of every validation, to be unfolded."""

    title: ClassVar[str] = "curves"

    def html(self, found: Found, page: Page) -> str:
        """Return charts and tables."""
        events = found.subject.events
        if not steps_of(list(events)):  # type: ignore[arg-type]
            return ""
        parts = []
        if page.charts is not None:
            drawn = page.charts.curves(events, page.words)
            parts.append('<div class="charts">' + "".join(figure(svg, caption) for svg, caption in drawn) + "</div>")
        ends = [(place, line) for place, line in enumerate(events) if line.get("event") == "end"]
        for place, line in ends[-1:]:
            step = found.source("events", f"{place}/best_step", "count")
            parts.append(f"<p>{page.say('weights-kept', reason=text(line.get('reason')), step=step)}</p>")
        parts.append(details(page.say("as-numbers"), _validations(found, page) + _updates(found, page)))
        return "".join(parts)


def _validations(found: Found, page: Page) -> str:
    places = [place for place, line in enumerate(found.subject.events) if line.get("event") == "valid"]
    names = list(dict.fromkeys(name for place in places for name in found.subject.events[place]["metrics"]))
    rows = []
    for place in _spread(places):
        cells = [found.source("events", f"{place}/metrics/{key(name)}", "digit") for name in names]
        best = page.say("best-so-far") if found.subject.events[place].get("best") else ""
        rows.append([found.source("events", f"{place}/step", "count"), *cells, f'<span class="quiet">{best}</span>'])
    if not rows:
        return ""
    caption = page.say("validations-of", shown=str(len(rows)), all=str(len(places)))
    return table([page.say("step"), *map(text, names), ""], rows, caption=caption)


def _updates(found: Found, page: Page) -> str:
    places = [place for place, line in enumerate(found.subject.events) if line.get("event") == "step"]
    rows = [
        [found.source("events", f"{place}/step", "count")]
        + [found.source("events", f"{place}/{name}", form) for name, form in _SHOWN.items()]
        for place in _spread(places)
    ]
    caption = page.say("updates-of", shown=str(len(rows)), all=f"{len(places):,}")
    return table([page.say("step"), *(page.say(name.replace("_", "-")) for name in _SHOWN)], rows, caption=caption)


def _spread(places: list[int]) -> list[int]:
    """Return at most so many of the places, evenly spaced, the last among them."""
    if len(places) <= _LISTED:
        return places
    return [places[(number + 1) * len(places) // _LISTED - 1] for number in range(_LISTED)]

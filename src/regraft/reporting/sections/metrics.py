"""Every metric with its interval."""

from __future__ import annotations

from typing import ClassVar

from regraft.evaluation import METRICS
from regraft.evaluation.judge import metric_name
from regraft.reporting.forms import bounds_of, form_of
from regraft.reporting.section import Found, Page, Section, key, span_of, table, text, whisker

_DIRECTIONS = {True: "higher-is-better", False: "lower-is-better", None: ""}


class Metrics(Section):
    """One line a metric."""

    title: ClassVar[str] = "metrics"
    per_target: ClassVar[bool] = True

    def html(self, found: Found, page: Page) -> str:
        """Return the table."""
        metrics = found.values.get("metrics") or {}
        rows = []
        for name, metric in metrics.items():
            path, form = f"metrics/{key(name)}", form_of(name)
            bounds = bounds_of(name)
            span = bounds if bounds == (0.0, 1.0) else span_of([metric], bounds)
            drawn = whisker(metric["value"], metric["low"], metric["high"], span, strong=True)
            registered = metric_name(name)[1]
            direction = _DIRECTIONS[METRICS.get(registered).higher_is_better] if registered in METRICS else ""
            said = page.say(direction) if direction else ""
            cells = [text(name), found.interval(path, form), drawn, found.number_at(f"{path}/n", "count")]
            rows.append([*cells, f'<span class="quiet">{said}</span>'])
        head = [page.say(name) for name in ("metric", "value-and-interval", "on-a-scale", "rows")]
        return table([*head, ""], rows, caption=page.say("interval-note", percent=confidence(found))) if rows else ""


def confidence(found: Found) -> str:
    """Return the confidence of intervals in percent."""
    whole = Found(subject=found.subject, values=found.subject.report, number=found.number)
    return whole.number_at("confidence", "percent")

"""What it cost: time by stage, throughput, memory."""

from __future__ import annotations

from typing import ClassVar

from regraft.reporting.section import Found, Page, Section, key, table, text

_FORMS = {"_s": "digit", "_mb": "mb", "ratio": "ratio", "mfu": "ratio", "flops": "digit"}


class CostSection(Section):
    """Stages as bars, then every figure under its name."""

    title: ClassVar[str] = "cost"

    def html(self, found: Found, page: Page) -> str:
        """Return the tables."""
        seconds = {stage: took for stage, took in (found.values.get("seconds_by_stage") or {}).items() if took}
        most = max(seconds.values(), default=0.0)
        rows = [
            [text(stage), _bar(took / most), found.number_at(f"seconds_by_stage/{key(stage)}", "seconds")]
            for stage, took in sorted(seconds.items(), key=lambda item: -item[1])
        ]
        total = f"<p>{page.say('in-all', seconds=found.number_at('seconds', 'seconds'))}</p>"
        stages = table([page.say("stage"), "", page.say("time")], rows) if rows else ""
        return f'{total}<div class="pair"><div>{stages}</div><div>{_figures(found, page)}</div></div>'


def _bar(share: float) -> str:
    return f'<span class="bar" style="--v:{100 * share:.1f}" aria-hidden="true"><i></i></span>'


def _figures(found: Found, page: Page) -> str:
    cost = found.values.get("cost") or {}
    rows = []
    for name, value in cost.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            form = next((form for end, form in _FORMS.items() if end in name), "count")
            rows.append([text(name.replace("_", " ")), found.number_at(f"cost/{key(name)}", form)])
        elif isinstance(value, str):
            rows.append([text(name.replace("_", " ")), text(value)])
    return table([page.say("figure"), page.say("value")], rows) if rows else ""

"""Draw a report for people: rich renderables, 80 columns wide, and the same as plain text for logs. Nothing is printed here."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from regraft.evaluation import METRICS
from regraft.evaluation.compare import Comparison
from regraft.evaluation.fairness import Fairness
from regraft.evaluation.judge import ClassRow, Confusion, Judgement, metric_name
from regraft.evaluation.ladder import Ladder, Step
from regraft.evaluation.measure import shown
from regraft.evaluation.report import Report, TargetReport
from regraft.evaluation.slicing import Slicing
from regraft.evaluation.trust_lines import trust_lines
from regraft.evaluation.weak_slices import WeakSlice
from regraft.training.cost import sentences
from regraft.types import Label, Metric

WIDTH = 80
MOST_CLASSES = 20
"""Classes listed one by one; of more, those with the lowest F1."""
MOST_SQUARE = 8
"""Up to so many classes the confusion matrix is drawn as a square; of more, the most frequent mistakes are listed."""

_VERDICT_STYLES: Mapping[str, str] = {"better": "bold green", "no evidence": "bold yellow", "worse": "bold red"}
_DIRECTIONS = {True: "higher is better", False: "lower is better", None: ""}
_BLOCKS = " ▏▎▍▌▋▊▉█"


def draw(report: Report) -> Group:
    """Return everything a person wants to see of a report, the verdict first."""
    parts: list[RenderableType] = []
    parts += found(report)
    parts += [Text(line, style="dim") for line in note_lines(report)]
    parts += [Text(line, style="dim") for line in cost_lines(report)]
    lost = report.ledger.to_json()
    parts += [Text(ledger_line(why, loss), style="yellow") for why, loss in lost.items()]
    return Group(*(line for part in parts for line in ((part,) if isinstance(part, Text | Panel) else (part, Text("")))))


def found(report: Report) -> list[RenderableType]:
    """Return verdict, ladder and tables of a report; of several targets one after the other, then what is said of all."""
    drawn: list[RenderableType] = []
    for name, one in report.targets.items():
        drawn += [Text(f"target {_clean(name)}", style="bold"), *_of_target(one)]
    if report.targets:
        return [*drawn, Text("all targets", style="bold"), metrics_table(report.judgement.metrics, report.judgement.confidence)]
    return _of_target(report)


def _of_target(report: Report | TargetReport) -> list[RenderableType]:
    drawn: list[RenderableType] = []
    if report.ladder:
        drawn += [verdict_panel(report.ladder.verdict), ladder_table(report.ladder)]
    drawn += [ablation_table(report.ablation)] if report.ablation else []
    lines = [Text(line, style="dim") for line in trust_lines(report.trust)]
    return [*drawn, *tables(report.judgement), *groups(report.slicing), *lines]


def groups(slicing: Slicing) -> list[RenderableType]:
    """Return weak slices and fairness, nothing for what was not looked for; all slices stand in the JSON only."""
    drawn: list[RenderableType] = []
    if slicing.weak_slices:
        drawn.append(weak_slices_table(slicing.weak_slices))
    elif slicing.weak_slices is not None:
        drawn.append(Text("weak slices: none was found", style="dim"))
    return [*drawn, fairness_table(slicing.fairness)] if slicing.fairness else drawn


def weak_slices_table(found: Sequence[WeakSlice]) -> Table:
    """Return one line a weak slice: which rows, how well they are answered, how many there are."""
    name = found[0].metric
    share = METRICS.get(name).bounds == (0.0, 1.0)
    table = _table("weak slices", f"{name} %" if share else name, "p", "rows")
    table.columns[-1].justify = "right"
    for one in found:
        told = _percent(one.found) if share else _numbers(name, one.found)
        table.add_row(Text(_short(one.rule, 44)), Text(told), Text(_p(one.p_holm)), f"{one.n:,}")
    overall = f"{100 * found[0].overall:.1f} %" if share else _number(name, found[0].overall)
    legend = f"of all rows {overall}; found on one half of the rows, tested on the other, p corrected"
    table.caption = Text(legend, style="dim")
    return table


def fairness_table(fairness: Fairness) -> Table:
    """Return one line a group: how often it is given the positive answer, in all and where it is true; and the differences."""
    table = _table(_short(fairness.column, 20), "given %", "where true %", "right %", "rows")
    table.columns[-1].justify = "right"
    for group in fairness.groups:
        rates = (group.positive_rate, group.true_positive_rate, group.accuracy)
        name = _short(group.group, 20) + (" (too few)" if group.too_small else "")
        table.add_row(Text(name), *(Text(_percent(rate)) for rate in rates), f"{group.n:,}")
    lines = [f"fairness over {_clean(fairness.column)}: how often '{_short(fairness.positive, 30)}' is given"]
    for one in fairness.differences:
        ends = f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}] points"
        of = "" if fairness.declared else f" of '{_short(one.label, 20)}'"
        lines.append(f"{one.name.replace('_', ' ')}{of}: {ends}, {' against '.join(_short(name, 20) for name in one.between)}")
    table.caption = Text("\n".join(lines), style="dim")
    return table


def ladders(report: Report) -> list[RenderableType]:
    """Return verdict and ladder of a report, of each target where there are several."""
    drawn: list[RenderableType] = []
    every: Mapping[str, Report | TargetReport] = report.targets or {"": report}
    for name, one in every.items():
        drawn += [Text(f"target {_clean(name)}", style="bold")] if name else []
        drawn += [verdict_panel(one.ladder.verdict), ladder_table(one.ladder)] if one.ladder else []
    return drawn


def tables(judgement: Judgement) -> list[Table]:
    """Return the tables of one judgement: metrics, and where there are classes each class and what was taken for what."""
    found = [metrics_table(judgement.metrics, judgement.confidence)]
    if judgement.per_class:
        found.append(classes_table(judgement.per_class))
    if judgement.confusion is not None:
        found.append(confusion_table(judgement.confusion))
    return found


def note_lines(report: Report) -> list[str]:
    """Return what a reader must know, one line a note."""
    return [f"note: {_clean(note)}" for note in dict.fromkeys([*report.judgement.notes, *report.notes])]


def cost_lines(report: Report) -> list[str]:
    """Return what the run cost, one line a subject; nothing for reports that do not say."""
    return [_clean(f"cost: {line}") for line in sentences(report.cost)]


def ledger_line(why: str, loss: Mapping[str, Any]) -> str:
    """Return one entry of the ledger: what was lost or is odd, how often, where first."""
    places = "; ".join(_clean(str(place)) for place in loss["examples"])
    return f"ledger: {_clean(why)}: {loss['count']:,}" + (f" ({places})" if places else "")


def plain(drawn: RenderableType, width: int = WIDTH) -> str:
    """Return a renderable as plain text without colours, for logs.

    Args:
        drawn: What another function of this file returned.
        width: Columns.
    """
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def verdict_panel(verdict: Comparison) -> Panel:
    """Return the verdict in one sentence, framed in its colour."""
    style = _VERDICT_STYLES.get(verdict.verdict, "")
    return Panel(Text(_clean(verdict.sentence())), title=verdict.verdict, border_style=style, width=WIDTH)


def ladder_table(ladder: Ladder) -> Table:
    """Return one line a rung, weakest first: the first metric with its interval, and the test against the rung before."""
    headline = next(iter(ladder.steps[-1].metrics))
    share = METRICS.get(headline).bounds == (0.0, 1.0)
    quantity = ladder.verdict.quantity
    table = _table("", "", f"{headline} %" if share else headline, "verdict", "change" if quantity else "points", "p", "time")
    for column in table.columns[4:]:
        column.justify = "right"
    for step in ladder.steps:
        metric, tested = step.metrics[headline], step.against_previous
        cells = [Text(""), Text(""), Text("")]
        if tested:
            verdict = Text(tested.verdict, style=_VERDICT_STYLES.get(tested.verdict, ""))
            cells = [verdict, Text(tested.shown()), Text(_p(tested.p_decisive))]
        bar = Text(_bar(metric.value) if share else "", style="cyan")
        told = _percent(metric) if share else _numbers(headline, metric)
        table.add_row(Text(_short(step.name, 16)), bar, told, *cells, _time(step.seconds))
    legend = "verdict, difference of accuracies in points and McNemar's p: against the row above"
    if ladder.verdict.seeds:
        what = f"change of {quantity}" if quantity else "difference of accuracies in points"
        legend = f"verdict, {what} and p of a t test over seeds and rows: against the row above; figures are means over seeds"
    elif quantity or ladder.verdict.groups:
        what = f"change of {quantity}" if quantity else "difference of accuracies in points"
        legend = f"verdict, {what} and p of a paired randomisation test: against the row above"
    legend += _family_told([step.against_previous for step in ladder.steps])
    notes = [f"{_short(step.name, 16)}: {_clean(step.note)}" for step in ladder.steps if step.note]
    table.caption = Text("\n".join([legend, *notes]), style="dim")
    return table


def ablation_table(steps: Sequence[Step]) -> Table:
    """Return what the model is without each part of a row, the part that it needs most first."""
    headline = next(iter(steps[0].metrics))
    share, tested = METRICS.get(headline).bounds == (0.0, 1.0), [step.against_previous for step in steps]
    quantity = next((comparison.quantity for comparison in tested if comparison), "")
    table = _table("", f"{headline} %" if share else headline, "verdict", "change" if quantity else "points", "p")
    for column in table.columns[3:]:
        column.justify = "right"
    order = sorted(steps, key=lambda step: -abs(step.against_previous.difference.value) if step.against_previous else 0.0)
    for step in order:
        metric, comparison = step.metrics[headline], step.against_previous
        cells = [Text(""), Text(""), Text("")]
        if comparison:
            verdict = Text(comparison.verdict, style=_VERDICT_STYLES.get(comparison.verdict, ""))
            cells = [verdict, Text(comparison.shown()), Text(_p(comparison.p_decisive))]
        table.add_row(Text(_short(step.name, 28)), Text(_percent(metric) if share else _numbers(headline, metric)), *cells)
    notes = [f"{_short(step.name, 28)}: {_clean(step.note)}" for step in steps if step.note]
    table.caption = Text(
        "\n".join([f"the fitted model on the same rows, one part taken away: against all parts{_family_told(tested)}", *notes]),
        style="dim",
    )
    return table


def metrics_table(metrics: Mapping[str, Metric], confidence: float = 0.95) -> Table:
    """Return one line a metric with its interval and whether more or less of it is better."""
    table = _table("metric", "value", f"{100 * confidence:g} % interval", "rows", "")
    for name, metric in metrics.items():
        direction = _DIRECTIONS[METRICS.get(metric_name(name)[1]).higher_is_better]
        ends = f"[{_number(name, metric.low)}, {_number(name, metric.high)}]"
        table.add_row(name, _number(name, metric.value), ends, f"{metric.n:,}", Text(direction, style="dim"))
    return table


def classes_table(rows: Sequence[ClassRow]) -> Table:
    """Return precision, recall and F1 of every class; of very many classes those that fare worst."""
    table = _table("class", "precision", "recall", "f1", "rows")
    table.columns[-1].justify = "right"
    listed = list(rows)
    if len(rows) > MOST_CLASSES:
        worst = sorted(rows, key=lambda row: (math.isnan(row.f1.value), row.f1.value))
        listed = worst[:MOST_CLASSES]
        table.caption = Text(f"the {MOST_CLASSES} classes with the lowest f1 of {len(rows)}", style="dim")
    for row in listed:
        support = f"{row.support:,}"
        table.add_row(Text(_short(row.label, 16)), *(_brief(part) for part in (row.precision, row.recall, row.f1)), support)
    return table


def confusion_table(confusion: Confusion) -> Table:
    """Return the confusion matrix, or of many classes the most frequent mistakes."""
    if len(confusion.labels) <= MOST_SQUARE:
        return _square(confusion)
    table = _table("is", "was taken for", "rows", title="most frequent mistakes")
    table.columns[-1].justify = "right"
    wrong = sorted(((rows, cell) for cell, rows in confusion.cells.items() if cell[0] != cell[1]), key=lambda w: (-w[0], w[1]))
    for rows, (truth, given) in wrong[:10]:
        names = (Text(_short(confusion.labels[place], 30)) for place in (truth, given))
        table.add_row(*names, f"{rows:,}")
    return table


def _square(confusion: Confusion) -> Table:
    names = [_clean(str(label)) for label in confusion.labels]
    width = min(14, (WIDTH - 20) // len(names) - 2)
    if max(cell_len(name) for name in names) > width:
        numbered = [(str(place), f"{place} {name}") for place, name in enumerate(names, start=1)]
    else:
        numbered = [(name, name) for name in names]
    table = _table("is \\ taken for", *(head for head, _ in numbered))
    for column in table.columns[1:]:
        column.justify = "right"
    for truth, row in enumerate(confusion.matrix().tolist()):
        cells = [Text(f"{rows:,}", style=_cell_style(truth == given, rows)) for given, rows in enumerate(row)]
        table.add_row(Text(_short(numbered[truth][1], 18)), *cells)
    return table


def _cell_style(right: bool, rows: int) -> str:
    if not rows:
        return "dim"
    return "green" if right else "red"


def _table(*columns: str, title: str = "") -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, title=title or None)
    table.title_justify = table.caption_justify = "left"
    for column in columns:
        table.add_column(Text(column), overflow="ellipsis", no_wrap=True)
    return table


def _bar(value: float, width: int = 6) -> str:
    """Return a bar of eighths of blocks for a value from 0 to 1."""
    if math.isnan(value):
        return "?"
    full, part = divmod(round(max(0.0, min(1.0, value)) * width * 8), 8)
    return ("█" * full + _BLOCKS[part]).rstrip()


def _numbers(name: str, metric: Metric) -> str:
    if math.isnan(metric.value):
        return "undefined"
    return f"{_number(name, metric.value)} [{_number(name, metric.low)}, {_number(name, metric.high)}]"


def _percent(metric: Metric) -> str:
    """Return a share with its interval in percent, without the sign."""
    if math.isnan(metric.value):
        return "undefined"
    value, low, high = ("?" if math.isnan(end) else f"{100 * end:.1f}" for end in (metric.value, metric.low, metric.high))
    return f"{value} [{low}, {high}]"


def _brief(metric: Metric) -> str:
    """Return a share with its interval in two digits and without the leading zero."""
    if math.isnan(metric.value):
        return "undefined"
    value, low, high = (f"{end:.2f}".removeprefix("0") for end in (metric.value, metric.low, metric.high))
    return f"{value} [{low}, {high}]"


def _number(name: str, value: float) -> str:
    return "?" if math.isnan(value) else shown(value, in_units=METRICS.get(metric_name(name)[1]).in_units)


def _family_told(tested: Sequence[Comparison | None]) -> str:
    """Return what to say where p-values are corrected because they are several."""
    family = max((comparison.family for comparison in tested if comparison), default=1)
    return f"; of {family} such comparisons, p is Holm's" if family > 1 else ""


def _p(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "<.001"


def _time(seconds: float) -> str:
    if not seconds:
        return ""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _short(label: Label, width: int) -> str:
    text = _clean(str(label))
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _clean(text: str) -> str:
    """Return the text with control characters shown as escapes: a label is data and must not steer a terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)

"""What a section of the page is, and how a number gets onto the page: by its path in the report, never by hand.

Every number is an HTML `data` element whose `value` is exactly what stands in the JSON at `data-path`, so that a test walks
them all. All that comes from data is escaped.
"""

from __future__ import annotations

import html
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.options import JSON
from regraft.rendering.renderer import plain
from regraft.reporting.forms import FORMS, Form
from regraft.reporting.words import Words

if TYPE_CHECKING:
    from regraft.reporting.subject import Subject

NONE = '<span class="none">–</span>'
Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a section draws: a report, or what it says of one target.

    Args:
        subject: What the page is about.
        values: The report, or its part on a target.
        base: Path of `values`.
        number: Of the subject on the page.
        target: Name of the target; empty where the report has one.
        mark: What the anchors of the subject and the target end with.
    """

    subject: Subject
    values: Mapping[str, JSON]
    base: str = "report"
    number: int = 0
    target: str = ""
    mark: str = ""

    def number_at(self, path: str, form: str = "plain") -> str:
        """Return the number at a path of `values`, in a form of `regraft.reporting.forms`; a dash where there is none."""
        return shown_at(self.values, path, form, base=self.base, subject=self.number)

    def source(self, name: str, path: str, form: str = "plain") -> str:
        """Return a number of another source: "manifest", "events" or "worst"."""
        return shown_at(self.subject.sources[name], path, form, base=name, subject=self.number)

    def interval(self, path: str, form: str = "plain") -> str:
        """Return a metric with its ends: value [low, high]."""
        if value_at(self.values, f"{path}/value") is None:
            return NONE
        ends = [self.number_at(f"{path}/{end}", form) for end in ("low", "high")]
        between = "" if NONE in ends else f' <span class="ends">[{ends[0]}, {ends[1]}]</span>'
        return f'<span class="est">{self.number_at(f"{path}/value", form)}</span>{between}'


@dataclass(frozen=True, kw_only=True)
class Page:
    """What all sections share.

    Args:
        words: Texts in the language of the page.
        charts: Draws, where the library that draws is installed.
        several: Whether several subjects stand side by side.
    """

    words: Words
    charts: Any = None
    several: bool = False

    def say(self, key: str, **values: object) -> str:
        """Return a text, escaped; values that are put into it are HTML already."""
        return self.words.html(key, **values)


class Section(ABC):
    """Draw one part of a page.

    Attributes:
        title: Key of its heading among the words.
        per_target: Whether it is about one target, and stands once for each where there are several.
    """

    title: ClassVar[str]
    per_target: ClassVar[bool] = False

    @abstractmethod
    def html(self, found: Found, page: Page) -> str:
        """Return the section without its heading; nothing where the report has no data for it."""


def value_at(values: Any, path: str) -> Any:
    """Return what stands at a path; nothing where it leads nowhere.

    Args:
        values: Mappings and lists.
        path: Keys with slashes between them; in a key, ~1 stands for a slash and ~0 for ~ (RFC 6901).

    Example:
        >>> value_at({"ladder": [{"seconds": 2}]}, "ladder/0/seconds")
        2
    """
    for word in path.split("/"):
        key = word.replace("~1", "/").replace("~0", "~")
        if isinstance(values, Mapping):
            values = values.get(key)
        elif isinstance(values, Sequence) and not isinstance(values, str) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        else:
            return None
    return values


def key(name: object) -> str:
    """Return a key as it stands in a path."""
    return str(name).replace("~", "~0").replace("/", "~1")


def shown_at(values: Any, path: str, form: str, *, base: str, subject: int) -> str:
    """Return the number at a path as HTML."""
    value = value_at(values, path)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return NONE
    made: Form = FORMS[form]
    whose = f' data-of="{subject}"' if subject else ""
    where = html.escape(f"{base}/{path}", quote=True)
    return f'<data value="{value!r}" data-path="{where}" data-form="{form}"{whose}>{made.text(value)}</data>'


def text(value: object) -> str:
    """Return anything as one line of escaped text; control characters and turned writing do not get through."""
    return html.escape(plain(_named(value)), quote=True)


def _named(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_named(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_named(one) for one in value) or "∅"
    return str(value)


def table(head: Sequence[str], rows: Rows, *, wide: bool = False, caption: str = "") -> str:
    """Return a table; the first cell of a row is its heading.

    Args:
        head: HTML of the heads.
        rows: HTML of the cells.
        wide: Whether it may be wider than a narrow page, and is then scrolled.
        caption: HTML below it.
    """
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    below = f'<p class="caption">{caption}</p>' if caption else ""
    kind = ' class="wide"' if wide else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>{below}'


def whisker(value: Any, low: Any, high: Any, span: tuple[float, float] = (0.0, 1.0), *, strong: bool = False) -> str:
    """Return a dot on its interval, over a scale that all whiskers of a table share; for the eye only."""
    if not all(isinstance(end, int | float) for end in (value, low, high)) or span[1] <= span[0]:
        return ""
    places = [100 * min(1.0, max(0.0, (end - span[0]) / (span[1] - span[0]))) for end in (low, value, high)]
    kind = " strong" if strong else ""
    style = f"--l:{places[0]:.2f};--v:{places[1]:.2f};--h:{places[2]:.2f}"
    return f'<span class="whisker{kind}" style="{style}" aria-hidden="true"><i></i><b></b></span>'


def span_of(metrics: Sequence[Any], bounds: tuple[float, float] | None) -> tuple[float, float]:
    """Return the scale for whiskers of some metrics: from a round number below all ends to one above.

    Args:
        metrics: With value, low and high; those without are passed over.
        bounds: The ends between which the metric lies, if it has such.
    """
    ends = [one[end] for one in metrics if one for end in ("low", "value", "high") if isinstance(one.get(end), int | float)]
    if not ends:
        return (0.0, 1.0)
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room
    return (max(low, bounds[0]), min(high, bounds[1])) if bounds else (low, high)


def details(summary: str, inner: str) -> str:
    """Return something that is unfolded by a click."""
    return f"<details><summary>{summary}</summary>{inner}</details>"


def figure(drawn: str, caption: str) -> str:
    """Return a chart with the text below it."""
    return f'<figure>{drawn}<figcaption class="caption">{caption}</figcaption></figure>'


Drawer = Callable[[Found, Page], str]

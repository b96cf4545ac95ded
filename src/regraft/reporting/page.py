"""One report, or up to ten side by side, as one HTML file that needs nothing from outside and runs nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from regraft.errors import Problem, UsageError
from regraft.options import JSON
from regraft.reporting import SECTIONS
from regraft.reporting.charts import charts
from regraft.reporting.forms import bounds_of, form_of
from regraft.reporting.section import Found, Page, Section, key, span_of, text, whisker
from regraft.reporting.sections.ladder import badge
from regraft.reporting.subject import Subject
from regraft.reporting.words import Words
from regraft.version import __version__

MOST_SUBJECTS = 10
MOST_BYTES = 3_000_000
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_TILES = 6
_INSTALL = "pip install 'regraft[plots]'"
_REPORT = "report"
_EVIDENCE_BYTES, _MARGIN_BYTES = 2_400_000, 50_000
_PASSED_OVER = frozenset({"metrics"})
"""Sections that the tiles at the top already show, where there are few metrics."""


def page(subjects: Sequence[Subject], *, language: str = "en", between: Sequence[Mapping[str, JSON]] = ()) -> bytes:
    """Return the page.

    Args:
        subjects: One, or up to ten that are put side by side.
        language: Code of `regraft.reporting.words.LANGUAGES`.
        between: What paired tests between several say (`regraft.reporting.beside.paired`).

    Raises:
        UsageError: There are none, or too many to be looked at.
        OptionsError: The page does not speak the language.
    """
    check_count(len(subjects))
    about = Page(words=Words(language), charts=charts(), several=len(subjects) > 1)
    room = _EVIDENCE_BYTES
    while True:
        shown, cut = _within(subjects, room)
        drawn = _drawn(shown, about, between, cut)
        if len(drawn) < MOST_BYTES or not room:
            return drawn
        room = max(0, room - (len(drawn) - MOST_BYTES) - _MARGIN_BYTES)


def _drawn(subjects: Sequence[Subject], about: Page, between: Sequence[Mapping[str, JSON]], cut: int) -> bytes:
    title, top = text(" · ".join(subject.name for subject in subjects)), ""
    if about.several:
        from regraft.reporting.beside import side_by_side

        blocks = [("side-by-side", about.say("side-by-side"), side_by_side(subjects, about, between))]
        for number, subject in enumerate(subjects):
            inner = _head(subject, about, number) + "".join(
                _section(mark, heading, drawn, 3) for mark, heading, drawn in _sections(subject, about, number)
            )
            blocks.append((f"subject-{number}", text(subject.name), inner))
    else:
        blocks, top = list(_sections(subjects[0], about, 0)), _head(subjects[0], about, 0)
    links = "".join(f'<li><a href="#{mark}">{heading}</a></li>' for mark, heading, _ in blocks)
    body = "".join(
        _section(mark, heading, drawn, 2, "subject" if mark.startswith("subject") else "") for mark, heading, drawn in blocks
    )
    said = "".join(f'<p class="note">{note}</p>' for note in _notes(about, cut))
    head = f'<header class="top"><p class="kind">{about.say(_REPORT)}</p><h1>{title}</h1>{top}{said}</header>'
    nav = f'<nav aria-label="{about.say("contents")}"><ol>{links}</ol></nav>'
    foot = f'<footer class="end">{about.say("made-by", version=__version__)}</footer>'
    return _document(title, about.words.language, f"{head}{nav}<main>{body}</main>{foot}").encode("utf-8", "replace")


def _notes(about: Page, cut: int) -> list[str]:
    notes = [about.say("worst-cut", left=str(cut))] if cut else []
    notes += [about.say("no-charts", command=f"<code>{text(_INSTALL)}</code>")] if about.charts is None else []
    return notes + ([about.say("notes-language")] if about.words.plain("notes-language") else [])


def check_count(subjects: int) -> None:
    """Refuse more than people can look at side by side.

    Raises:
        UsageError: There are none, or too many.
    """
    if not 1 <= subjects <= MOST_SUBJECTS:
        got, fix = f"{subjects} artifacts", "name an artifact" if not subjects else "name fewer"
        raise UsageError(Problem(what="so many do not fit on a page", got=got, expected=f"1 to {MOST_SUBJECTS}", fix=fix))


@functools.cache
def _style() -> str:
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def _document(title: str, language: str, body: str) -> str:
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    head += f"<title>{title}</title><style>{_style()}</style>"
    return f'<!doctype html>\n<html lang="{language}"><head>{head}</head><body>{body}</body></html>\n'


def _section(mark: str, heading: str, inner: str, level: int, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<section id="{mark}"{named}><h{level}>{heading}</h{level}>{inner}</section>'


def _sections(subject: Subject, about: Page, number: int) -> Iterator[tuple[str, str, str]]:
    """Yield anchor, heading and content of every section that has data."""
    whole = Found(subject=subject, values=subject.report, number=number)
    targets = subject.report.get("targets") or {}
    parts = [
        dataclasses.replace(whole, values=values, base=f"report/targets/{key(name)}", target=name)
        for name, values in targets.items()
    ]
    for place, part in enumerate(parts):
        drawn = [
            _section(f"{name}-{number}-{place}", about.say(section.title), inner, 3)
            for name, section in _known()
            if section.per_target and (inner := section.html(part, about))
        ]
        heading = about.say("target", name=text(part.target))
        yield f"target-{number}-{place}", heading, _verdict(part, about) + "".join(drawn)
    for name, section in _known():
        if parts and section.per_target and name not in _PASSED_OVER:
            continue
        if inner := section.html(whole, about):
            yield f"{name}-{number}", about.say(section.title), inner


def _known() -> list[tuple[str, Section]]:
    return [(name, SECTIONS.get(name)()) for name in SECTIONS]


def _head(subject: Subject, about: Page, number: int) -> str:
    """Return the verdict and the most important figures."""
    whole = Found(subject=subject, values=subject.report, number=number)
    parts = []
    if targets := subject.report.get("targets"):
        if subject.report.get("verdict"):
            told = about.say("weakest-of", count=str(len(targets)), verdict=badge(about, subject.report["verdict"]))
            parts.append(f'<div class="verdict {_kind(subject.report["verdict"])}"><p>{told}</p></div>')
    else:
        parts.append(_verdict(whole, about))
    parts.append(_tiles(whole, about))
    if subject.lacking and subject.facts:
        files = ", ".join(f"<code>{text(name)}</code>" for name in subject.lacking)
        parts.append(f'<p class="note">{about.say("lacks", files=files)}</p>')
    return "".join(parts)


def _kind(verdict: object) -> str:
    return str(verdict or "").replace(" ", "-")


def _verdict(found: Found, about: Page) -> str:
    detail, verdict = found.values.get("verdict_detail"), found.values.get("verdict")
    if not detail or not verdict:
        return f'<div class="verdict"><p>{about.say("nothing-compared")}</p></div>'
    said = sentence(found, about, detail, "verdict_detail")
    return f'<div class="verdict {_kind(verdict)}">{badge(about, verdict)}<p>{said}</p></div>'


_SENTENCES = {
    "better": ("better-than", "better-in"),
    "worse": ("worse-than", "worse-in"),
    "no evidence": ("no-difference", "no-difference-in"),
}


def sentence(found: Found, about: Page, detail: Mapping[str, Any], path: str) -> str:
    """Return a comparison in one sentence.

    Args:
        found: Whose it is.
        about: Language.
        detail: As `Comparison.to_json` gives it.
        path: Where it stands.
    """
    quantity = detail.get("quantity")
    form = "signed" if quantity else "points"
    difference, small = (
        found.interval(f"{path}/difference", form),
        found.number_at(f"{path}/smallest_detectable_difference", "digit" if quantity else "unsigned"),
    )
    if not quantity:
        difference, small = (about.say("points", value=value) for value in (difference, small))
    return about.say(
        _SENTENCES[detail["verdict"]][1 if quantity else 0],
        a=f"<strong>{text(detail['a'])}</strong>",
        b=f"<strong>{text(detail['b'])}</strong>",
        difference=difference,
        p=found.number_at(f"{path}/p_value", "p"),
        n=found.number_at(f"{path}/difference/n", "count"),
        small=small,
        quantity=text(quantity),
    )


def _tiles(found: Found, about: Page) -> str:
    tiles = []
    for name, metric in list((found.values.get("metrics") or {}).items())[:_TILES]:
        bounds = bounds_of(name)
        span = bounds if bounds == (0.0, 1.0) else span_of([metric], bounds)
        drawn = whisker(metric["value"], metric["low"], metric["high"], span, strong=True)
        number = found.interval(f"metrics/{key(name)}", form_of(name))
        tiles.append(f'<li><span class="name">{text(name.replace("_", " "))}</span>{number}{drawn}</li>')
    judged = about.say("rows-judged", n=found.number_at("n", "count"))
    return f'<ul class="tiles">{"".join(tiles)}</ul><p class="caption">{judged}</p>' if tiles else ""


def _within(subjects: Sequence[Subject], most_bytes: int) -> tuple[list[Subject], int]:
    """Return the subjects with so many of their worst rows that the page stays below its size, and how many are left out."""
    room, found, cut = most_bytes // len(subjects), [], 0
    for subject in subjects:
        rows, used = [], 0
        for row in subject.worst.get("rows") or []:
            used += len(str(row["pieces"]))
            if used > room:
                break
            rows.append(row)
        cut += len(subject.worst.get("rows") or []) - len(rows)
        found.append(dataclasses.replace(subject, worst={**subject.worst, "rows": rows} if subject.worst else {}))
    return found, cut

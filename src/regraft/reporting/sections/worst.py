"""The rows that are most wrong, as people look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from regraft.reporting.section import Found, Page, Section, text

_SOURCES = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:audio/wav;base64,")
_WIDTH, _HEIGHT, _COARSE = 240, 72, 96
_DASHES = ("", "5 3", "1.5 2.5", "7 2 1.5 2", "3 1.5", "9 3", "1 1", "4 4")


class WorstErrors(Section):
    """One card a row: what it is, what was answered, how sure that was, and the row itself."""

    title: ClassVar[str] = "worst"

    def html(self, found: Found, page: Page) -> str:
        """Return the cards."""
        worst = found.subject.worst
        rows = worst.get("rows") or []
        if not worst:
            return ""
        wrong = found.source("worst", "wrong", "count")
        judged = found.source("worst", "judged", "count")
        told = page.say("worst-note", shown=str(len(rows)), wrong=wrong, judged=judged)
        if not rows:
            return f"<p>{page.say('none-wrong', judged=judged)}</p>"
        cards = "".join(_card(found, page, place, row) for place, row in enumerate(rows))
        return f'<p>{told}</p><div class="cards">{cards}</div>'


def _card(found: Found, page: Page, place: int, row: Mapping[str, Any]) -> str:
    sure = ""
    if row.get("confidence") is not None:
        number = found.source("worst", f"rows/{place}/confidence", "share")
        sure = f"<dt>{page.say('confidence')}</dt><dd>{number}{_sure_bar(row['confidence'])}</dd>"
    elif row.get("cost") is not None:
        number = found.source("worst", f"rows/{place}/cost", "digit")
        sure = f"<dt>{page.say('cost-of-row')}</dt><dd>{number}</dd>"
    answer = "" if row.get("answer") is None else f"<dt>{page.say('answer')}</dt><dd>{_named(row['answer'])}</dd>"
    said = f'<dl><dt>{page.say("truth")}</dt><dd class="is">{_named(row.get("truth"))}</dd>{answer}{sure}</dl>'
    shown = "".join(_piece(page, piece) for piece in row.get("pieces") or [])
    return f'<article><div class="row">{shown}</div>{said}<footer>{text(row.get("place", ""))}</footer></article>'


def _named(value: object) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f'<span class="quiet">{text(name)}</span> {text(one)}' for name, one in value.items())
    return text(value)


def _sure_bar(share: float) -> str:
    return f'<span class="bar" style="--v:{100 * share:.1f}" aria-hidden="true"><i></i></span>'


def _piece(page: Page, piece: Mapping[str, Any]) -> str:
    """Return a piece of a row; what is none of the known ones, or links to anywhere, is not shown."""
    shown = _PIECES.get(next(iter(piece), ""))
    return shown(page, piece) if shown else ""


def _part(page: Page, piece: Mapping[str, Any]) -> str:
    inner = "".join(_piece(page, one) for one in piece["pieces"]) or "–"
    return f'<div class="part"><small>{text(piece["named"])}</small>{inner}</div>'


def _text(page: Page, piece: Mapping[str, Any]) -> str:
    left = int(piece["left_out"])
    more = f' <span class="quiet">{page.say("more-characters", count=f"{left:,}")}</span>' if left else ""
    return f"<p>{text(piece['text'])}{more}</p>"


def _picture(page: Page, piece: Mapping[str, Any]) -> str:
    if not str(piece["picture"]).startswith(_SOURCES):
        return ""
    coarse = ' class="coarse"' if max(piece["width"], piece["height"]) <= _COARSE else ""
    size = f'width="{int(piece["width"])}" height="{int(piece["height"])}"'
    return f'<img{coarse} alt="" {size} src="{text(piece["picture"])}">'


def _sound(page: Page, piece: Mapping[str, Any]) -> str:
    if not str(piece["sound"]).startswith(_SOURCES):
        return ""
    beginning = page.say("seconds-of", shown=f"{piece['seconds']:g}", all=f"{piece['of']:g}")
    return f'<audio controls preload="none" src="{text(piece["sound"])}"></audio><small class="quiet">{beginning}</small>'


def _cells(page: Page, piece: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in piece["cells"])
    more = f"<small>{page.say('more-columns', count=str(int(piece['left_out'])))}</small>" if piece["left_out"] else ""
    return f'<table class="cells">{rows}</table>{more}'


def _lines(page: Page, piece: Mapping[str, Any]) -> str:
    """Return numbers over time as a small drawing, gaps where nothing was measured; channels differ by their dashes."""
    lines = piece["lines"]
    known = [value for line in lines for value in line if isinstance(value, int | float)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    span = (high - low) or 1.0
    drawn = []
    for number, line in enumerate(lines):
        path = _path(line, low, span)
        dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number and len(lines) > 1 else ""
        drawn.append(f'<path d="{path}"{dash}/>')
    told = page.say("from-to-steps", low=f"{low:.4g}", high=f"{high:.4g}", steps=f"{int(piece['steps']):,}")
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
    return f'<svg class="lines" {box} role="img" aria-label="{told}">{"".join(drawn)}</svg><small class="quiet">{told}</small>'


def _path(line: Sequence[Any], low: float, span: float) -> str:
    parts, pen = [], "M"
    for place, value in enumerate(line):
        if not isinstance(value, int | float):
            pen = "M"
            continue
        across = 2 + (_WIDTH - 4) * place / max(1, len(line) - 1)
        parts.append(f"{pen}{across:.1f} {_HEIGHT - 3 - (_HEIGHT - 6) * (value - low) / span:.1f}")
        pen = "L"
    return "".join(parts)


_PIECES: Mapping[str, Callable[[Page, Mapping[str, Any]], str]] = {
    "named": _part,
    "text": _text,
    "picture": _picture,
    "sound": _sound,
    "lines": _lines,
    "cells": _cells,
}

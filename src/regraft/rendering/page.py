"""Answered rows as one HTML page that needs nothing from outside and runs nothing; all that comes from data is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from regraft.rendering.figure import COLOURS, alone_on_page
from regraft.rendering.renderer import Renderer, Shown, caption, plain

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #22303c; background: #f6f7f8 }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(WIDTHpx, 100%), 1fr)) }
article { background: #fff; border: 1px solid #dfe3e7; border-radius: 6px; padding: .7rem; overflow: hidden }
h1 { font-size: 1.15rem } h2 { font-size: 1rem; margin: 0 0 .4rem; overflow-wrap: anywhere }
h2 small { font-weight: normal; color: #5a6570 }
img { max-width: 100%; display: block; margin: 0 auto .4rem } img.coarse { image-rendering: pixelated; width: 140px }
p { margin: 0 0 .5rem; overflow-wrap: anywhere } table { border-collapse: collapse; font-size: 13px; margin-bottom: .5rem }
th { text-align: left; font-weight: normal; color: #5a6570; padding-right: .8rem; vertical-align: top }
td { overflow-wrap: anywhere }
.bar { position: relative; background: #eef1f4; margin-top: 2px; height: 1.35em; border-radius: 3px; overflow: hidden }
.bar i { position: absolute; inset: 0 auto 0 0; background: #a9c4de }
.bar span { position: absolute; left: .4em; right: 4.5em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.bar b { position: absolute; right: .4em; font-weight: normal }
.right { color: RIGHT } .wrong { color: WRONG }
"""
_KINDS = {True: "right", False: "wrong", None: ""}


def page(renderer: Renderer, rows: Sequence[Shown], title: str) -> bytes:
    """Return a page with one card a row.

    Args:
        renderer: Of their modality.
        rows: The rows.
        title: What stands above them.

    Raises:
        MissingExtraError: The modality is drawn, and matplotlib is not installed.
    """
    width = f"{max(190, round(renderer.width_in * 96))}px"
    style = _STYLE.replace("WIDTHpx", width).replace("RIGHT", COLOURS[True]).replace("WRONG", COLOURS[False])
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{html.escape(plain(title))}</title><style>{style}</style>"
    cards = "\n".join(_card(renderer, shown) for shown in rows)
    body = f"<h1>{html.escape(plain(title))}</h1>\n<main>\n{cards}\n</main>"
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
    return text.encode("utf-8", "replace")


def _card(renderer: Renderer, shown: Shown) -> str:
    said = caption(shown)
    truth = f" <small>is {html.escape(said.truth)}</small>" if said.truth else ""
    raw = "" if shown.raw is None else renderer.html(shown.raw) or alone_on_page(renderer, shown.raw)
    bars = "".join(
        f'<div class="bar"><i style="width:{100 * share:.1f}%"></i><span>{html.escape(name)}</span>'
        f"<b>{100 * share:.1f} %</b></div>"
        for name, share in said.bars
    )
    row = f"<small> row {shown.row:,}</small>"
    return f'<article><h2 class="{_KINDS[said.right]}">{html.escape(said.title)}{truth}{row}</h2>{raw}{bars}</article>'

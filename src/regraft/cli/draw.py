"""`--render` of `regraft predict` and `regraft inspect`: rows as people look at them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people

_HELP = "Draw rows with their answers: a .png, a .html, a folder for both, or - for this terminal."
_TERMINAL = "-"


@dataclass(frozen=True)
class Drawing:
    """What was asked for.

    Args:
        out: Where to; None where nothing is drawn.
        rows: How many rows at most.
    """

    out: str | None
    rows: int

    def check(self) -> None:
        """Refuse a place where nothing can be drawn, before any row is answered."""
        if self.out is not None:
            from regraft.rendering import answered, render

            answered.check_count(self.rows)
            render.check_out(people() if self.out == _TERMINAL else self.out)

    def draw(self, artifact: Path, data: str | None, values: dict[str, Any]) -> None:
        """Draw rows of data, or the golden rows, and say where they are."""
        if self.out is None:
            return
        out = people() if self.out == _TERMINAL else self.out
        if files := lifecycle.render(artifact, data, out=out, rows=self.rows, **values):
            told = "golden rows" if data is None else "rows, drawn from all of them"
            people().print(f"drawn: {files[0]}, at most {self.rows} {told} (--render-rows)", markup=False, soft_wrap=True)


def with_drawing(rows: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--render` and `--render-rows` to a click command, which receives them as one argument `drawing`.

    Args:
        rows: How many are drawn if nothing is said.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(render: str | None, render_rows: int, **given: Any) -> Any:
            return function(drawing=Drawing(render, render_rows), **given)

        counted = click.option("--render-rows", type=int, default=rows, show_default=True, help="How many rows are drawn.")
        return click.option("--render", metavar="PLACE", help=_HELP)(counted(command))

    return decorate

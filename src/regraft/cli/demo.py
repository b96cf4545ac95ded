"""`regraft demo`: the whole line on real e-mails, in minutes, offline once the base is there."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people, watcher
from regraft.cli.show import emit_json, show_fit

_FRESH = (
    "Congratulations! You have been selected for a FREE holiday. Reply now with your bank details to claim your prize.",
    "Hi Tom, the build on the new kernel still fails for me with the same linker error. Could you send me your config file?",
    "Lower your mortgage payments today, no credit check, click here and save thousands of dollars every year!!!",
)
# Chosen so that two slow cores finish within three minutes; everything else is the default.
_OPTIONS: dict[str, Any] = {
    "target": "label",
    "text": "text",
    "modality": {"name": "text", "max_length": 32},
    "train": {"epochs": 1},
}


@click.command()
@click.option(
    "--out", default="regraft-demo", show_default=True, help="Where the artifact goes; an older artifact there is replaced."
)
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on standard output; the last line is the report.")
def demo(out: str, as_json: bool) -> None:
    """The whole line on 2,000 real e-mails: fit, judge, save, answer over HTTP."""
    from regraft.serving.serve import BackgroundServer

    began = time.monotonic()
    console = people()
    with watcher(as_json) as watch:
        artifact = lifecycle.fit("spam", out=out, listen=watch, **_OPTIONS)
    show_fit(artifact, artifact.report, time.monotonic() - began, console)
    with BackgroundServer(artifact.path) as server:
        console.print(f"\nAnswers over HTTP, {server.url}/predict:", markup=False)
        answers = _post(f"{server.url}/predict", {"rows": list(_FRESH)})["predictions"]
    for text, answer in zip(_FRESH, answers, strict=True):
        sure = max(answer["probabilities"].values())
        console.print(f"  {answer['prediction']:>4} ({sure:.2f})  {text[:84]}", markup=False)
    console.print(f"\nDone in {time.monotonic() - began:.0f} s. Look further:", markup=False)
    for line in _next_steps(artifact.path):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if as_json:
        emit_json({**artifact.report.to_json(), "artifact": str(artifact.path), "answers": answers})


def _post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server on loopback
        return json.load(answer)


def _next_steps(path: Path) -> list[str]:
    return [
        f"cat {path / 'card.md'}",
        f"regraft inspect {path}",
        f"regraft predict {path} YOUR-MAILS.csv --out answers.csv",
        f"regraft serve {path}",
    ]

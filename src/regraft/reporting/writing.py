"""Where pages are written: beside what `fit` puts into an artifact, and into the files that other verbs name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.artifact import kept_events
from regraft.artifact.store import PAGE, WORST, Artifact, write_text
from regraft.data.atomic import atomic_file
from regraft.errors import OptionsError, Problem
from regraft.reporting.beside import paired
from regraft.reporting.page import check_count, page
from regraft.reporting.subject import Subject, of_artifact, of_body
from regraft.reporting.words import Words
from regraft.reporting.worst import Gathering, worst_of_plan
from regraft.training.event_log import EVENTS
from regraft.training.stages import Stages

if TYPE_CHECKING:
    from regraft.artifact.manifest import ManifestBody
    from regraft.evaluation.report import Report
    from regraft.planning import Plan
    from regraft.serving.outside import Outside
    from regraft.serving.predictor import Predictor

_SUFFIXES = (".html", ".htm")


def with_page(
    fill: Callable[[Path], ManifestBody], plan: Plan, report: Report, stages: Stages
) -> Callable[[Path], ManifestBody]:
    """Return a function that fills a folder as another does, and adds the worst rows and the page.

    Args:
        fill: Writes the artifact.
        plan: Of the fit.
        report: What was found, with the answers.
        stages: Told if the page cannot be drawn: that is no reason to lose a fit.
    """

    def filled(folder: Path) -> ManifestBody:
        body = fill(folder)
        try:
            worst = worst_of_plan(report.answers, plan) if report.answers is not None else {}
            events = kept_events.lines_of(folder / EVENTS) if (folder / EVENTS).is_file() else []
            name = Path(plan.wanted.out).name
            subject = Subject(name=name, report=report.to_json(), facts=of_body(body), events=events, worst=worst)
            drawn = page([subject]).decode()
        except Exception as error:  # noqa: BLE001 - whatever it is, the network that was learnt is worth more
            stages.note(f"the report page cannot be drawn, it is left out: {type(error).__name__}: {error}", "warning")
            return body
        write_text(folder / WORST, json.dumps(worst, ensure_ascii=False, allow_nan=False) + "\n")
        write_text(folder / PAGE, drawn)
        return body

    return filled


def check_page(out: str | Path, language: str = "en") -> Path:
    """Refuse a file that the page cannot be, before any work is done.

    Raises:
        OptionsError: It does not end in .html, a folder stands there, or the page does not speak the language.
    """
    Words(language)
    place = Path(out)
    if place.suffix.lower() not in _SUFFIXES or place.is_dir():
        got = f"the folder {out}" if place.is_dir() else str(out)
        what, fix = "the page is one HTML file", "give a name that ends in .html"
        raise OptionsError(Problem(what=what, where="--out", got=got, expected=", ".join(_SUFFIXES), fix=fix))
    return place


def write_pages(artifacts: Sequence[Artifact], out: Path, language: str) -> Path:
    """Write the page of an artifact, or of several side by side.

    Args:
        artifacts: Verified.
        out: The file, as `check_page` returned it.
        language: Code of `regraft.reporting.words.LANGUAGES`.
    """
    subjects = [of_artifact(artifact) for artifact in artifacts]
    between = paired(artifacts) if len(artifacts) > 1 else ()
    return _written(out, page(_told_apart(subjects), language=language, between=between))


class PageOf:
    """The page of a verb that answers labelled rows, if one is wanted.

    Args:
        out: The file; None where no page is wanted.
        language: Code of `regraft.reporting.words.LANGUAGES`.

    Raises:
        OptionsError: See `check_page`.
    """

    def __init__(self, out: str | Path | None, language: str) -> None:
        self.place = None if out is None else check_page(out, language)
        self.language = language
        self._gathering: Gathering | None = None
        self._modality: Any = None

    def seeing(self, judged: Predictor | Outside) -> Gathering | None:
        """Return what must see the rows as this predictor answers them; nothing where no page is wanted, or it read none."""
        from regraft.serving.predictor import Predictor

        if self.place is not None and isinstance(judged, Predictor):
            self._gathering, self._modality = Gathering(judged.task), judged.modality
        return self._gathering

    def written(self, report: Report) -> Report:
        """Write the page of a report, and return the report."""
        if self.place is not None:
            worst: Any = {}
            if self._gathering is not None and report.answers is not None:
                worst = self._gathering.found(report.answers, self._modality)
            contenders = report.about.get("contenders") or [report.kind]
            subject = Subject(name=f"{report.kind}: {contenders[-1]}", report=report.to_json(), worst=worst)
            _written(self.place, page([subject], language=self.language))
        return report


def _told_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the subjects with other names where two have the same."""
    import dataclasses

    names = [subject.name for subject in subjects]
    return [
        dataclasses.replace(subject, name=f"{subject.name} ({number})") if names.count(subject.name) > 1 else subject
        for number, subject in enumerate(subjects, start=1)
    ]


__all__ = ["PageOf", "check_count", "check_page", "with_page", "write_pages"]


def _written(out: Path, content: bytes) -> Path:
    with atomic_file(out) as file:
        file.write(content)
    return out

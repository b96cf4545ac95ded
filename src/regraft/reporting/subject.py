"""What a page is about: one report, with whatever else is known of the artifact that it judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from regraft.artifact import kept_events
from regraft.artifact.store import PREDICTIONS, REPORT, WORST
from regraft.options import JSON, to_json
from regraft.training.event_log import EVENTS

if TYPE_CHECKING:
    from regraft.artifact.manifest import ManifestBody
    from regraft.artifact.store import Artifact

_FACTS = ("task", "inputs", "target", "base", "network", "seed", "options", "fingerprints", "weights_digest")
_MADE = ("verb", "digest", "created", "versions", "lineage", "parent", "format")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One column of a page: what stands in the files of an artifact, or what a verb has just found.

    Args:
        name: Of the artifact's folder, or of what was judged.
        report: As `Report.to_json` gives it.
        facts: Of the manifest, what is known of it; nothing where a report stands for itself.
        events: Lines of `events.jsonl`.
        worst: As `regraft.reporting.worst` gives it.
        lacking: Files that are not there, so that sections are left out.
    """

    name: str
    report: Mapping[str, JSON]
    facts: Mapping[str, JSON] = field(default_factory=dict)
    events: Sequence[Mapping[str, JSON]] = ()
    worst: Mapping[str, JSON] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """Command line that makes it again; empty where nobody wrote it down."""
        return str((self.report.get("about") or {}).get("command") or "")

    @property
    def sources(self) -> dict[str, Any]:
        """The data by the first word of the paths in a page."""
        return {"report": self.report, "manifest": self.facts, "events": self.events, "worst": self.worst}


def of_artifact(artifact: Artifact) -> Subject:
    """Return what an artifact, which was verified, says of itself."""
    manifest = artifact.manifest
    there = manifest.files
    facts = {name: to_json(getattr(manifest, name)) for name in (*_FACTS, *_MADE)}
    return Subject(
        name=artifact.path.name,
        report=artifact.json(REPORT),
        facts={**facts, "size_bytes": artifact.size_bytes},
        events=kept_events.lines_of(artifact.path / EVENTS) if EVENTS in there else (),
        worst=artifact.json(WORST) if WORST in there else {},
        lacking=tuple(name for name in (EVENTS, PREDICTIONS, WORST) if name not in there),
    )


def of_body(body: ManifestBody) -> dict[str, JSON]:
    """Return the facts of an artifact that is being written."""
    return {name: to_json(getattr(body, name)) for name in (*_FACTS, "verb", "lineage", "parent")}

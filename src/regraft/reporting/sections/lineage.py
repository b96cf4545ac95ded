"""Where the artifact comes from and what it is made of."""

from __future__ import annotations

from typing import Any, ClassVar

from regraft.reporting.section import NONE, Found, Page, Section, table, text

_BASE = ("name", "source", "revision", "licence")


class Lineage(Section):
    """One line a fact of the manifest, and of what the report says it is about."""

    title: ClassVar[str] = "lineage"

    def html(self, found: Found, page: Page) -> str:
        """Return the table."""
        facts, about = found.subject.facts, found.values.get("about") or {}
        rows = [[page.say(name), value] for name, value in _facts(facts, found).items() if value and value != NONE]
        rows += [[text(name), text(value)] for name, value in about.items() if not facts and value is not None]
        return table(["", ""], rows) if rows else ""


def _facts(facts: Any, found: Found) -> dict[str, str]:
    if not facts:
        return {}
    base, task = facts.get("base") or {}, facts.get("task") or {}
    steps = [str(base.get("name", "?")), *(f"{one['verb']} {one['name']}" for one in facts.get("lineage") or [])]
    versions = ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items())
    return {
        "lineage-line": " → ".join(map(text, [*steps, str(facts.get("verb", "fit"))])),
        "task": text(task.get("name")),
        "reads": ", ".join(map(_read, facts.get("inputs") or [])),
        "predicts": f"<code>{text((facts.get('target') or {}).get('column'))}</code>",
        "base": text(" · ".join(str(base[name]) for name in _BASE if base.get(name))),
        "seed": found.source("manifest", "seed", "plain"),
        "weights": f"<code>{text(str(facts.get('weights_digest', ''))[:32])}</code>",
        "artifact-digest": f"<code>{text(str(facts['digest'])[:32])}</code>" if facts.get("digest") else "",
        "size": found.source("manifest", "size_bytes", "megabytes"),
        "versions": text(versions) if versions else "",
    }


def _read(entry: Any) -> str:
    return f"<code>{text(entry['column'])}</code> ({text(entry['modality'])})"

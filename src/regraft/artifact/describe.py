"""What `regraft inspect` tells about an artifact."""

from __future__ import annotations

from regraft.artifact.golden import Goldens
from regraft.artifact.store import CARD, GOLDEN, REPORT, Artifact
from regraft.options import JSON, to_json

_FROM_REPORT = ("metrics", "ladder", "verdict", "n", "seconds", "ledger")


def describe(artifact: Artifact) -> dict[str, JSON]:
    """Return the facts of a verified artifact as one JSON object.

    Args:
        artifact: As `read_artifact` returned it.

    Returns:
        path, digest, weights_digest, verb, parent, lineage, export, format, created, versions, size_bytes, task, inputs,
        target, base, network, transforms, seed, options, recipe (what the YAML file of the fit held, if there was one),
        fingerprints, files, golden_rows, and of the report metrics, ladder, verdict, n, seconds, ledger; where there are
        several targets the verdicts of each too.
    """
    manifest = artifact.manifest
    listed = manifest.files
    report = artifact.json(REPORT) if REPORT in listed else {}
    goldens = Goldens.from_json(artifact.json(GOLDEN)).rows if GOLDEN in listed else ()
    return {
        "path": str(artifact.path),
        "digest": manifest.digest,
        "weights_digest": manifest.weights_digest,
        "verb": manifest.verb,
        "parent": manifest.parent,
        "lineage": to_json(manifest.lineage),
        "export": to_json(manifest.export) if manifest.export else None,
        "format": manifest.format,
        "created": manifest.created,
        "versions": dict(manifest.versions),
        "size_bytes": artifact.size_bytes,
        "task": {**to_json(manifest.task), "calibration": _calibration(manifest.task.calibration)},
        "inputs": to_json(manifest.inputs),
        "target": to_json(manifest.target),
        "base": manifest.base,
        "network": to_json(manifest.network),
        "transforms": to_json(manifest.transforms),
        "seed": manifest.seed,
        "options": manifest.options,
        "recipe": report.get("about", {}).get("recipe"),
        "fingerprints": manifest.fingerprints,
        "files": to_json(listed),
        "card": str(artifact.path / CARD) if CARD in listed else None,
        "golden_rows": len(goldens),
        "report": {name: report[name] for name in _FROM_REPORT if name in report} | _of_targets(report),
    }


def _calibration(known: dict[str, JSON]) -> dict[str, JSON]:
    """Return what is known of how far answers can be trusted, without the hundreds of scores and counts behind it."""
    return {
        target: {
            **{name: value for name, value in values.items() if name not in {"score", "thresholds"}},
            **({"score": values["score"]["name"], "per_class": values["score"]["per_class"]} if "score" in values else {}),
        }
        for target, values in known.items()
    }


def _of_targets(report: JSON) -> dict[str, JSON]:
    """Return the verdict of each target, where there are several."""
    targets = report.get("targets")
    return {"verdicts": {name: one["verdict"] for name, one in targets.items()}} if targets else {}

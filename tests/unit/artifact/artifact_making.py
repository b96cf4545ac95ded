"""Small artifacts for tests of this folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

from regraft.artifact.manifest import HeadEntry, InputEntry, ManifestBody, NetworkEntry, TargetEntry, TaskEntry


def safetensors(values: bytes = b"\0" * 8) -> bytes:
    """A one-tensor file written by hand from the format's description."""
    header = json.dumps({"head.bias": {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}}).encode()
    return struct.pack("<Q", len(header)) + header + values


def body(**changes: object) -> ManifestBody:
    values = {
        "task": TaskEntry(name="classification", state={"labels": ["ham", "spam"]}),
        "inputs": (InputEntry(column="text", modality="text", spec={"max_length": 64}),),
        "target": TargetEntry(column="label"),
        "base": {"name": "toy", "licence": "Apache-2.0"},
        "network": NetworkEntry(backbone={"width": 4}, head=HeadEntry(width=4, dropout=0.1)),
        "weights_digest": "0" * 64,
        "fingerprints": {"train": {"rows": 8, "rows_digest": "ab" * 32}},
        "seed": 3,
    }
    return ManifestBody(**{**values, **changes})  # type: ignore[arg-type]


def fill_with(mark: str) -> Callable[[Path], ManifestBody]:
    def fill(folder: Path) -> ManifestBody:
        (folder / "backbone").mkdir()
        (folder / "backbone" / "config.json").write_text(json.dumps({"mark": mark}))
        (folder / "weights.safetensors").write_bytes(safetensors())
        (folder / "report.json").write_text('{"verdict": "better", "n": 40}')
        return body()

    return fill


def mark_of(place: Path) -> str:
    mark: str = json.loads((place / "backbone" / "config.json").read_text())["mark"]
    return mark

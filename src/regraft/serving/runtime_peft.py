"""The hub's own class for classifying sequences with adapters on it, as PEFT puts them there."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from regraft.artifact.manifest import Manifest
from regraft.errors import ArtifactError, BaseError, Problem
from regraft.options import JSON
from regraft.serving.runtime_transformers import TransformersRuntime
from regraft.tasks.task import Task
from regraft.training.device import choose_device
from regraft.training.options import MachineOptions


class PeftRuntime(TransformersRuntime):
    """Run the hub's class with the adapters of a PEFT folder, on padded rows.

    The base is not in the artifact: it is found where the manifest says it came from, and must be the one it was then.
    """

    package = "peft"
    extra = "peft"

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open base and adapters, both checked first."""
        from regraft.models.hub_adapters import base_folder, open_adapted

        try:
            model = open_adapted(base_folder(manifest.base), folder)
        except BaseError as error:
            raise ArtifactError(error.problems) from error
        except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
            fix = "restore the artifact from its source, or export it again with the versions in its manifest"
            got = f"{type(error).__name__}: {error}"[:500]
            what = "PEFT cannot open the adapters of the artifact"
            raise ArtifactError(Problem(what=what, where=str(folder), got=got, fix=fix)) from error
        return cls(model.to(choose_device(options)), options)

    def environment(self) -> dict[str, JSON]:
        """Return libraries, threads, instruction set, processor and device."""
        import peft

        found = super().environment()
        return {**found, "library": f"peft {peft.__version__}, {found['library']}"}

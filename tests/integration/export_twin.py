"""The smallest exporter there can be: the same network, written again. What is around every exporter is tested with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from regraft.errors import Problem
from regraft.exporters import EXPORTERS
from regraft.exporters.exporter import Exporter, Source, Written
from regraft.options import options
from regraft.serving import RUNTIMES
from regraft.serving.runtime_torch import TorchRuntime
from regraft.types import Batch, FloatArray


@options
class TwinOptions:
    """How the network is written again."""

    runtimes: tuple[str, ...] = ("torch",)
    """What is said to compute it."""


class TwinExporter(Exporter):
    """The network of PyTorch, as the hub's folder and a file for the rest."""

    Options = TwinOptions
    name = "twin"

    def write(self, source: Source, folder: Path) -> Written:
        from regraft.models.net import save_net

        save_net(source.network(), folder)
        return Written(form="twin", runtimes=self.options.runtimes, notes=("a twin was written",))

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Compare every tensor that was written with the source's, by bytes."""
        from safetensors.numpy import load_file

        written = {
            f"backbone.body.{name}": array for name, array in load_file(folder / "backbone" / "model.safetensors").items()
        }
        written |= load_file(folder / "weights.safetensors")
        state = {name: tensor.numpy() for name, tensor in source.network().state_dict().items()}
        return [
            Problem(what=f"the weight '{name}' is not the source's", where=name, fix="export again")
            for name, array in state.items()
            if name not in written or not np.array_equal(array, written[name])
        ]


class ShelfExporter(Exporter):
    """An artifact of any form as it is, once more."""

    Options = TwinOptions
    name = "shelf"
    reads = None

    def write(self, source: Source, folder: Path) -> Written:
        import shutil

        kept = {"report.json", "golden.json", "card.md"}
        for name in source.manifest.files.keys() - kept:
            if not name.startswith("preprocessing/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.artifact.path / name, folder / name)
        network = source.manifest.network
        return Written(form="shelf", runtimes=network.runtimes, facts=network.facts)


class CrookedRuntime(TorchRuntime):
    """PyTorch, a little off."""

    def outputs(self, batch: Batch) -> FloatArray:
        return super().outputs(batch) * np.float32(1.001)


class AbsentRuntime(TorchRuntime):
    """Computed by a package that is not here."""

    package = "a_package_that_nobody_has"


@contextmanager
def registered() -> Iterator[None]:
    """Let `twin` and `shelf` be names of exporters in here, `crooked` and `absent` of runtimes."""
    EXPORTERS.add("twin", "export_twin:TwinExporter")
    EXPORTERS.add("shelf", "export_twin:ShelfExporter")
    EXPORTERS.add("needy", "a_package_that_nobody_has.exporter:Exporter")
    RUNTIMES.add("crooked", "export_twin:CrookedRuntime")
    RUNTIMES.add("absent", "export_twin:AbsentRuntime")
    try:
        yield
    finally:
        for name in ("twin", "shelf", "needy"):
            EXPORTERS.discard(name)
        for name in ("crooked", "absent"):
            RUNTIMES.discard(name)

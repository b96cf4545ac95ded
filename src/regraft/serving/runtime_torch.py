"""The network in PyTorch, the runtime it was trained in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from regraft.artifact.manifest import Manifest
from regraft.errors import ArtifactError, BaseError, Problem
from regraft.options import JSON
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.arithmetic import inference_flops
from regraft.training.cost import Answered, Passes, Use
from regraft.training.device import choose_device
from regraft.training.machine import processor
from regraft.training.options import MachineOptions
from regraft.training.threads import available_cores, default_threads, with_threads
from regraft.types import Batch, FloatArray

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed


class TorchRuntime(Runtime):
    """Run a headed network in evaluation mode.

    Args:
        net: The network, on the device where it shall run; its mode is put back after each call.
        options: Threads; the device is where the weights are.
    """

    package = "torch"
    extra = "train"

    def __init__(self, net: Headed, options: MachineOptions | None = None) -> None:
        self.net = net
        self.threads = (options.threads if options else None) or default_threads()
        # Threads are a setting of the process: two calls at once would change it under each other.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the network of an artifact: build it, fill it strictly, put it on its device."""
        import torch

        from regraft.models import transform
        from regraft.models.backbones import align
        from regraft.models.fused import load_backbone
        from regraft.models.net import BACKBONE_FOLDER, WEIGHTS_FILE, Headed, load_outside

        device = choose_device(options)
        with torch.random.fork_rng(devices=[]), _as_artifact_error(folder):
            inside = folder / str(manifest.network.facts.get("backbone_folder", BACKBONE_FOLDER))
            backbone = load_backbone(inside, manifest.network.backbone)
            net = Headed(backbone, backbone.head(task, manifest.network.head.dropout))
            transform.install(net, manifest.transforms)
            load_outside(net, folder / WEIGHTS_FILE)
            transform.load(net, folder)
            _refuse_strangers(net, inside)
        align(net)
        return cls(net.to(device).eval(), options)

    def outputs(self, batch: Batch) -> FloatArray:
        """Return the head's output for a batch, float32 (B, ...)."""
        import torch

        with self._lock, with_threads(self.threads), _evaluating(self.net), torch.inference_mode():
            values: FloatArray = self.net(*self.net.tensors(batch)).float().cpu().numpy()
        return np.ascontiguousarray(values)

    def environment(self) -> dict[str, JSON]:
        """Return runtime, version, threads, instruction set, processor and device."""
        import torch

        device = self.net.device
        on = torch.cuda.get_device_name(device) if device.type != "cpu" else processor()
        capability = torch.backends.cpu.get_cpu_capability()
        return {"library": f"torch {torch.__version__}", "threads": self.threads, "instructions": capability, "processor": on}

    def use(self) -> Use:
        """Return threads, cores and device."""
        return Use(threads=self.threads, cores=available_cores(), device=self.net.device)

    def passes(self, answered: Answered) -> Passes:
        """Return what was answered with its operations, which the network's own shape gives; answers are always in float32."""
        return Passes(answered, inference_flops(self.net, np.concatenate([np.zeros(0, np.int64), *answered.lengths])))

    def weights_digest(self) -> str:
        """Return the digest of every tensor of the network."""
        from regraft.models.net import weights_digest

        return weights_digest(self.net)


def _refuse_strangers(net: Headed, folder: Path) -> None:
    """Refuse tensors in the backbone's folder that have no place in the network."""
    if net.backbone.notes:
        what = "there are unexpected tensors in the backbone's folder"
        fix = "restore the artifact from its source, or fit it again"
        raise ArtifactError(Problem(what=what, where=str(folder), got="; ".join(net.backbone.notes), expected="none", fix=fix))


@contextmanager
def _evaluating(net: torch.nn.Module) -> Iterator[None]:
    """Run in evaluation mode and put every module's own mode back."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _as_artifact_error(folder: Path) -> Iterator[None]:
    """Say of a backbone that cannot be loaded that the artifact is at fault."""
    try:
        yield
    except BaseError as error:
        raise ArtifactError(error.problems) from error
    except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
        fix = "restore the artifact from its source, or fit it again with the versions in its manifest"
        got = f"{type(error).__name__}: {error}"
        what = "the network of the artifact cannot be built"
        raise ArtifactError(Problem(what=what, where=str(folder), got=got[:500], fix=fix)) from error

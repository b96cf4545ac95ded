"""The network in PyTorch, the runtime it was trained in."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regraft.artifact.golden import processor
from regraft.artifact.manifest import Manifest
from regraft.artifact.store import BACKBONE, WEIGHTS
from regraft.errors import ArtifactError, BaseError, Problem
from regraft.options import JSON
from regraft.serving.runtime import Runtime
from regraft.tasks.task import Task
from regraft.training.device import choose_device
from regraft.training.options import MachineOptions
from regraft.training.threads import default_threads, with_threads
from regraft.types import Batch, FloatArray

if TYPE_CHECKING:
    import torch

    from regraft.models.net import Headed

_ALIGNMENT_BYTES = 64


class TorchRuntime(Runtime):
    """Run a headed network in evaluation mode.

    Args:
        net: The network, where its weights shall be; it may still be in training elsewhere, its mode is put back after each call.
        options: Threads; the device is where the weights are.
    """

    def __init__(self, net: Headed, options: MachineOptions | None = None) -> None:
        self.net = net
        self.threads = (options.threads if options else None) or default_threads()
        # Threads are a setting of the process: two calls at once would change it under each other.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, task: Task, options: MachineOptions) -> Self:
        """Open the network of an artifact: build it, fill it strictly, put it on its device."""
        import torch

        from regraft.models.net import Headed

        device = choose_device(options)
        with torch.random.fork_rng(devices=[]), _as_artifact_error(folder):
            from regraft.models.backbones import Backbone

            backbone = Backbone.load(folder / BACKBONE, manifest.network.backbone)
            net = Headed(backbone, task.head(manifest.network.head.width, manifest.network.head.dropout))
            _fill(net, folder / WEIGHTS)
        _align(net)
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

    def weights_digest(self) -> str:
        """Return the digest of every tensor of the network."""
        from regraft.models.weights import weights_digest

        return weights_digest(self.net)


def _fill(net: Headed, path: Path) -> None:
    """Put the tensors of `weights.safetensors` into the network; it must hold exactly those the backbone's folder does not."""
    from safetensors.torch import load_file

    from regraft.models.weights import outside_backbone_folder

    found: Mapping[str, torch.Tensor] = load_file(path)
    wanted = outside_backbone_folder(net)
    problems = [_tensor_problem("is missing", name, path, "nothing", _shape(wanted[name])) for name in wanted.keys() - found.keys()]
    problems += [_tensor_problem("is unexpected", name, path, _shape(found[name]), "nothing") for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        if (got := _shape(found[name])) != (expected := _shape(wanted[name])):
            problems.append(_tensor_problem("has the wrong shape or type", name, path, got, expected))
    if problems:
        raise ArtifactError(sorted(problems, key=lambda problem: problem.what))
    net.load_state_dict({**net.state_dict(), **found}, strict=True)


def _shape(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _tensor_problem(what: str, name: str, path: Path, got: str, expected: str) -> Problem:
    fix = "restore the artifact from its source, or fit it again"
    return Problem(what=f"the tensor '{name}' {what}", where=str(path), got=got, expected=expected, fix=fix)


def _align(net: torch.nn.Module) -> None:
    """Copy weights that were mapped from a file at an odd address: matrix kernels may sum in another order there."""
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.data_ptr() % _ALIGNMENT_BYTES:
            tensor.data = tensor.data.clone()


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



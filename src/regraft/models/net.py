"""The headed network: any backbone with a head over its features; what of it lies in which file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from regraft.errors import ArtifactError, Problem
from regraft.models import transform
from regraft.models.safety import check_safetensors_header
from regraft.models.transform import Applied
from regraft.types import Array, Batch, Features

if TYPE_CHECKING:
    from regraft.models.backbones import Backbone

BACKBONE_FOLDER = "backbone"
WEIGHTS_FILE = "weights.safetensors"


class Headed(nn.Module):
    """A backbone and a head; the only network that training, judging and serving see.

    Args:
        backbone: Gives `Features`.
        head: Called with `Features`, gives the output (B, ...).
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.transforms: tuple[Applied, ...] = ()

    def features(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> Features:
        """Return the features of a batch of tensors."""
        features: Features = self.backbone(inputs, mask_BT)
        return features

    def forward(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the head's output (B, ...) for a batch of tensors."""
        output: torch.Tensor = self.head(self.features(inputs, mask_BT))
        return output

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def fixed(self) -> set[str]:
        """Names of weights that never learn: a bias of the head where the pooling stands before a map that has none."""
        if self.backbone.pooling.head_bias:
            return set()
        return {name for name, _ in self.named_parameters() if name.startswith("head.") and name.endswith(".bias")}

    def tensors(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the inputs and mask of a numpy batch as tensors where the weights are."""
        device = self.device
        inputs = {name: _moved(array, device) for name, array in batch.inputs.items()}
        return inputs, _moved(batch.mask_BT, device)


def _moved(array: Array, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # the copy runs while the GPU still computes


def outside_backbone_folder(net: Headed) -> dict[str, torch.Tensor]:
    """Return the weights that the hub's folder does not hold (pooling, head), contiguous and on the CPU, by name."""
    state, inside = net.state_dict(), tuple(f"backbone.{path}" for path in net.backbone.saved)
    return {name: _plain(tensor) for name, tensor in sorted(state.items()) if not name.startswith(inside)}


def save_net(net: Headed, folder: Path) -> None:
    """Write a network into an existing folder: `backbone/` for any tool of the hub, `weights.safetensors` for the rest.

    What transforms added to the backbone has folders of its own; the backbone's stays that of the base.

    Args:
        net: The network.
        folder: An existing folder.
    """
    from safetensors.torch import save_file

    inside = folder / BACKBONE_FOLDER
    inside.mkdir(exist_ok=True)
    net.backbone.save(inside)
    save_file(outside_backbone_folder(net), folder / WEIGHTS_FILE)
    transform.save(net, folder)


def load_outside(net: Headed, path: Path) -> None:
    """Load what `outside_backbone_folder` gave into a network that was built alike; nothing may be missing or left over.

    Args:
        net: Built from the same specs; its backbone already has its weights.
        path: The safetensors file.

    Raises:
        ArtifactError: A weight is missing, unexpected, or has another shape or type.
    """
    from safetensors.torch import load_file

    check_safetensors_header(path, ArtifactError)
    found = load_file(path)
    check_tensors(outside_backbone_folder(net), found, path)
    net.load_state_dict(found, strict=False)


def check_tensors(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse tensors of a file that are not those a network has places for.

    Raises:
        ArtifactError: A tensor is missing, unexpected, or has another shape or type; one problem each.
    """
    problems = []
    fix = "restore the file from its source, or fit again"
    for name in sorted(expected.keys() | found.keys()):
        got, want = (_described(group[name]) if name in group else "nothing" for group in (found, expected))
        if got != want:
            problems.append(Problem(what=f"the weight '{name}' does not fit", where=str(path), got=got, expected=want, fix=fix))
    if problems:
        raise ArtifactError(problems)


def weights_digest(net: Headed) -> str:
    """Return the sha256 over names, types, shapes and bytes of all weights, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        plain = _plain(tensor)
        digest.update(f"{name}\0{_described(plain)}\0".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").contiguous()


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

"""Adapters as the folder that PEFT writes and reads: a configuration and the tensors. PEFT itself is not needed.

from peft import PeftModel
PeftModel.from_pretrained(AutoModel.from_pretrained("ARTIFACT/backbone"), "ARTIFACT/adapter")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.errors import ArtifactError, Problem
from regraft.models.safety import check_safetensors_header
from regraft.options import JSON

if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the path of every module."""


def adapter_config(settings: Mapping[str, JSON], layers: Sequence[str], more: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return what PEFT's `save_pretrained` of a configuration writes; a key that is left out has PEFT's default.

    Args:
        settings: Of the kind of adapter.
        layers: Whole path of each adapted layer in the model that PEFT wraps: it adapts whatever ends with a name.
        more: Keys that depend on the model: task_type, base_model_name_or_path, modules_to_save.
    """
    return {"inference_mode": True, "target_modules": list(layers), **settings, **more}


def write_adapter(folder: Path, config: Mapping[str, JSON], tensors: Mapping[str, torch.Tensor], prefix: str = PREFIX) -> None:
    """Write both files.

    Args:
        folder: An existing folder.
        config: See `adapter_config`.
        tensors: Path in the model that PEFT wraps -> tensor on the CPU.
        prefix: Put before each path.
    """
    from safetensors.torch import save_file

    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    named = {f"{prefix}{name}": tensor.contiguous() for name, tensor in sorted(tensors.items())}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a folder by their path in the model that PEFT wraps.

    Raises:
        ArtifactError: The file is missing or not safe to read.
    """
    from safetensors.torch import load_file

    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        fix = "restore the artifact from its source, or fit it again"
        raise ArtifactError(Problem(what=f"there is no {ADAPTER_WEIGHTS}", where=str(folder), fix=fix))
    check_safetensors_header(path, ArtifactError)
    return {name.removeprefix(PREFIX): tensor for name, tensor in load_file(path).items()}

"""The GE2E speaker encoder as its package ships it -> an ordinary folder of the hub.

The file is a checkpoint in torch's own format. It is read with the restricted reader, which makes tensors and containers only,
and nothing but this archive, whose digest is pinned, is ever given to it; what is kept is safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regraft.errors import BaseError, Problem
from regraft.options import JSON

_FILE = "pretrained.pt"
_RECURRENT = "lstm."
_LOSS = frozenset({"similarity_weight", "similarity_bias"})  # of the training loss; no part of the network


def convert_speaker(unpacked: Path, folder: Path) -> None:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Args:
        unpacked: Folder with `pretrained.pt`.
        folder: An empty folder.

    Raises:
        BaseError: The file holds something else.
    """
    import torch
    from safetensors.torch import save_file

    source = unpacked / _FILE
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)["model_state"]
        named = {_renamed(name): tensor.float().contiguous() for name, tensor in state.items() if name not in _LOSS}
        config = _config(named)
    except Exception as error:  # a damaged file fails in whatever the reader stumbles over
        what, fix = "the speaker encoder's weights cannot be read", "fetch the package again"
        raise BaseError(Problem(what=what, where=str(source), got=str(error)[:200], fix=fix)) from error
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    preprocessing = {"feature_extractor_type": "RegraftSpeakerMelExtractor", "sampling_rate": 16000}
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessing)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _renamed(name: str) -> str:
    """Return a weight's name where each layer of the recurrence is a module of its own."""
    if not name.startswith(_RECURRENT):
        return f"projection.{name.partition('.')[2]}"
    kind, _, number = name.removeprefix(_RECURRENT).rpartition("_l")
    return f"layers.{int(number)}.{kind}_l0"


def _config(state: dict[str, Any]) -> dict[str, JSON]:
    first = state["layers.0.weight_ih_l0"]
    return {
        "architectures": ["SpeakerEncoder"],
        "model_type": "regraft-speaker",
        "hidden_size": len(state["projection.bias"]),
        "recurrent_size": len(first) // 4,
        "num_mel_bins": int(first.shape[1]),
        "num_hidden_layers": len({name.split(".")[1] for name in state if name.startswith("layers.")}),
        "dtype": "float32",
    }

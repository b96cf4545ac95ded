"""Adapters and head as a PEFT folder for the hub's own class for classifying sequences, where its answers are exactly ours.

    model = AutoModelForSequenceClassification.from_pretrained(BASE, config=AutoConfig.from_pretrained(FOLDER))
    PeftModel.from_pretrained(model, FOLDER)

The folder holds what learnt: the adapters, the head, the layer of the pooling that is the class's own. The base is only named.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from regraft.errors import ArtifactError, BaseError, Problem
from regraft.models import BASES, TRANSFORMS
from regraft.models.adapters import LayerAdapters
from regraft.models.backbones import align, make_config, quietly
from regraft.models.fetch import sha256_of
from regraft.models.folder import FolderBase
from regraft.models.folder_check import CONFIG_FILE, check_folder
from regraft.models.hub_classifier import class_of, hub_state
from regraft.models.hub_heads import HUB_HEADS
from regraft.models.net import Headed
from regraft.models.peft_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX, read_adapter
from regraft.models.safety import config_problems, read_json
from regraft.models.unfilled import Unfilled
from regraft.options import JSON, build

_TASK = "SEQ_CLS"
_KNOWN = (
    "peft_type inference_mode r lora_alpha lora_dropout use_rslora use_dora fan_in_fan_out bias target_modules"
    " feedforward_modules init_r target_r total_step task_type base_model_name_or_path revision modules_to_save"
)
_BODY = "backbone.body."


def base_folder(origin: Mapping[str, JSON]) -> Path:
    """Return the folder of the base that an artifact says it was fitted from, its files those that were there then.

    Args:
        origin: `base` of the manifest.

    Raises:
        BaseError: It was made from options, is not on this machine, or is another now.
    """
    name = str(origin.get("name"))
    cls: Any = BASES.get(name) if name in BASES else None
    if cls is None or not issubclass(cls, FolderBase) or not origin.get("files"):
        what = f"the base '{name}' is no folder of the hub that adapters could be put on again"
        fix = "merge the adapters (regraft merge ARTIFACT --out FOLDER), then export that with --format transformers"
        raise BaseError(Problem(what=what, expected="a base that is a folder, an id of the hub, or packaged", fix=fix))
    fields = {field.name for field in dataclasses.fields(cls.Options)}
    asked: dict[str, JSON] = {key: origin[key] for key in ("source", "revision") if key in fields and origin.get(key)}
    folder: Path = cls(name, build(cls.Options, asked)).folder()
    files = {file: digest for file, digest in origin["files"].items() if file == CONFIG_FILE or file.endswith(".safetensors")}
    for file, digest in files.items():
        found = sha256_of(folder / file) if (folder / file).is_file() else "nothing"
        if found != digest:
            what, fix = "the base is not the one that the adapters were fitted on", "get the base as it was, or fit again"
            where, expected = str(folder / file), f"sha256 {str(digest)[:12]}"
            raise BaseError(Problem(what=what, where=where, got=found[:12], expected=expected, fix=fix))
    return folder


def base_reference(origin: Mapping[str, JSON], folder: Path) -> dict[str, JSON]:
    """Return how PEFT is told of the base: an id with its commit, or the folder as it stands here."""
    source = str(origin.get("source", ""))
    commit = origin.get("revision")
    if commit and source and not Path(source).expanduser().exists() and "files" in origin and "archive_sha256" not in origin:
        return {"base_model_name_or_path": source.removeprefix("hub:"), "revision": commit}
    return {"base_model_name_or_path": str(folder.resolve()), "revision": None}


def learnt_state(net: Headed) -> dict[str, torch.Tensor]:
    """Return the tensors that the base does not have under the names of the hub's class, on the CPU; they are not copied."""
    beside = hub_state(net, {name for name in net.state_dict() if not name.startswith(_BODY)})
    adapters, plan, placed = _adapters(net)
    return beside | adapters.tensors(net, plan, placed)


def classifier_adapters(net: Headed, reference: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return PEFT's configuration for the hub's class.

    Args:
        net: A network that is the class, with adapters.
        reference: See `base_reference`.
    """
    adapters, plan, placed = _adapters(net)
    head = HUB_HEADS[net.backbone.body.config.model_type]
    whole = head.linear.partition(".")[0]
    beside = [path for path in (head.dense, head.norm) if path and not path.startswith(f"{whole}.")]
    more = {"task_type": _TASK, "modules_to_save": [whole, *beside], **reference}
    return adapters.config(net, plan, more, placed)


def _adapters(net: Headed) -> tuple[LayerAdapters, Mapping[str, JSON], Callable[[str], str]]:
    """Return the adapters of a network, their plan, and what a path in its body is in the hub's class."""
    (applied,) = net.transforms
    adapters = TRANSFORMS.get(applied.name)()
    if not isinstance(adapters, LayerAdapters):
        raise TypeError(f"adapters of linear layers are expected, got {applied.name}")
    body = HUB_HEADS[net.backbone.body.config.model_type].body
    return adapters, applied.plan, lambda path: f"{body}.{path}"


def open_adapted(base: Path, folder: Path) -> Any:
    """Return the hub's class with adapters as PEFT puts them on, in float32 and evaluation mode.

    Args:
        base: Folder of the base.
        folder: With configuration, adapters and head.

    Raises:
        BaseError: A folder is refused.
        ArtifactError: Weights are missing or left over, or a setting is not one of ours.
    """
    from peft import PeftModel, get_peft_model_state_dict

    check_folder(base)
    values, settings = read_json(folder / CONFIG_FILE), read_json(folder / ADAPTER_CONFIG, ArtifactError)
    strange = sorted(settings.keys() - set(_KNOWN.split()))
    if strange or settings.get("task_type") != _TASK:
        what, fix = "the adapters have settings that are not ours", "restore the artifact from its source, or export it again"
        raise ArtifactError(Problem(what=what, where=str(folder / ADAPTER_CONFIG), got=", ".join(strange)[:200], fix=fix))
    if problems := config_problems(values, str(folder / CONFIG_FILE)):
        raise BaseError(problems)
    kept = read_adapter(folder)
    config = make_config(values, str(folder / CONFIG_FILE))
    with quietly(), torch.random.fork_rng(devices=[]), Unfilled(), warnings.catch_warnings():
        # PEFT asks the hub's models for a property that the hub has renamed since.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model, info = class_of(config).from_pretrained(
            str(base),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        try:
            opened = PeftModel.from_pretrained(model, str(folder))
        except KeyError as error:  # of a head that is not whole
            raise ArtifactError(_strangers(folder, [str(error.args[0]).removeprefix(PREFIX)])) from error
    taken = get_peft_model_state_dict(opened, save_embedding_layers=False)
    drawn = {str(key) for key in info["missing_keys"]} - kept.keys()
    names = {name.removeprefix(PREFIX) for name in taken}
    if odd := sorted(drawn | (names ^ kept.keys())):
        raise ArtifactError(_strangers(folder, odd))
    whole = opened.get_base_model()
    align(whole)
    return whole.eval()


def _strangers(folder: Path, names: list[str]) -> Problem:
    what, fix = "the weights are not those of the hub's class", "restore the artifact from its source, or export it again"
    return Problem(what=what, where=str(folder / ADAPTER_WEIGHTS), got=", ".join(names[:5]), fix=fix)

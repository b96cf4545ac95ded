"""A headed network as the hub's own class for classifying sequences, where the two are the same function.

Only names differ then: every tensor of the network has one place in the class, and the class has no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch

from regraft.errors import ArtifactError, GateError, Problem
from regraft.models import POOLINGS
from regraft.models.backbones import align, make_config, quietly
from regraft.models.folder_check import CONFIG_FILE, check_folder
from regraft.models.heads import LinearHead
from regraft.models.hub_heads import HUB_HEADS, HubHead
from regraft.models.net import Headed
from regraft.models.pooling_hub import HubHeadPooling
from regraft.models.unfilled import Unfilled
from regraft.options import JSON

_REFIT = "fit it again with the hub's own pooling: regraft fit ... --set base.pooling=hub-head"
_OTHERWISE = "make another form of it, such as regraft export ARTIFACT --format onnx"


def mapping_problems(net: Headed) -> list[Problem]:
    """Return why a network is not the hub's class for classifying sequences of its architecture; nothing if it is."""
    backbone = net.backbone
    config = backbone.body.config.to_dict()
    kind = str(config["model_type"])
    head = HUB_HEADS.get(kind)
    what = f"the hub has no class that answers as this network of the architecture '{kind}' does"
    if head is None:
        return [Problem(what=what, got="no class for classifying sequences with an encoder alone", fix=_OTHERWISE)]
    if not isinstance(net.head, LinearHead):
        got = f"the head {type(net.head).__name__}"
        return [Problem(what=what, got=got, expected="one linear map over one vector a row", fix=_OTHERWISE)]
    plain = not head.dense and isinstance(backbone.pooling, POOLINGS.get(head.vector(config)))
    if not plain and not isinstance(backbone.pooling, HubHeadPooling):
        got = f"the pooling '{backbone.pooling_name}'"
        return [Problem(what=what, got=got, expected=_described(head, config), fix=_REFIT)]
    if not head.bias and bool(net.head.linear.bias.any()):
        got = "a head with a bias, which the class does not have"
        return [Problem(what=what, got=got, expected=_described(head, config), fix=_REFIT)]
    return []


def _described(head: HubHead, config: Mapping[str, JSON]) -> str:
    """Return what the hub's class does between body and logits, as people read it."""
    dense = f", a dense layer, {head.function(config)}" if head.dense else ""
    norm = ", a norm" if head.norm else ""
    return f"the pooling '{head.vector(config)}'{dense}{norm}, a linear map {'with' if head.bias else 'without'} bias"


def hub_state(net: Headed, only: Set[str] | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a network under the names of the hub's class, on the CPU; they are not copied.

    Args:
        net: The network.
        only: Names of the tensors that are wanted; all if not given.
    """
    head = HUB_HEADS[net.backbone.body.config.model_type]
    places = {"backbone.body.": head.body, "backbone.pooling.dense.": head.dense, "backbone.pooling.norm.": head.norm}
    places["head.linear."] = head.linear
    found = {}
    for name, tensor in net.state_dict().items():
        if (name == "head.linear.bias" and not head.bias) or (only is not None and name not in only):
            continue
        for prefix, place in places.items():
            if name.startswith(prefix):
                found[f"{place}.{name.removeprefix(prefix)}"] = tensor.detach().cpu()
    return found


def hub_config(values: Mapping[str, JSON], labels: Sequence[str], problem_type: str, pad_id: int) -> Any:
    """Return the configuration of the hub's class.

    Args:
        values: Of the body, as its config.json has it.
        labels: Names in label order.
        problem_type: As the hub calls the task.
        pad_id: Token that fills a batch.
    """
    config = make_config(values, CONFIG_FILE)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = problem_type
    if HUB_HEADS[config.model_type].by_filler:
        config.pad_token_id = pad_id
    return config


def save_classifier(net: Headed, config: Any, folder: Path) -> None:
    """Write a network as the hub's class into an existing folder: `config.json`, `model.safetensors`.

    Raises:
        GateError: A tensor has no place in the class, or a place has no tensor.
    """
    with quietly(), torch.device("meta"):
        model = class_of(config)(config)
    state = hub_state(net)
    places = model.state_dict()
    wrong = sorted(name for name in state.keys() | places.keys() if _shape(state, name) != _shape(places, name))
    if wrong:
        got = ", ".join(f"{name} {_shape(state, wrong[0])}" for name in wrong[:1]) + f" ({len(wrong)} in all)"
        expected = f"{type(model).__name__}: {wrong[0]} {_shape(places, wrong[0])}"
        what = "the tensors of the network and of the hub's class are not the same"
        raise GateError(Problem(what=what, got=got, expected=expected, fix=_OTHERWISE))
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    config._name_or_path = ""
    with quietly():
        model.save_pretrained(folder)


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    return str(list(tensors[name].shape)) if name in tensors else "absent"


def class_of(config: Any) -> Any:
    """Return the hub's class for classifying sequences of a configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]


def open_classifier(folder: Path) -> Any:
    """Return the hub's class from a folder that was checked first, in float32 and evaluation mode.

    Raises:
        BaseError: The folder is refused.
        ArtifactError: Weights are missing or left over.
    """
    values, _ = check_folder(folder)
    config = make_config(values, str(folder / CONFIG_FILE))
    with quietly(), torch.random.fork_rng(devices=[]), Unfilled():
        model, info = class_of(config).from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    odd = sorted(str(key) for key in (*info["missing_keys"], *info["unexpected_keys"]))
    if odd:
        what, fix = "the weights are not those of the hub's class", "restore the artifact from its source, or export it again"
        raise ArtifactError(Problem(what=what, where=str(folder), got=", ".join(odd[:5]), fix=fix))
    align(model)
    return model.eval()

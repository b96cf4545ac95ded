"""Adapters for the hub's own classes: PEFT puts them on the base and gives the logits of the network, family by family."""

from __future__ import annotations

import json
import re

import pytest
import torch
from adapted_nets import batch_of, stir
from test_models_hub_head import LABELS, PAD, batch, folders, make_net  # noqa: F401 - a fixture

from regraft.errors import ArtifactError, BaseError
from regraft.models.architectures import ARCHITECTURES
from regraft.models.fetch import sha256_of
from regraft.models.hub_adapters import base_folder, base_reference, classifier_adapters, learnt_state, open_adapted
from regraft.models.hub_classifier import hub_config
from regraft.models.hub_heads import HUB_HEADS
from regraft.models.peft_folder import write_adapter
from regraft.tuning import TUNINGS

peft = pytest.importorskip("peft")
# PEFT asks the hub's models for a property that the hub has renamed since.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
OTHERS = {"bert", "gpt2", "distilbert", "modernbert"}  # what the others do is done by one of these


def written(base, out, kind="lora"):
    """Write a network with adapters as a PEFT folder and return it."""
    net, cls = make_net(base), TUNINGS.get(kind)
    cls(cls.Options()).prepare(net, iter([batch_of(*batch())]), 0)
    stir(net)
    with torch.no_grad():
        for values in net.backbone.pooling.parameters():
            values.add_(0.05)
    config = hub_config(json.loads((base / "config.json").read_text()), LABELS, "single_label_classification", PAD)
    config.save_pretrained(out)
    write_adapter(out, classifier_adapters(net, {"base_model_name_or_path": str(base), "revision": None}), learnt_state(net))
    return net


@pytest.mark.parametrize("name", [name if name in OTHERS else pytest.param(name, marks=pytest.mark.slow) for name in HUB_HEADS])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set:UserWarning")
def test_peft_gives_the_logits_of_the_network(name, folders, tmp_path):  # noqa: F811
    net = written(folders(name), tmp_path)
    inputs, mask = batch()
    with torch.no_grad():
        ours = net(inputs, mask)
        model = open_adapted(folders(name), tmp_path)
        more = {"use_cache": False} if ARCHITECTURES[name].causal else {}
        taken = {key: inputs[key] for key in ARCHITECTURES[name].inputs}
        logits = model(**taken, attention_mask=mask.long(), **more).logits
    torch.testing.assert_close(logits, ours, atol=2e-5, rtol=1e-5)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert not model.training


@pytest.mark.parametrize("kind", ["rslora", "dora", "pissa", "ia3", "adalora"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set:UserWarning")
def test_so_it_does_with_every_kind_of_adapter(kind, folders, tmp_path):  # noqa: F811
    for name in ("bert", "gpt2"):
        (tmp_path / name).mkdir()
        net = written(folders(name), tmp_path / name, kind)
        inputs, mask = batch()
        with torch.no_grad():
            taken = {key: inputs[key] for key in ARCHITECTURES[name].inputs}
            more = {"use_cache": False} if ARCHITECTURES[name].causal else {}
            model = open_adapted(folders(name), tmp_path / name)
            torch.testing.assert_close(
                model(**taken, attention_mask=mask.long(), **more).logits, net(inputs, mask), atol=2e-5, rtol=1e-5
            )


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")  # PEFT says so and goes on
def test_weights_that_are_not_of_the_class_are_refused(folders, tmp_path):  # noqa: F811
    from safetensors.torch import load_file, save_file

    written(folders("bert"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    whole = load_file(path)
    for name in ("bert.encoder.layer.0.output.dense.lora_A.weight", "classifier.bias", "bert.pooler.dense.weight"):
        left = {key: values for key, values in whole.items() if not key.endswith(name)}
        assert len(left) == len(whole) - 1
        save_file(left, path)
        with pytest.raises(ArtifactError, match=rf"not those of the hub(.|\n)*{re.escape(name)}"):
            open_adapted(folders("bert"), tmp_path)
    save_file({**whole, "base_model.model.bert.stranger": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match=r"not those of the hub(.|\n)*bert.stranger"):
        open_adapted(folders("bert"), tmp_path)


def test_a_base_is_found_again_and_must_be_the_one_it_was(folders, tmp_path):  # noqa: F811
    folder = folders("bert")
    files = {name: sha256_of(folder / name) for name in ("config.json", "model.safetensors")}
    origin = {"name": "hub", "source": str(folder), "licence": "unknown", "files": files}
    assert base_folder(origin) == folder
    assert base_reference(origin, folder) == {"base_model_name_or_path": str(folder.resolve()), "revision": None}
    other = {**origin, "files": {**files, "model.safetensors": "0" * 64}}
    with pytest.raises(BaseError, match=r"not the one that the adapters were fitted on(.|\n)*model.safetensors"):
        base_folder(other)
    for made_up in ({"name": "transformer", "options": {}}, {"name": "nobody"}, {}):
        with pytest.raises(BaseError, match=r"no folder of the hub(.|\n)*regraft merge"):
            base_folder(made_up)


def test_an_id_of_the_hub_is_named_with_its_commit(tmp_path):
    commit = "a" * 40
    for source in ("owner/name", "hub:owner/name"):
        origin = {"name": "hub", "source": source, "revision": commit, "files": {"config.json": "0"}}
        assert base_reference(origin, tmp_path) == {"base_model_name_or_path": "owner/name", "revision": commit}
    packaged = {
        "name": "minilm",
        "source": "package x==1",
        "revision": "1",
        "archive_sha256": "0",
        "files": {"config.json": "0"},
    }
    assert base_reference(packaged, tmp_path)["base_model_name_or_path"] == str(tmp_path.resolve())

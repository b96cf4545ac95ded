"""Adapters against PEFT's own: the same answers, the same five steps, and folders that PEFT opens."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from adapted_nets import adapted, batch_of, body_of, given, headed, outputs
from torch.nn import functional as F

from regraft.models import transform
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes, open_body
from regraft.models.heads import LinearHead
from regraft.models.net import BACKBONE_FOLDER, Headed, save_net
from regraft.tuning.lora import Lora, LoraOptions

peft = pytest.importorskip("peft")
# PEFT asks the hub's models for a property that the hub has renamed since.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
NAMES = ("bert", "gpt2", "vit", "wav2vec2")
STEPS = 5


def twin_of(net, name, **options):
    """Return the same network with PEFT's adapters in it, holding the same numbers."""
    plan = net.transforms[0].plan
    config = peft.LoraConfig(
        r=plan["rank"], lora_alpha=plan["alpha"], use_rslora=plan["rslora"], target_modules=list(plan["layers"]), **options
    )
    bare = headed(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out", UserWarning)  # PEFT sees Conv1D and corrects the setting itself
        wrapped = peft.inject_adapter_in_model(config, bare.backbone.body)
    ours = net.backbone.body.state_dict()
    theirs = wrapped.state_dict()
    for key, values in theirs.items():
        values.copy_(ours[key.replace(".base_layer.", ".").replace(".default.", ".")])
    bare.head.load_state_dict(net.head.state_dict())
    bare.backbone.shapes = net.backbone.shapes
    return bare


def learn(net, rows, names):
    """Train five steps and return losses and the weights that learnt."""
    weights = [value for key, value in net.named_parameters() if key in names]
    for value in net.parameters():
        value.requires_grad_(False)
    for value in weights:
        value.requires_grad_(True)
    optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9)
    net.eval()
    losses = []
    for _ in range(STEPS):
        loss = F.cross_entropy(net(*rows), torch.tensor([0, 1, 2, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {key: value.detach() for key, value in net.named_parameters() if key in names}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_answers_and_five_steps_are_pefts(name, rslora):
    net, rows = adapted(name, filled=False, rank=4, alpha=6.0, rslora=rslora), given(name)
    twin = twin_of(net, name)
    names = transform.added_names(net)
    learning = {key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.") for key in names}
    torch.testing.assert_close(outputs(net, rows), outputs(twin, rows), rtol=0, atol=1e-6)
    head = {"head.linear.weight", "head.linear.bias"}
    losses, learnt = learn(net, rows, names | head)
    their_losses, theirs = learn(twin, rows, learning | head)
    assert abs(losses[0] - losses[-1]) > 0.01, "something is learnt"
    assert losses == pytest.approx(their_losses, abs=1e-6)
    for key, values in theirs.items():
        torch.testing.assert_close(learnt[key.replace(".default.", ".")], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_merged_weights_are_pefts(name):
    net, rows = adapted(name), given(name)
    twin = twin_of(net, name)
    torch.testing.assert_close(outputs(net, rows), outputs(twin, rows), rtol=0, atol=1e-6)
    ours = transform.folded(net).backbone.body.state_dict()
    for path in net.transforms[0].plan["layers"]:
        layer = twin.backbone.body.get_submodule(path)
        layer.merge()
        torch.testing.assert_close(ours[f"{path}.weight"], layer.base_layer.weight.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_peft_opens_the_folder_of_an_artifact(name, tmp_path):
    net, rows = adapted(name, rank=3, alpha=5.0, layers=1), given(name)
    save_net(net, tmp_path)
    body = Backbone.load(tmp_path / BACKBONE_FOLDER, net.backbone.spec()).body
    opened = peft.PeftModel.from_pretrained(body, tmp_path / "adapter")
    config = opened.peft_config["default"]
    assert (config.r, config.lora_alpha, config.peft_type.value) == (3, 5, "LORA")
    for path in net.transforms[0].plan["layers"]:
        mine, theirs = net.backbone.body.get_submodule(path), opened.base_model.model.get_submodule(path)
        assert torch.equal(mine.lora_A.weight, theirs.lora_A["default"].weight)
        assert torch.equal(mine.lora_B.weight, theirs.lora_B["default"].weight)
    merged = opened.merge_and_unload().eval()
    net.backbone.shapes = Shapes("padded")
    again = Headed(Backbone(Body(merged, net.backbone.architecture), PoolingChoice("mean", "")), copy.deepcopy(net.head))
    again.backbone.shapes = Shapes("padded")
    torch.testing.assert_close(outputs(again, rows), outputs(net, rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_our_folder_is_the_one_that_peft_writes(name, tmp_path):
    from safetensors.torch import load_file

    net = adapted(name, rank=2, alpha=4.0)
    save_net(net, tmp_path)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=list(net.transforms[0].plan["layers"]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out", UserWarning)
        wrapped = peft.get_peft_model(body_of(name), config)
    wrapped.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("adapter", "theirs"))
    assert {key: values.shape for key, values in ours.items()} == {key: values.shape for key, values in theirs.items()}
    wrapped.load_adapter(tmp_path / "adapter", "ours")


@pytest.mark.slow
@pytest.mark.base
def test_on_minilm_answers_steps_and_merge_are_pefts(minilm):
    def opened():
        return Headed(Backbone(open_body(minilm.folder()), PoolingChoice("mean", "")), copy.deepcopy(head))

    head = LinearHead(384, 3, 0.0, torch.Generator().manual_seed(0))
    net, rows = opened(), given("bert")
    Lora(LoraOptions()).prepare(net, iter([batch_of(*rows)]), 0)
    twin = opened()
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=8, lora_alpha=16, target_modules=list(net.transforms[0].plan["layers"])), twin.backbone.body
    )
    ours = net.backbone.body.state_dict()
    for key, values in twin.backbone.body.state_dict().items():
        values.copy_(ours[key.replace(".base_layer.", ".").replace(".default.", ".")])
    names = transform.added_names(net)
    losses, _ = learn(net, rows, names)
    their_losses, _ = learn(
        twin, rows, {key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.") for key in names}
    )
    assert losses == pytest.approx(their_losses, abs=1e-6)
    torch.testing.assert_close(outputs(transform.folded(net), rows), outputs(net, rows), rtol=0, atol=1e-6)

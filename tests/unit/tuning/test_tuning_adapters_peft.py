"""DoRA, PiSSA and (IA)^3 against PEFT's own: the same answers, the same five steps, and folders that PEFT opens."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from adapted_nets import given, headed, outputs, stir, tuned
from torch.nn import functional as F

from regraft.models import transform
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes
from regraft.models.net import BACKBONE_FOLDER, Headed, save_net

peft = pytest.importorskip("peft")
# PEFT asks the hub's models for a property that the hub has renamed since.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
NAMES = ("bert", "gpt2", "vit", "wav2vec2")
KINDS = ("dora", "pissa", "ia3")
OPTIONS = {"dora": {"rank": 4, "alpha": 6.0}, "pissa": {"rank": 4, "alpha": 6.0}, "ia3": {}}
HEAD = {"head.linear.weight", "head.linear.bias"}
STEPS = 5


def config_for(kind, plan):
    """Return PEFT's own configuration of the same adapters."""
    layers = list(plan["layers"])
    if kind == "ia3":
        return peft.IA3Config(target_modules=layers, feedforward_modules=list(plan["inputs"]))
    more = {"use_dora": True} if kind == "dora" else {"init_lora_weights": "pissa"}
    return peft.LoraConfig(r=plan["rank"], lora_alpha=plan["alpha"], target_modules=layers, **more)


def ours_for(key):
    """Return our name of a weight in PEFT's layers."""
    named = re.sub(r"\.ia3_l\.default$", ".ia3_l", key.replace(".base_layer.", "."))
    return named.replace("lora_magnitude_vector.default.weight", "lora_magnitude_vector").replace(".default.", ".")


def twin_of(net, name, kind):
    """Return the same network with PEFT's adapters in it, begun as PEFT begins them; what is drawn is ours."""
    bare = headed(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out", UserWarning)  # PEFT sees Conv1D and corrects the setting itself
        wrapped = peft.inject_adapter_in_model(config_for(kind, net.transforms[0].plan), bare.backbone.body)
    if kind == "dora":
        ours = net.backbone.body.state_dict()
        for key, values in wrapped.state_dict().items():
            if "lora_A" in key:
                values.copy_(ours[ours_for(key)])
    bare.head.load_state_dict(net.head.state_dict())
    bare.backbone.shapes = net.backbone.shapes
    return bare.eval()


def learn(net, rows, names, rate=0.05):
    """Train five steps and return losses."""
    weights = [value for key, value in net.named_parameters() if key in names]
    assert len(weights) == len(names)
    for key, value in net.named_parameters():
        value.requires_grad_(key in names)
    optimizer = torch.optim.SGD(weights, lr=rate, momentum=0.9)
    net.eval()
    losses = []
    for _ in range(STEPS):
        loss = F.cross_entropy(net(*rows), torch.tensor([0, 1, 2, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def product(net, path):
    """Return what the adapter of a layer makes of its weight: the sign of a singular vector is nobody's choice."""
    layer = net.backbone.body.get_submodule(path)
    a, b = (one["default"] if hasattr(one, "keys") else one for one in (layer.lora_A, layer.lora_B))
    return b.weight @ a.weight


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_answers_and_five_steps_are_pefts(name, kind):
    net, rows = tuned(name, kind, filled=False, **OPTIONS[kind]), given(name)
    twin = twin_of(net, name, kind)
    torch.testing.assert_close(outputs(net, rows), outputs(twin, rows), rtol=0, atol=1e-6)
    added = transform.added_names(net) & {key for key, _ in net.named_parameters()}
    theirs = {key for key, _ in twin.named_parameters() if ours_for(key) in added}
    losses, their_losses = learn(net, rows, added | HEAD), learn(twin, rows, theirs | HEAD)
    assert abs(losses[0] - losses[-1]) > 0.01, "something is learnt"
    assert losses == pytest.approx(their_losses, abs=1e-6)
    torch.testing.assert_close(outputs(net, rows), outputs(twin, rows), rtol=0, atol=2e-6)
    if kind == "pissa":
        for path in net.transforms[0].plan["layers"]:
            torch.testing.assert_close(product(net, path), product(twin, path), rtol=1e-4, atol=1e-5)
    else:
        learnt = dict(net.named_parameters())
        for key, values in twin.named_parameters():
            if ours_for(key) in added:
                torch.testing.assert_close(learnt[ours_for(key)].flatten(), values.flatten(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", [*KINDS, "rslora", "adalora"])
@pytest.mark.parametrize("name", NAMES)
def test_peft_opens_the_folder_of_an_artifact_and_merges_it_as_we_do(name, kind, tmp_path):
    options = OPTIONS.get(kind, {"rank": 4, "alpha": 6.0})
    net, rows = tuned(name, kind, layers=1, **options), given(name)
    save_net(net, tmp_path)
    body = Backbone.load(tmp_path / BACKBONE_FOLDER, net.backbone.spec()).body
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a key that PEFT misses or does not know is a warning there
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        opened = peft.PeftModel.from_pretrained(body, tmp_path / "adapter").eval()
    again = Headed(Backbone(Body(opened.base_model.model, net.backbone.architecture), PoolingChoice("mean", "")), net.head)
    for one in (again, net):
        one.backbone.shapes = Shapes("padded")
    torch.testing.assert_close(outputs(again, rows), outputs(net, rows), rtol=0, atol=1e-6)
    theirs = opened.merge_and_unload().eval().state_dict()
    ours = transform.folded(net).backbone.body.state_dict()
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        torch.testing.assert_close(values, theirs[key], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.base
@pytest.mark.parametrize("kind", KINDS)
def test_on_minilm_answers_and_five_steps_are_pefts(kind, minilm, monkeypatch):
    import adapted_nets

    from regraft.models.backbones import open_body
    from regraft.models.heads import LinearHead

    head = LinearHead(384, 3, 0.0, torch.Generator().manual_seed(0))

    def opened(name):
        return Headed(Backbone(open_body(minilm.folder()), PoolingChoice("mean", "")), copy.deepcopy(head)).eval()

    monkeypatch.setattr(adapted_nets, "headed", opened)
    monkeypatch.setitem(globals(), "headed", opened)
    net, rows = tuned("bert", kind, filled=False, **OPTIONS[kind]), given("bert")
    twin = twin_of(net, "bert", kind)
    added = transform.added_names(net) & {key for key, _ in net.named_parameters()}
    theirs = {key for key, _ in twin.named_parameters() if ours_for(key) in added}
    losses, their_losses = learn(net, rows, added, 0.02), learn(twin, rows, theirs, 0.02)
    assert losses[0] != losses[-1]
    assert losses == pytest.approx(their_losses, abs=1e-6)
    stir(net)
    torch.testing.assert_close(outputs(transform.folded(net), rows), outputs(net, rows), rtol=0, atol=1e-6)

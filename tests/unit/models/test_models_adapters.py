"""Every kind of adapter on every family: neutral at the start, folded without a trace, kept to the last bit."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from adapted_nets import EVERY, given, headed, outputs, tuned
from safetensors.torch import load_file, save_file

from regraft.errors import ArtifactError, OptionsError
from regraft.models import transform
from regraft.models.backbones import Backbone, Shapes
from regraft.models.net import BACKBONE_FOLDER, WEIGHTS_FILE, Headed, load_outside, save_net, weights_digest

KINDS = ("rslora", "dora", "pissa", "ia3", "adalora")
FEW = ("bert", "gpt2", "t5", "vit", "wav2vec2", "patchtst")
EACH = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
OPTIONS = {
    "rslora": {"rank": 4},
    "dora": {"rank": 4},
    "pissa": {"rank": 4},
    "ia3": {},
    "adalora": {"rank": 4, "target_rank": 2},
}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # WavLM in the hub
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EACH)
def test_it_starts_as_nothing_and_then_computes_what_its_folded_weights_compute(name, kind):
    rows, bare = given(name), headed(name)
    net = tuned(name, kind, filled=False, **OPTIONS[kind])
    before = outputs(bare, rows)
    assert torch.equal(outputs(net, rows), before)
    assert weights_digest(transform.folded(net)) == weights_digest(bare), "nothing learnt, nothing changed, to the last bit"
    net = tuned(name, kind, **OPTIONS[kind])
    learnt = outputs(net, rows)
    assert float((learnt - before).abs().max()) > 5e-5
    folded = transform.folded(net)
    assert folded.state_dict().keys() == bare.state_dict().keys()
    assert not folded.transforms
    torch.testing.assert_close(outputs(folded, rows), learnt, rtol=0, atol=1e-6)
    assert torch.equal(outputs(net, rows), learnt), "folding changed the network itself"
    for shapes in ("padded", "fixed"):
        net.backbone.shapes = Shapes(shapes)
        torch.testing.assert_close(outputs(net, rows), learnt, rtol=0, atol=2e-6)


def reopened(net, folder):
    again = Headed(Backbone.load(folder / BACKBONE_FOLDER, net.backbone.spec()), copy.deepcopy(net.head))
    transform.install(again, json.loads(json.dumps([applied.to_json() for applied in net.transforms])))
    load_outside(again, folder / WEIGHTS_FILE)
    transform.load(again, folder)
    return again.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "wav2vec2"])
def test_saved_and_opened_again_it_is_bit_equal_and_its_base_is_the_one_that_came(name, kind, tmp_path):
    net = tuned(name, kind, **OPTIONS[kind])
    save_net(net, tmp_path)
    kept = Backbone.load(tmp_path / BACKBONE_FOLDER, net.backbone.spec()).body.state_dict()
    came = headed(name).backbone.body.state_dict()
    assert kept.keys() == came.keys()
    assert all(torch.equal(values, came[key]) for key, values in kept.items())
    again = reopened(net, tmp_path)
    assert weights_digest(again) == weights_digest(net)
    assert torch.equal(outputs(again, given(name)), outputs(net, given(name)))


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_merge_every_weight_learns_again(kind):
    net = tuned("bert", kind, **OPTIONS[kind])
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    folded = transform.folded(net)
    folded(*given("bert")).square().sum().backward()
    assert all(parameter.grad is not None for parameter in folded.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_plans_and_files_of_another_network_are_refused(kind, tmp_path):
    net = tuned("bert", kind, **OPTIONS[kind])
    save_net(net, tmp_path)
    (applied,) = net.transforms
    for plan, text in (
        ({**applied.plan, "layers": ["encoder.layer.9.output.dense"]}, "no such layers to adapt"),
        ({**applied.plan, "layers": 3}, "plan of the adapters cannot be read"),
        ({**applied.plan, "more": 1}, "plan of the adapters cannot be read"),
    ):
        with pytest.raises(ArtifactError, match=text):
            transform.install(headed("bert"), [{"name": applied.name, "plan": plan}])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file({**tensors, first: tensors[first].flatten()[:1].clone()}, path)
    with pytest.raises(ArtifactError, match="does not fit"):
        reopened(net, tmp_path)


def test_dora_computes_equation_5():
    for name in ("bert", "gpt2"):
        net, bare = tuned(name, "dora", rank=3, alpha=5.0), headed(name)
        for path in net.transforms[0].plan["layers"][:7]:
            layer, plain = net.backbone.body.get_submodule(path), bare.backbone.body.get_submodule(path)
            weight = plain.weight.detach().double().numpy()
            weight = weight.T if type(plain).__name__ == "Conv1D" else weight
            a, b, m = (
                values.detach().double().numpy()
                for values in (layer.lora_A.weight, layer.lora_B.weight, layer.lora_magnitude_vector)
            )
            turned = weight + 5.0 / 3 * b @ a
            whole = m[:, None] * turned / np.sqrt((turned**2).sum(axis=1, keepdims=True))
            x = torch.randn(2, 7, weight.shape[1], generator=torch.Generator().manual_seed(2))
            expected = x.double().numpy() @ whole.T + plain.bias.detach().double().numpy()
            np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_norm_of_dora_is_a_constant_for_the_gradient():
    net = tuned("bert", "dora", rank=3)
    layer = net.backbone.body.get_submodule(net.transforms[0].plan["layers"][0])
    x = torch.randn(4, layer.weight.shape[1], generator=torch.Generator().manual_seed(0))
    layer(x).sum().backward()
    factor = (
        layer.lora_magnitude_vector
        / torch.linalg.vector_norm(layer.weight + layer.lora_scale * layer.lora_B.weight @ layer.lora_A.weight, dim=1)
    ).detach()
    low = x @ layer.lora_A.weight.t()
    expected = (factor * layer.lora_scale).unsqueeze(1) * low.sum(dim=0)  # equation 11: the norm is not followed
    torch.testing.assert_close(layer.lora_B.weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_adalora_computes_equation_3():
    for name in ("bert", "gpt2"):
        net, bare = tuned(name, "adalora", rank=3, target_rank=1, alpha=5.0), headed(name)
        for path in net.transforms[0].plan["layers"][:7]:
            layer, plain = net.backbone.body.get_submodule(path), bare.backbone.body.get_submodule(path)
            weight = plain.weight.detach().double().numpy()
            weight = weight.T if type(plain).__name__ == "Conv1D" else weight
            a, b, e = (values.detach().double().numpy() for values in (layer.lora_A, layer.lora_B, layer.lora_E))
            whole = weight + 5.0 / 3.00001 * b @ np.diag(e[:, 0]) @ a
            x = torch.randn(2, 7, weight.shape[1], generator=torch.Generator().manual_seed(2))
            expected = x.double().numpy() @ whole.T + plain.bias.detach().double().numpy()
            np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_adalora_begins_with_small_normal_directions_and_no_values():
    net = tuned("bert", "adalora", filled=False, rank=32, target_rank=8)
    layers = [net.backbone.body.get_submodule(path) for path in net.transforms[0].plan["layers"]]
    drawn = torch.cat([weight.detach().flatten() for layer in layers for weight in (layer.lora_A, layer.lora_B)])
    assert abs(float(drawn.mean())) < 5e-4
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.02)
    assert not any(layer.lora_E.any() for layer in layers)
    again = tuned("bert", "adalora", filled=False, rank=32, target_rank=8)
    assert weights_digest(again) == weights_digest(net)


def test_pissa_begins_as_the_principal_part_of_the_weight():
    for name in ("bert", "gpt2"):
        net = tuned(name, "pissa", filled=False, rank=3, alpha=6.0)
        for path in net.transforms[0].plan["layers"][:7]:
            layer = net.backbone.body.get_submodule(path)
            weight = layer.weight.detach().double().numpy()
            weight = weight.T if "Conv1D" in type(layer).__name__ else weight
            u, s, v = np.linalg.svd(weight, full_matrices=False)
            principal = (u[:, :3] * s[:3]) @ v[:3]
            a, b = layer.lora_A.weight.detach().double().numpy(), layer.lora_B.weight.detach().double().numpy()
            np.testing.assert_allclose(2.0 * b @ a, principal, atol=1e-5)
            np.testing.assert_allclose((a**2).sum(axis=1), s[:3] / 2.0, rtol=1e-4)
            np.testing.assert_allclose((b**2).sum(axis=0), s[:3] / 2.0, rtol=1e-4)
    with pytest.raises(OptionsError, match=r"no part of so large a rank(.|\n)*tuning\.rank to \d+ or less"):
        tuned("bert", "pissa", rank=64)


def test_ia3_rescales_keys_values_and_the_inside_of_feed_forward_layers():
    plan = tuned("bert", "ia3").transforms[0].plan
    layers = [f"encoder.layer.{n}." for n in range(3)]
    assert plan["inputs"] == [f"{layer}output.dense" for layer in layers]
    assert plan["layers"] == [
        f"{layer}{end}" for layer in layers for end in ("attention.self.key", "attention.self.value", "output.dense")
    ]
    assert {path.rpartition(".")[2] for path in tuned("gpt2", "ia3").transforms[0].plan["layers"]} == {"c_attn", "c_proj"}
    chosen = tuned("bert", "ia3", targets=["query"], feedforward=["intermediate.dense"], layers=1).transforms[0].plan
    assert chosen == {
        "layers": ["encoder.layer.2.attention.self.query", "encoder.layer.2.intermediate.dense"],
        "inputs": ["encoder.layer.2.intermediate.dense"],
    }
    with pytest.raises(OptionsError, match=r"no linear layer 'intermediate.dens'(.|\n)*where: tuning\.feedforward"):
        tuned("bert", "ia3", feedforward=["intermediate.dens"])


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
@pytest.mark.parametrize("name", EACH)
def test_ia3_finds_attention_and_feed_forward_in_every_family_of_transformers(name):
    plan = tuned(name, "ia3").transforms[0].plan
    inside, behind = set(plan["inputs"]), set(plan["layers"]) - set(plan["inputs"])
    without = {"patchtsmixer", "wavlm"}  # no attention at all; one whose maps are read without being called
    assert inside
    assert not [path for path in inside if "att" in path]
    assert bool(behind) == (name not in without)


def test_ia3_computes_its_equations():
    net, bare = tuned("bert", "ia3"), headed("bert")
    plan = net.transforms[0].plan
    for path in plan["layers"]:
        layer, plain = net.backbone.body.get_submodule(path), bare.backbone.body.get_submodule(path)
        x = torch.randn(5, plain.weight.shape[1], generator=torch.Generator().manual_seed(3))
        expected = plain(x * layer.ia3_l) if path in plan["inputs"] else plain(x) * layer.ia3_l
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)

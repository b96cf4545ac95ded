"""A base in 4 bits: rounded as the paper says, learnt beside as PEFT and bitsandbytes do, kept and merged without a loss."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
import torch
import transformers
from adapted_nets import batch_of, given, headed, outputs, stir, tuned
from tiny_families import VOCABULARY
from torch import nn
from torch.nn import functional as F

from regraft.errors import ArtifactError, MissingExtraError, OptionsError
from regraft.models import transform
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice
from regraft.models.heads import LinearHead
from regraft.models.net import BACKBONE_FOLDER, WEIGHTS_FILE, Headed, load_outside, save_net, weights_digest
from regraft.models.nf4 import Nf4Plan, keep, rounded
from regraft.options import build
from regraft.training.freeze import changing, learning
from regraft.tuning import TUNINGS
from regraft.tuning.parts import new_parameters

bitsandbytes = pytest.importorskip("bitsandbytes")
# PEFT asks the hub's models for a property that the hub has renamed since.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
NAMES = ("bert", "gpt2", "vit", "wav2vec2")
STEPS = 5
# Dettmers et al. 2023, appendix E.
LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]
)  # fmt: skip


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_bits(layer, double):
    keep(layer, rounded(layer.weight.detach(), Nf4Plan(block=64, double=double, layers=())))
    return layer


def linear(inputs, outputs, seed=0):
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(0.1 * drawn(outputs, inputs, seed=seed))
        layer.bias.copy_(drawn(outputs, seed=seed + 1))
    return layer


def learn(net, rows, names, rate=0.05):
    """Train five steps and return losses."""
    losses = []
    with learning(net, names), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD([net.get_parameter(name) for name in sorted(names)], lr=rate, momentum=0.9)
        for _ in range(STEPS):
            loss = F.cross_entropy(net(*rows), torch.tensor([0, 1, 2, 1]))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    net.eval()
    return losses


@pytest.mark.parametrize("shape", [(12, 32), (37, 32), (5, 7), (9, 15), (7, 312), (6, 128), (1, 1)])
def test_a_weight_becomes_the_nearest_level_of_its_block(shape):
    layer = linear(shape[1], shape[0])
    flat = layer.weight.detach().double().numpy().ravel()
    blocks = [flat[start : start + 64] for start in range(0, flat.size, 64)]
    expected = [LEVELS[np.abs(b[:, None] / np.abs(b).max() - LEVELS).argmin(axis=1)] * np.abs(b).max() for b in blocks]
    made = in_bits(layer, double=False).weight
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), np.concatenate(expected).reshape(shape), rtol=2e-7, atol=0)


def test_scales_are_rounded_too_and_the_bytes_are_those_of_the_paper():
    layer = linear(512, 384)
    plain, double = (in_bits(copy.deepcopy(layer), double) for double in (False, True))
    scale = plain.weight_absmax
    ratio = (double.weight / plain.weight)[plain.weight != 0]
    assert 0 < (ratio - 1).abs().max() < 0.03, "the scales alone have changed"
    # Dynamic 8 bits: 3 % of the largest distance from the mean is more than any step between neighbouring levels.
    restored = plain.weight.view(-1, 64).abs().amax(1), double.weight.view(-1, 64).abs().amax(1)
    assert torch.equal(restored[0], scale)
    assert (restored[1] - scale).abs().max() <= 0.03 * (scale - scale.mean()).abs().max()
    weights, bits = 512 * 384, []
    for made in (plain, double):
        ((_, kept),) = transform.kept_otherwise(made).values()
        assert kept.weights == weights
        bits.append(8 * kept.size_bytes(made) / weights)
    assert bits[0] == 4 + 32 / 64
    assert bits[1] == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=0.05), "section 3: 0.127 bits a weight for scales"


@pytest.mark.parametrize("double", [False, True])
def test_a_layer_computes_and_derives_as_one_of_bitsandbytes_and_as_one_that_holds_the_weights(double):
    ours = in_bits(linear(64, 48), double)
    theirs = bitsandbytes.nn.Linear4bit(64, 48, compute_dtype=torch.float32, compress_statistics=double, quant_type="nf4")
    theirs.weight = bitsandbytes.nn.Params4bit(
        linear(64, 48).weight.data, requires_grad=False, compress_statistics=double, quant_type="nf4"
    )
    theirs.bias.data.copy_(ours.bias.data)
    theirs = theirs.to("cpu")
    whole = nn.Linear(64, 48)
    whole.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    found = []
    for layer in (ours, theirs, whole):
        x = drawn(3, 5, 64, seed=4).requires_grad_()
        out = layer(x)
        (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x, retain_graph=True)
        out.square().sum().backward()
        found.append((out, gradient, second, x.grad, layer.bias.grad))
    for other in found[1:]:
        assert torch.equal(found[0][0], other[0])
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), whole(x))


@pytest.mark.parametrize("tuning", ["lora", "rslora", "dora", "pissa"])
@pytest.mark.parametrize("name", NAMES)
def test_adapters_learn_as_beside_a_base_that_holds_what_the_bits_stand_for(name, tuning):
    rows = given(name)
    net = tuned(name, tuning, filled=False, rank=4, bits=4)
    whole = headed(name)
    fold = transform.folded(net)
    whole.load_state_dict(fold.state_dict())
    cls = TUNINGS.get(tuning)
    cls(build(cls.Options, {"rank": 4})).prepare(whole, iter([batch_of(*rows)]), 0)
    names = new_parameters(net)
    assert names == new_parameters(whole)
    one, other = (learn(each, rows, names) for each in (net, whole))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert len(set(one)) == STEPS
    for key in names:
        torch.testing.assert_close(net.get_parameter(key), whole.get_parameter(key), rtol=0, atol=1e-5)


def wide():
    """Return a network whose widths are whole blocks: of others the library's own layers mix up the scales."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(**sizes, vocab_size=VOCABULARY, max_position_embeddings=40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = transformers.BertModel(config, add_pooling_layer=False).eval()
    backbone = Backbone(Body(body, ARCHITECTURES["bert"]), PoolingChoice("mean", ""))
    return Headed(backbone, LinearHead(64, 3, 0.0, torch.Generator().manual_seed(0))).eval()


def test_five_steps_are_those_of_peft_beside_layers_of_bitsandbytes():
    peft = pytest.importorskip("peft")
    rows, net, twin = given("bert"), wide(), wide()
    cls = TUNINGS.get("qlora")
    cls(build(cls.Options, {"rank": 4, "alpha": 6.0})).prepare(net, iter([batch_of(*rows)]), 0)
    ours, twin.backbone.body.is_loaded_in_4bit = net.state_dict(), True
    layers = list(net.transforms[1].plan["layers"])
    for path in layers:
        layer = twin.backbone.body.get_submodule(path)
        theirs = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4"
        )
        theirs.weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        theirs.bias.data.copy_(layer.bias.data)
        theirs.support_avx512bf16_for_cpu = False  # or it answers in bfloat16, whatever it was told to compute in
        twin.backbone.body.set_submodule(path, theirs.to("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.inject_adapter_in_model(peft.LoraConfig(r=4, lora_alpha=6.0, target_modules=layers), twin.backbone.body)
    kinds = {type(module).__module__ for module in twin.modules() if hasattr(module, "lora_A")}
    assert kinds == {"peft.tuners.lora.bnb"}
    ours_for = lambda key: key.replace(".base_layer.", ".").replace(".default.", ".")  # noqa: E731
    for key, weight in twin.named_parameters():
        if "lora_" in key:
            weight.data.copy_(ours[ours_for(key)])
    twin.eval()
    assert twin(*rows).allclose(net(*rows), atol=1e-6)
    names = {key for key, _ in twin.named_parameters() if "lora_" in key or key.startswith("head.")}
    np.testing.assert_allclose(learn(net, rows, new_parameters(net)), learn(twin, rows, names), rtol=0, atol=1e-5)
    for key in names:
        torch.testing.assert_close(net.get_parameter(ours_for(key)), twin.get_parameter(key), rtol=0, atol=1e-5)


def reopened(net, folder):
    save_net(net, folder)
    again = Headed(Backbone.load(folder / BACKBONE_FOLDER, net.backbone.spec()), copy.deepcopy(net.head))
    transform.install(again, json.loads(json.dumps([applied.to_json() for applied in net.transforms])))
    load_outside(again, folder / WEIGHTS_FILE)
    transform.load(again, folder)
    return again


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("name", "tuning"), [("gpt2", "lora"), ("bert", "dora"), ("vit", "pissa"), ("bert", "rslora")])
def test_kept_opened_and_merged_it_answers_alike(name, tuning, double, tmp_path, monkeypatch):
    rows = given(name)
    net = tuned(name, tuning, rank=2, bits=4, double_quantization=double)
    with monkeypatch.context() as patched:
        again = reopened(net, tmp_path)
        # What lies in the folder is read, nothing is rounded again.
        patched.setattr("regraft.models.nf4.rounded", None)
        transform.load(again, tmp_path)
    assert weights_digest(again) == weights_digest(net)
    assert torch.equal(outputs(again, rows), outputs(net, rows))
    merged = transform.folded(again)
    assert not merged.transforms
    assert not transform.kept_otherwise(merged)
    exact = [copy.deepcopy(each).double() for each in (net, merged)]
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in rows[0].items()}
    torch.testing.assert_close(outputs(exact[1], (inputs, rows[1])), outputs(exact[0], (inputs, rows[1])), rtol=0, atol=1e-6)
    assert all(weight.requires_grad for weight in merged.parameters())


def test_the_folder_is_one_of_peft_beside_a_base_that_any_tool_opens(tmp_path):
    peft = pytest.importorskip("peft")
    net = tuned("bert", "qlora", rank=2)
    save_net(net, tmp_path)
    inputs, mask = given("bert")
    body = transformers.AutoModel.from_pretrained(tmp_path / BACKBONE_FOLDER, add_pooling_layer=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(body, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        theirs = wrapped(**inputs, attention_mask=mask.long()).last_hidden_state[mask]
        ours = net.eval().features(inputs, mask).sequence_BTD[mask]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_stands_for_weights_counts_as_weights_and_is_no_part_of_what_changes():
    net, plain = tuned("bert", "qlora", rank=2), tuned("bert", "lora", rank=2)
    assert transform.count_weights(net) == transform.count_weights(plain) == sum(w.numel() for w in plain.parameters())
    names = new_parameters(net)
    assert names == new_parameters(plain)
    assert {key for key, _ in changing(net, names)} == {key for key, _ in changing(plain, names)}
    sizes = [sum(t.numel() * t.element_size() for t in (*each.parameters(), *each.buffers())) for each in (net, plain)]
    kept = transform.kept_otherwise(net).values()
    assert sizes[1] - sizes[0] == sum(4 * each.weights - each.size_bytes(module) for module, each in kept)


def test_all_layers_of_the_blocks_are_rounded_whichever_are_adapted():
    net = tuned("bert", "qlora", targets=("query",), layers=1)
    assert len(net.transforms[0].plan["layers"]) == 18
    assert len(net.transforms[1].plan["layers"]) == 1
    assert transform.folded(net).state_dict().keys() == headed("bert").state_dict().keys()


def test_refusals(tmp_path, monkeypatch):
    net = tuned("bert", "qlora")
    with pytest.raises(ArtifactError, match=r"no such layers to keep in 4 bits(.|\n)*restore the artifact"):
        transform.install(net, [net.transforms[0].to_json()])
    with pytest.raises(ArtifactError, match="the plan of a base in 4 bits cannot be read"):
        transform.install(headed("bert"), [{"name": "nf4", "plan": {**net.transforms[0].plan, "block": 32}}])
    save_net(net, tmp_path)
    (tmp_path / "nf4" / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"there is no weights.safetensors(.|\n)*nf4"):
        transform.load(net, tmp_path)
    with pytest.raises(OptionsError, match="bits"):
        build(TUNINGS.get("lora").Options, {"bits": 8})
    monkeypatch.setattr("regraft.registry.installed", lambda package: package != "bitsandbytes")
    cls = TUNINGS.get("dora")
    with pytest.raises(MissingExtraError, match=r"4 bits(.|\n)*needs(.|\n)*bitsandbytes(.|\n)*regraft\[bitsandbytes\]"):
        cls(build(cls.Options, {"bits": 4})).require()
    cls(cls.Options()).require()


def test_stirred_adapters_have_moved():
    net = tuned("bert", "qlora", filled=False)
    before = outputs(net, given("bert"))
    stir(net)
    assert not torch.allclose(outputs(net, given("bert")), before, atol=1e-3)

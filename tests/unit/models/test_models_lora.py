"""Adapters beside the linear layers of every family: where they stand, what they compute, how they are kept."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from adapted_nets import EVERY, adapted, batch_of, body_of, given, headed, outputs
from safetensors.torch import load_file, save_file

from regraft.errors import ArtifactError, OptionsError
from regraft.models import transform
from regraft.models.adapters import linear_layers
from regraft.models.backbones import Backbone, Shapes
from regraft.models.lora import LoraPlan
from regraft.models.net import BACKBONE_FOLDER, WEIGHTS_FILE, Headed, load_outside, save_net, weights_digest
from regraft.tuning.lora import Lora, LoraOptions

PAIRED = re.compile(r"backbone\.body\.(.*)\.lora_([AB])\.weight")


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # WavLM in the hub
@pytest.mark.parametrize("name", EVERY)
def test_adapters_start_as_nothing_and_then_compute_what_their_folded_weights_compute(name):
    rows = given(name)
    bare, net = headed(name), adapted(name, filled=False)
    before = outputs(bare, rows)
    assert torch.equal(outputs(net, rows), before)
    digest = weights_digest(bare)
    assert weights_digest(transform.folded(net)) == digest  # nothing learnt, nothing changed, to the last bit
    net = adapted(name)
    learnt = outputs(net, rows)
    assert float((learnt - before).abs().max()) > 0.01
    folded = transform.folded(net)
    assert folded.state_dict().keys() == bare.state_dict().keys()
    assert not folded.transforms
    torch.testing.assert_close(outputs(folded, rows), learnt, rtol=0, atol=1e-6)
    assert torch.equal(outputs(net, rows), learnt), "folding changed the network itself"
    for shapes in ("padded", "fixed"):
        net.backbone.shapes = Shapes(shapes)
        torch.testing.assert_close(outputs(net, rows), learnt, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2", "whisper"])
def test_a_layer_computes_the_papers_equation(name):
    net, bare = adapted(name, rank=3, alpha=5.0), headed(name)
    plan = net.transforms[0].plan
    for path in plan["layers"]:
        layer, plain = net.backbone.body.get_submodule(path), bare.backbone.body.get_submodule(path)
        x = torch.randn(2, 7, layer.lora_A.weight.shape[1], generator=torch.Generator().manual_seed(2))
        weight = plain.weight.detach().double()
        weight = weight.t() if type(plain).__name__ == "Conv1D" else weight
        a, b = layer.lora_A.weight.detach().double(), layer.lora_B.weight.detach().double()
        bias = 0.0 if plain.bias is None else plain.bias.detach().double()
        expected = x.double() @ weight.T + bias + 5.0 / 3 * (x.double() @ a.T @ b.T)
        torch.testing.assert_close(layer(x).detach().double(), expected, rtol=1e-5, atol=1e-5)


def test_rslora_divides_by_the_root_of_the_rank():
    plain, other = (LoraPlan(rank=16, alpha=8.0, rslora=flag, dropout=0.0, layers=()) for flag in (False, True))
    assert (plain.scale, other.scale) == (0.5, 2.0)
    rows = given("bert")
    same = adapted("bert", rank=4, alpha=8.0, rslora=True), adapted("bert", rank=4, alpha=16.0)
    assert torch.equal(outputs(same[0], rows), outputs(same[1], rows))


def test_the_draw_is_uniform_follows_the_seed_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, again, other = (adapted("bert", seed, filled=False, rank=32) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    drawn = [
        torch.cat([values.flatten() for key, values in net.state_dict().items() if "lora_A" in key and values.shape[1] == 32])
        for net in (one, again, other)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    bound = 1 / np.sqrt(32)
    assert float(drawn[0].abs().max()) <= bound
    assert float(drawn[0].std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert float(drawn[0].mean()) == pytest.approx(0.0, abs=0.003)


def test_targets_and_layers_choose():
    ends = lambda net: net.transforms[0].plan["layers"]  # noqa: E731
    assert ends(adapted("bert", targets=["query", "value"])) == [
        f"encoder.layer.{n}.attention.self.{part}" for n in range(3) for part in ("query", "value")
    ]
    assert ends(adapted("bert", targets=["attention.output.dense"], layers=1)) == ["encoder.layer.2.attention.output.dense"]
    assert len(ends(adapted("bert", layers=2))) == 12
    assert len(ends(adapted("gpt2"))) == 12


def test_a_layer_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(OptionsError) as caught:
        adapted("bert", targets=["query", "valeu", "q_proj"])
    said = str(caught.value)
    assert len(caught.value.problems) == 2
    for text in ("no linear layer 'valeu'", "where: tuning.targets", "attention.self.value", "did you mean 'value'"):
        assert text in said
    with pytest.raises(OptionsError, match="expected: at most 3"):
        adapted("bert", layers=4)
    with pytest.raises(OptionsError, match=r"got: layer\.0\.attention\.self\.query in the last 1"):
        adapted("bert", layers=1, targets=["layer.0.attention.self.query"])


def test_a_layer_whose_weights_are_read_without_calling_it_is_left_out():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.called = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)

        def forward(self, hidden, *_, **__):
            return self.called(torch.nn.functional.linear(hidden, self.read.weight))

    net = headed("bert")
    net.backbone.body.encoder.layer[1] = Layer()
    found = linear_layers(net, [batch_of(*given("bert"))])
    assert "encoder.layer.1.called" in found
    assert "encoder.layer.1.read" not in found


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "wav2vec2", "whisper"])
def test_saved_and_loaded_it_has_the_same_bits_and_the_base_is_untouched(name, tmp_path):
    net, bare = adapted(name, rank=2, alpha=3.0, layers=1, dropout=0.1), headed(name)
    save_net(net, tmp_path)
    bare.backbone.save(tmp_path / "bare")
    written = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / BACKBONE_FOLDER, tmp_path / "bare")]
    assert written[0] == written[1]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (2, 3, name == "gpt2")
    entries = json.loads(json.dumps([applied.to_json() for applied in net.transforms]))
    again = reopened(net, tmp_path, entries)
    assert weights_digest(again) == weights_digest(net)
    assert torch.equal(outputs(again, given(name)), outputs(net, given(name)))
    assert [applied.to_json() for applied in again.transforms] == entries


def reopened(net, folder, entries):
    again = Headed(Backbone.load(folder / BACKBONE_FOLDER, net.backbone.spec()), copy.deepcopy(net.head))
    transform.install(again, entries)
    load_outside(again, folder / WEIGHTS_FILE)
    transform.load(again, folder)
    return again.eval()


@pytest.mark.parametrize("kind", ["missing weight", "stranger", "shape", "no file", "layer", "rank", "name", "twice"])
def test_what_does_not_fit_is_refused(kind, tmp_path):
    net = adapted("bert", rank=2, targets=["query"])
    save_net(net, tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors, (entry,) = load_file(path), [applied.to_json() for applied in net.transforms]
    first, plan, entries = sorted(tensors)[0], entry["plan"], [entry]
    expected = "does not fit"
    if kind == "missing weight":
        del tensors[first]
    elif kind == "stranger":
        tensors["base_model.model.encoder.layer.0.attention.self.key.lora_A.weight"] = tensors[first].clone()
    elif kind == "shape":
        tensors[first] = tensors[first].t().contiguous()
    elif kind == "layer":
        entry["plan"], expected = {**plan, "layers": ["encoder.layer.7.attention.self.query"]}, "no such layers to adapt"
    elif kind == "rank":
        entry["plan"], expected = {**plan, "rank": 0}, "plan of the adapters cannot be read"
    elif kind == "name":
        entry["name"], expected = "graft", "does not know"
    elif kind == "twice":
        entries, expected = [entry, entry], "no such layers to adapt"
    save_file(tensors, path)
    if kind == "no file":
        path.unlink()
        expected = "there is no adapter_model.safetensors"
    with pytest.raises(ArtifactError, match=expected):
        reopened(net, tmp_path, entries)


def test_a_shared_layer_is_adapted_wherever_it_stands():
    net = adapted("albert", targets=["query"])  # one group of layers runs as often as there are layers
    body = net.backbone.body
    assert [key for key, _ in body.named_parameters() if "lora_A" in key] == [
        f"{path}.lora_A.weight" for path in net.transforms[0].plan["layers"]
    ]


@pytest.mark.parametrize("kind", ["lstm", "conv"])
def test_a_base_without_linear_layers_is_refused_with_the_tunings_it_has(kind):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))
    from assembly import assemble

    made = assemble("classification", kind)
    state = {key: value.clone() for key, value in made.net.state_dict().items()}
    with pytest.raises(OptionsError) as caught:
        Lora(LoraOptions()).prepare(made.net, iter([made.rows.batch(np.arange(4))]), 0)
    said = str(caught.value)
    for text in (
        "no linear layers",
        "a base that provides pooled, sequence",
        "choose another tuning (full, head, top-k, gradual, by-part, bitfit, prompt)",
    ):
        assert text in said
    assert made.net.state_dict().keys() == state.keys()


def test_names_of_the_base_stay_and_only_a_and_b_are_added():
    for name in ("bert", "gpt2"):
        net, bare = adapted(name), headed(name)
        new = net.state_dict().keys() - bare.state_dict().keys()
        assert not bare.state_dict().keys() - net.state_dict().keys()
        assert new == transform.added_names(net)
        assert {PAIRED.fullmatch(key)[1] for key in new} == set(net.transforms[0].plan["layers"])
        assert body_of(name).state_dict().keys() == transform.folded(net).backbone.body.state_dict().keys()

"""The weighted sum over layers: every family against the hub's own hidden states, the closed form, who is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from test_models_picture_families import FAMILIES as PICTURES
from test_models_series_hub import CONFIGS as SERIES
from test_models_sound_networks import CONVS, SIZES, whisper_config
from tiny_families import FAMILIES as TEXTS
from tiny_families import tiny_model
from transformers import AutoConfig, AutoModel

from regraft.errors import OptionsError
from regraft.models import POOLINGS
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes, open_body
from regraft.models.layer_means import _Seen
from regraft.models.pooling_layers import LayerWeightedPooling
from regraft.models.scratch_networks import CnnConfig, CnnModel

NAME = "layer-weighted"
OURS = {name for name, line in ARCHITECTURES.items() if name.startswith("regraft-")}
CONV_POSITIONS = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
AST = {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
SHAPES = {"padded": Shapes("padded"), "packed": Shapes("packed"), "fixed": Shapes("fixed", 12)}


def backbone_of(folder, model, shapes="padded"):
    torch.manual_seed(0)
    model.eval().save_pretrained(folder)
    made = Backbone(open_body(folder), PoolingChoice(NAME, "test")).eval()
    made.shapes = SHAPES[shapes]
    return made


def tokens(lengths=(1, 5, 9, 3)):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = (torch.arange(mask.numel()).view(mask.shape) * 7 % 290 + 5) * mask
    return {"input_ids": ids}, mask


def expected_means(states, mask):
    return np.stack([[state[row][mask[row]].mean(0).numpy() for state in states] for row in range(len(mask))])


def outputs_of(out):
    """Return the mean of every hidden state of the hub; the last one as the model gives it, after its last norm.

    Most of the hub's models say it so themselves, others give the last but one step as the last hidden state.
    """
    states = [*out.hidden_states[:-1], out.last_hidden_state]
    return np.stack([state.mean(1).numpy() for state in states], axis=1)


def close(found, expected):
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found.numpy() / scale, expected / scale, atol=1e-6, rtol=0)


STACKED_TEXTS = [name for name in TEXTS if ARCHITECTURES[name].stacked]


def test_every_family_is_tried_or_refused():
    tried = {*STACKED_TEXTS, "wav2vec2", "hubert", "wavlm", "whisper", "audio-spectrogram-transformer"}
    tried |= {name for name in PICTURES if ARCHITECTURES[name].stacked} | {"patchtst", "patchtsmixer"}
    assert tried == {name for name, line in ARCHITECTURES.items() if line.stacked} - OURS


@pytest.mark.parametrize("name", STACKED_TEXTS)
@torch.no_grad()
def test_texts_have_the_hubs_hidden_states(name, tmp_path):
    model = tiny_model(name)
    backbone = backbone_of(tmp_path, model)
    inputs, mask = tokens()
    model.set_attn_implementation("eager")
    states = model(**inputs, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    assert len(states) == len(backbone.blocks.layers) + 1
    expected = expected_means(states, mask)
    for shapes in SHAPES.values():
        backbone.shapes = shapes
        close(backbone.layer_means(inputs, mask), expected)
        features = backbone(inputs, mask)
        close(features.pooled_BD, expected.mean(1))
        close(features.sequence_BTD[mask], states[-1][mask].numpy())


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # the hub's own WavLM
@pytest.mark.parametrize("stable", [False, True], ids=["norm last", "norm first"])
@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert", "WavLM"])
@torch.no_grad()
def test_waves_have_the_hubs_hidden_states(family, stable, tmp_path):
    norm = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"} if stable else {"feat_extract_norm": "group"}
    config = getattr(transformers, f"{family}Config")(**SIZES, **CONVS, **CONV_POSITIONS, **norm)
    hub = getattr(transformers, f"{family}Model")(config)
    backbone, lengths = backbone_of(tmp_path, hub), [400, 155, 60]
    waves, mask = torch.randn(3, 400), torch.arange(400)[None] < torch.tensor(lengths)[:, None]
    found = backbone.layer_means({"input_values": waves}, mask)
    assert found.shape == (3, 3, 16)
    for row, length in enumerate(lengths):
        expected = outputs_of(hub(waves[row : row + 1, :length], output_hidden_states=True))[0]
        # With a mask attention runs another kernel, and a mean over time is summed in another order.
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-6 if length == 400 else 5e-6, rtol=0)
    alone = backbone.layer_means({"input_values": waves[:1]}, mask[:1])[0]
    close(alone, outputs_of(hub(waves[:1], attention_mask=mask[:1].long(), output_hidden_states=True))[0])


@torch.no_grad()
def test_whisper_has_the_hubs_hidden_states_window_by_window(tmp_path):
    hub = transformers.WhisperModel(whisper_config())
    backbone = backbone_of(tmp_path, hub)
    frames = torch.randn(2, 80, 10)
    found = backbone.layer_means({"input_features": frames}, torch.ones(2, 80, dtype=torch.bool))
    windows = frames.view(4, 40, 10).transpose(1, 2)
    means = outputs_of(hub.encoder(windows, output_hidden_states=True))
    close(found, means.reshape(2, 2, 3, 16).mean(1))
    backbone.shapes = Shapes("fixed", 80)  # the second window, filled up, is of no row
    close(backbone.layer_means({"input_features": frames[:, :40]}, torch.ones(2, 40, dtype=torch.bool)), means[::2])


@torch.no_grad()
def test_ast_has_the_hubs_hidden_states(tmp_path):
    hub = transformers.ASTModel(transformers.ASTConfig(**SIZES, **AST))
    backbone = backbone_of(tmp_path, hub)
    frames, mask = torch.randn(2, 64, 16), torch.arange(64)[None] < torch.tensor([64, 32])[:, None]
    found = backbone.layer_means({"input_values": frames}, mask)
    means = outputs_of(hub(frames.view(4, 32, 16), output_hidden_states=True))
    close(found, np.stack([(means[0] + means[1]) / 2, means[2]]))


@pytest.mark.parametrize("name", [name for name in PICTURES if ARCHITECTURES[name].stacked])
@torch.no_grad()
def test_pictures_have_the_hubs_hidden_states(name, tmp_path):
    hub = AutoModel.from_config(AutoConfig.for_model(name, **PICTURES[name][0]))
    backbone = backbone_of(tmp_path, hub)
    pictures = torch.randn(3, 3, 32, 32)
    found = backbone.layer_means({"pixel_values": pictures}, torch.ones(3, 1, dtype=torch.bool))
    close(found, outputs_of(hub(pixel_values=pictures, output_hidden_states=True)))


@pytest.mark.parametrize("name", ["patchtst", "patchtsmixer"])
@torch.no_grad()
def test_series_have_the_hubs_hidden_states(name, tmp_path):
    hub = AutoModel.from_config(SERIES[name])
    backbone = backbone_of(tmp_path, hub)
    numbers = torch.randn(3, 24, 2)
    given = {"values": torch.cat([numbers, torch.ones_like(numbers)], dim=2)}
    found = backbone.layer_means(given, torch.ones(3, 1, dtype=torch.bool))
    out = hub(numbers, output_hidden_states=True)
    # The hub tells of PatchTST what enters every layer, of PatchTSMixer what every layer gives.
    told = [*out.hidden_states, out.last_hidden_state] if name == "patchtst" else out.hidden_states
    close(found[:, -len(told) :], np.stack([state.flatten(1, 2).mean(1).numpy() for state in told], axis=1))
    assert (found.shape[1], len(told)) == (3, 3 if name == "patchtst" else 2)


@pytest.mark.parametrize("name", sorted(name for name, line in ARCHITECTURES.items() if not line.stacked))
def test_layers_that_have_no_sum_are_refused_in_words(name):
    body = torch.nn.Module()
    body.config = type("Config", (), {"model_type": name})()
    with pytest.raises(OptionsError) as caught:
        LayerWeightedPooling.for_body(body, {})
    assert f"the outputs of the layers of '{name}' are not vectors of one width at the same positions" in str(caught.value)
    assert "choose another pooling (regraft list poolings)" in str(caught.value)


def test_the_sum_equals_numpy_and_learns():
    rng = np.random.default_rng(0)
    means, scores = rng.normal(size=(4, 5, 6)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    pooling, every = LayerWeightedPooling(6, 5), torch.ones(4, 5, dtype=torch.bool)
    np.testing.assert_allclose(pooling(torch.from_numpy(means), every).detach(), means.mean(1), atol=1e-6)
    with torch.no_grad():
        pooling.scores_L.copy_(torch.from_numpy(scores))
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = np.einsum("l,bld->bd", weights, means)
    found = pooling(torch.from_numpy(means), every)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(pooling.weights.detach(), weights, rtol=1e-5)
    found.sum().backward()
    each = means.sum((0, 2))
    np.testing.assert_allclose(pooling.scores_L.grad, weights * (each - weights @ each), rtol=1e-4, atol=1e-5)
    assert not pooling(torch.full((1, 5, 6), float("nan")), torch.zeros(1, 5, dtype=torch.bool)).any()


@pytest.mark.parametrize("shapes", SHAPES)
def test_padding_changes_nothing_whatever_it_holds(shapes, tmp_path):
    backbone = backbone_of(tmp_path, tiny_model("bert"), shapes)
    inputs, mask = tokens()
    with torch.no_grad():
        backbone.pooling.scores_L.copy_(torch.tensor([0.5, -1.0, 0.2, 0.9]))
        whole = backbone(inputs, mask).pooled_BD
        filled = {"input_ids": torch.where(mask, inputs["input_ids"], 17)}
        torch.testing.assert_close(backbone(filled, mask).pooled_BD, whole, atol=1e-6, rtol=0)
        for row in range(len(mask)):
            length = int(mask[row].sum())
            alone = backbone({"input_ids": inputs["input_ids"][row : row + 1, :length]}, mask[row : row + 1, :length]).pooled_BD
            if shapes == "fixed":
                assert torch.equal(alone, whole[row : row + 1]), "the bits of a row do not depend on its batch"
            torch.testing.assert_close(alone, whole[row : row + 1], atol=1e-6, rtol=0)


def test_gradients_of_real_positions_alone_are_those_of_padded_rows(tmp_path):
    backbone, found = backbone_of(tmp_path, tiny_model("bert")), {}
    assert backbone.packing.adapt is not None
    for kind in ("padded", "packed"):
        backbone.shapes = SHAPES[kind]
        backbone.zero_grad()
        backbone(*tokens()).pooled_BD.square().sum().backward()
        found[kind] = {name: weight.grad.clone() for name, weight in backbone.named_parameters() if weight.grad is not None}
    assert found["padded"].keys() == found["packed"].keys()
    assert found["padded"]["pooling.scores_L"].abs().sum() > 0
    for name, gradient in found["padded"].items():
        torch.testing.assert_close(found["packed"][name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_layers_that_are_left_out_in_training_pass_on_what_entered_them(tmp_path):
    config = transformers.Wav2Vec2Config(
        **SIZES, **CONVS, **CONV_POSITIONS, layerdrop=1.0, hidden_dropout=0.0, feat_proj_dropout=0.0, mask_time_prob=0.0
    )
    backbone = backbone_of(tmp_path, transformers.Wav2Vec2Model(config)).train()
    means = backbone.layer_means({"input_values": torch.randn(2, 200)}, torch.ones(2, 200, dtype=torch.bool))
    assert means.shape == (2, 3, 16)
    assert torch.equal(means[:, 0], means[:, 1])
    assert torch.equal(means[:, 0], means[:, 2])
    seen = _Seen(lambda hidden: hidden * 10, 5)
    one, two, three = (torch.tensor(float(value)) for value in (1, 2, 3))
    for number, before, after in ((1, one, two), (3, two, three)):
        seen.enters(number, before)
        seen.leaves(after)
    assert [float(mean) for mean in seen.until(torch.tensor(4.0))] == [10, 10, 20, 20, 30, 40]


def test_the_network_itself_is_left_as_it_is(tmp_path):
    backbone = backbone_of(tmp_path, tiny_model("bert"))
    before = [(name, id(module), type(module)) for name, module in backbone.named_modules()]
    calls = []
    layer = backbone.get_submodule(backbone.blocks.layers[1])
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    backbone(*tokens())
    handle.remove()
    assert calls == [1], "hooks of a layer run once"
    assert before == [(name, id(module), type(module)) for name, module in backbone.named_modules()]


def test_a_compiled_layer_runs_as_it_was_compiled(tmp_path):
    backbone, calls = backbone_of(tmp_path, tiny_model("bert")), []
    expected = backbone(*tokens()).pooled_BD
    layer = backbone.get_submodule(backbone.blocks.layers[1])

    def compiled(*args, **kwargs):
        calls.append(1)
        return layer._call_impl(*args, **kwargs)

    layer._compiled_call_impl = compiled
    assert torch.equal(backbone(*tokens()).pooled_BD, expected)
    assert calls == [1]


def test_untrained_bodies_have_sums_too():
    model = CnnModel(CnnConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2)).eval()
    backbone = Backbone(Body(model, ARCHITECTURES["regraft-cnn"]), PoolingChoice(NAME, "test")).eval()
    inputs, mask = tokens()
    with torch.no_grad():
        x = model.embeddings(inputs["input_ids"]).masked_fill(~mask.unsqueeze(-1), 0.0)
        states = [x]
        for layer in model.layers:
            states.append(layer(states[-1], mask))
        close(backbone.layer_means(inputs, mask), expected_means([*states[:-1], model.norm(states[-1])], mask))


def test_save_and_load_are_bit_equal_and_the_folder_is_an_ordinary_one(tmp_path):
    backbone = backbone_of(tmp_path / "hub", tiny_model("bert"))
    (tmp_path / "saved").mkdir()
    backbone.save(tmp_path / "saved")
    again = Backbone.load(tmp_path / "saved", json.loads(json.dumps(backbone.spec()))).eval()
    assert isinstance(again.pooling, POOLINGS.get(NAME))
    with torch.no_grad():
        backbone.pooling.scores_L.copy_(torch.tensor([0.5, -1.0, 0.2, 0.9]))
        again.pooling.load_state_dict(backbone.pooling.state_dict())
        assert torch.equal(again(*tokens()).pooled_BD, backbone(*tokens()).pooled_BD)
    assert transformers.AutoModel.from_pretrained(tmp_path / "saved").config.model_type == "bert"

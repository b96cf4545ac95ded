"""The pooling of the hub's own classes, and a network written as such a class: plain transformers gives the same logits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES, SENTENCES, write_folder

from regraft.errors import ArtifactError, GateError, OptionsError
from regraft.models import POOLINGS
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, PoolingChoice, open_body
from regraft.models.heads import LinearHead
from regraft.models.hub_classifier import hub_config, hub_state, mapping_problems, open_classifier, save_classifier
from regraft.models.hub_heads import HUB_HEADS
from regraft.models.net import Headed
from regraft.models.pooling_hub import HubHeadPooling
from regraft.tuning import TUNINGS

LABELS = ("ham", "spam", "eggs")
LENGTHS = (1, 3, 7, 7, 12)
PAD = 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            write_folder(made[name], name)
        return made[name]

    return get


def make_net(folder, pooling="hub-head", seed=5):
    body = open_body(folder)
    backbone = Backbone(body, PoolingChoice(pooling, "test", seed))
    head = LinearHead(backbone.width, len(LABELS), 0.1, torch.Generator().manual_seed(1))
    net = Headed(backbone, head).eval()
    with torch.no_grad():
        head.linear.weight.normal_(generator=torch.Generator().manual_seed(2))
        if backbone.pooling.head_bias:
            head.linear.bias.normal_(generator=torch.Generator().manual_seed(3))
    return net


def batch():
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    ids = np.random.default_rng(4).integers(5, 290, size=mask.shape)
    ids = torch.from_numpy(np.where(mask, ids, PAD))
    return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}, torch.from_numpy(mask)


def classified(net, folder, out):
    values = json.loads((folder / "config.json").read_text())
    config = hub_config(values, LABELS, "single_label_classification", PAD)
    save_classifier(net, config, out)


def test_every_family_with_a_class_of_its_own_is_in_the_table():
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as theirs

    assert set(HUB_HEADS) <= set(ARCHITECTURES)
    left_out = {name for name in ARCHITECTURES if name in theirs and name not in HUB_HEADS}
    assert left_out == {"t5", "mt5", "umt5"}, "their class runs a decoder, which an encoder does not have"


@pytest.mark.parametrize("name", sorted(HUB_HEADS))
def test_plain_transformers_gives_the_logits_of_the_network(name, folders, tmp_path):
    from transformers import AutoModelForSequenceClassification

    net = make_net(folders(name))
    assert mapping_problems(net) == []
    inputs, mask = batch()
    with torch.no_grad():
        ours = net(inputs, mask)
    classified(net, folders(name), tmp_path)
    theirs, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    taken = {key: inputs[key] for key in ARCHITECTURES[name].inputs}
    with torch.no_grad():
        logits = theirs.eval()(**taken, attention_mask=mask.long()).logits
    torch.testing.assert_close(logits, ours, atol=2e-5, rtol=1e-5)
    assert theirs.config.id2label == dict(enumerate(LABELS))
    state = theirs.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in hub_state(net).items())
    reopened = open_classifier(tmp_path)
    assert type(reopened) is type(theirs)
    assert not reopened.training


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_the_dense_layer_starts_from_the_pretrained_pooler(name, folders):
    from transformers import AutoModel

    pooler = AutoModel.from_pretrained(folders(name)).pooler
    theirs = getattr(pooler, "dense", pooler)
    ours = make_net(folders(name)).backbone.pooling.dense
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_a_new_dense_layer_is_drawn_from_the_seed_and_not_like_the_head(folders):
    before = torch.get_rng_state()
    nets = [make_net(folders("roberta"), seed=seed).backbone.pooling.dense.weight for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])
    assert 0.015 < float(nets[0].detach().std()) < 0.025
    head = LinearHead(32, 3, 0.0, torch.Generator().manual_seed(1)).linear.weight
    assert not torch.allclose(head, nets[0][:3])


def test_the_pooling_by_hand_under_padding(folders):
    pooling = make_net(folders("distilbert")).backbone.pooling
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(3, 4, 32)).astype(np.float32), np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    weight, bias = (tensor.detach().numpy() for tensor in (pooling.dense.weight, pooling.dense.bias))
    expected = np.maximum(x[:, 0] @ weight.T + bias, 0.0)
    expected[2] = 0.0  # a row without real positions
    for filler in (0.0, np.nan):
        filled = torch.from_numpy(np.where(mask[..., None], x, np.float32(filler)))
        got = pooling(filled, torch.from_numpy(mask)).detach().numpy()
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_modernbert_takes_the_vector_that_its_configuration_names(folders, tmp_path):
    folder = folders("modernbert")
    values = json.loads((folder / "config.json").read_text())
    for name in ("cls", "mean"):
        target = tmp_path / name
        target.mkdir()
        for path in folder.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        (target / "config.json").write_text(json.dumps({**values, "classifier_pooling": name}))
        assert type(make_net(target).backbone.pooling.taken) is POOLINGS.get(name)


def test_where_the_class_has_no_bias_the_heads_bias_does_not_learn(folders):
    for name, fixed in (("gpt2", {"head.linear.bias"}), ("bert", set())):
        net = make_net(folders(name))
        assert net.fixed == fixed
        for tuning in TUNINGS:
            cls = TUNINGS.get(tuning)
            assert "head.linear.bias" in cls(cls.Options()).trainable(net)


def test_other_poolings_and_a_bias_are_refused_with_what_to_do(folders):
    (problem,) = mapping_problems(make_net(folders("bert"), "mean"))
    assert str(problem) == (
        "the hub has no class that answers as this network of the architecture 'bert' does\n"
        "  got: the pooling 'mean'\n"
        "  expected: the pooling 'cls', a dense layer, tanh, a linear map with bias\n"
        "  to do: fit it again with the hub's own pooling: regraft fit ... --set base.pooling=hub-head"
    )
    net = make_net(folders("gpt2"), "last")
    (problem,) = mapping_problems(net)
    assert problem.got == "a head with a bias, which the class does not have"
    assert problem.expected == "the pooling 'last', a linear map without bias"
    torch.nn.init.zeros_(net.head.linear.bias)
    assert mapping_problems(net) == []
    assert "the pooling 'cls'" in mapping_problems(make_net(folders("gpt2"), "cls"))[0].got
    assert "no class" in mapping_problems(make_net(folders("t5"), "mean"))[0].got
    net = make_net(folders("bert"))
    net.head = torch.nn.Identity()
    assert "Identity" in mapping_problems(net)[0].got


def test_the_pooling_is_refused_where_the_hub_has_no_class(folders):
    with pytest.raises(OptionsError, match="the hub has no class for classifying sequences that the encoder 't5' alone"):
        make_net(folders("t5"))


def test_a_network_that_does_not_fit_the_class_is_not_written(folders, tmp_path):
    with pytest.raises(GateError, match="the tensors of the network and of the hub's class are not the same"):
        classified(make_net(folders("bert"), "mean"), folders("bert"), tmp_path)


def test_a_class_with_weights_missing_is_not_opened(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    classified(make_net(folders("bert")), folders("bert"), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["classifier.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"classifier\.bias"):
        open_classifier(tmp_path)


def test_saved_and_loaded_it_is_the_same_pooling(folders, tmp_path):
    from regraft.models.net import WEIGHTS_FILE, load_outside, save_net

    net = make_net(folders("electra"))
    save_net(net, tmp_path)
    again = Headed(
        Backbone.load(tmp_path / "backbone", net.backbone.spec()), LinearHead(32, len(LABELS), 0.1, torch.Generator())
    )
    load_outside(again, tmp_path / WEIGHTS_FILE)
    inputs, mask = batch()
    assert isinstance(again.backbone.pooling, HubHeadPooling)
    with torch.no_grad():
        assert torch.equal(net(inputs, mask), again.eval()(inputs, mask))


@pytest.mark.base
def test_minilm_as_the_hubs_own_class(minilm, tmp_path):
    from transformers import AutoModelForSequenceClassification

    net = make_net(minilm.folder())
    texts = minilm.modality({}, lambda: iter(()))
    inputs, mask = texts.collate(texts.encode(["A short one.", "And a text that is a good deal longer than that one."]))
    tensors, mask = {name: torch.from_numpy(values) for name, values in inputs.items()}, torch.from_numpy(mask)
    classified(net, minilm.folder(), tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(**tensors, attention_mask=mask.long()).logits, net(tensors, mask), atol=1e-5, rtol=1e-5
        )


def test_the_families_of_these_tests_are_those_of_the_others():
    assert set(HUB_HEADS) <= set(FAMILIES)
    assert SENTENCES

"""Features against the hub's own AutoModel on the same weights, for every family; padding changes nothing; save and load."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers
from tiny_families import ENCODERS, FAMILIES, VOCABULARY, tiny_model, write_folder
from transformers import AutoModel

from regraft.errors import BaseError
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, PoolingChoice, open_body
from regraft.models.blocks import cut

LENGTHS = [9, 4, 1, 7]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Return a family's (folder, hub's model loaded from it, our backbone), each made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            tiny_model(name).save_pretrained(folder)
            source = getattr(transformers, ENCODERS[name]) if name in ENCODERS else AutoModel
            theirs = source.from_pretrained(folder, dtype=torch.float32).eval()
            body = open_body(folder)
            choice = PoolingChoice(body.architecture.pooling, "family")
            made[name] = folder, theirs, Backbone(body, choice).eval()
        return made[name]

    return get


def batch(lengths=LENGTHS, seed=3):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, 1), mask


def inputs_of(backbone, ids):
    return {name: ids if name == "input_ids" else torch.zeros_like(ids) for name in backbone.architecture.inputs}


def test_every_family_of_the_table_is_tried():
    ours = {name for name in ARCHITECTURES if name.startswith("regraft-")}
    texts = {name for name, line in ARCHITECTURES.items() if line.masked and not line.own_mask}
    assert set(FAMILIES) == texts - ours


@pytest.mark.parametrize("name", FAMILIES)
def test_features_equal_the_hubs_own_output_with_and_without_padding(name, opened):
    _, theirs, ours = opened(name)
    for lengths in (LENGTHS, [6, 6, 6]):
        ids, mask = batch(lengths)
        with torch.no_grad():
            expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            features = ours(inputs_of(ours, ids), mask)
        assert features.sequence_BTD.shape == (*ids.shape, ours.width)
        torch.testing.assert_close(features.sequence_BTD[mask], expected[mask], rtol=0, atol=1e-6)
        assert features.sequence_BTD[mask].std() > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_changes_nothing(name, opened):
    _, _, ours = opened(name)
    ids, mask = batch()
    with torch.no_grad():
        together = ours(inputs_of(ours, ids), mask)
        for row, length in enumerate(LENGTHS):
            alone_ids = ids[row : row + 1, :length]
            alone = ours(inputs_of(ours, alone_ids), torch.ones(1, length, dtype=torch.bool))
            torch.testing.assert_close(together.sequence_BTD[row, :length], alone.sequence_BTD[0], rtol=1e-5, atol=2e-6)
            torch.testing.assert_close(together.pooled_BD[row], alone.pooled_BD[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_belongs_to_one_block_and_cuts_are_nested(name, opened):
    _, _, ours = opened(name)
    blocks = ours.blocks
    groups = [blocks.embeddings, *[(path,) for path in blocks.layers], blocks.final, ("pooling",)]
    for parameter, _ in ours.named_parameters():
        owners = [i for i, paths in enumerate(groups) if any(parameter.startswith(f"{path}.") for path in paths)]
        assert len(owners) == 1, (parameter, owners)
        assert blocks.layer_of(parameter) == owners[0] - 1
    assert len(blocks.layers) == 3
    assert all(parameter.numel() for parameter in ours.parameters())
    below = [cut(ours, k) for k in range(4)]
    assert all(small < large for small, large in itertools.pairwise(below))
    assert below[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_run_in_the_order_of_their_blocks(name, opened):
    _, _, ours = opened(name)
    order = []
    hooks = [
        ours.get_submodule(path).register_forward_hook(lambda *_, path=path: order.append(path))
        for path in (*ours.blocks.embeddings, *ours.blocks.layers, *ours.blocks.final)
        if list(ours.get_submodule(path).parameters())
    ]
    ids, mask = batch()
    with torch.no_grad():
        ours(inputs_of(ours, ids), mask)
    for hook in hooks:
        hook.remove()
    first = {path: i for i, path in reversed(list(enumerate(order)))}
    assert [path for path in order if path in ours.blocks.layers] == list(ours.blocks.layers)
    assert all(first[path] > first[ours.blocks.layers[-1]] for path in ours.blocks.final)
    assert min(first.get(path, len(order)) for path in ours.blocks.embeddings) < first[ours.blocks.layers[0]]


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_below_a_cut_changes_when_what_is_above_it_changes(name, opened, tmp_path):
    _, _, ours = opened(name)
    fresh = Backbone.load(save(ours, tmp_path), ours.spec()).eval()
    seen = []
    fresh.get_submodule(fresh.blocks.layers[1]).register_forward_hook(lambda _, __, out: seen.append(out))
    below = cut(fresh, 2)
    ids, mask = batch()
    with torch.no_grad():
        fresh(inputs_of(fresh, ids), mask)
        for parameter_name, parameter in fresh.named_parameters():
            if parameter_name not in below:
                parameter.add_(1.0)
        fresh(inputs_of(fresh, ids), mask)
    before, after = (out[0] if isinstance(out, tuple) else out for out in seen)
    assert torch.equal(before, after)


def save(backbone, folder):
    folder = folder / "saved"
    folder.mkdir()
    backbone.save(folder)
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_save_and_load_are_bit_equal_and_the_folder_is_an_ordinary_one(name, opened, tmp_path):
    _, theirs, ours = opened(name)
    folder = save(ours, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert str(tmp_path.parent) not in (folder / "config.json").read_text()
    again = Backbone.load(folder, json.loads(json.dumps(ours.spec())))
    expected, got = ours.state_dict(), again.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert again.spec() == ours.spec()
    source = getattr(transformers, ENCODERS[name]) if name in ENCODERS else AutoModel
    loaded, info = source.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids, mask = batch()
    with torch.no_grad():
        a, b = (m(input_ids=ids, attention_mask=mask.long()).last_hidden_state for m in (theirs, loaded.eval()))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "albert"])
def test_the_unused_pooler_does_not_learn_but_stays_in_the_folder(name, opened, tmp_path):
    _, theirs, ours = opened(name)
    assert not [key for key in ours.state_dict() if "pooler" in key]
    again = Backbone.load(save(ours, tmp_path), ours.spec())
    expected = {key: value for key, value in theirs.state_dict().items() if key.startswith("pooler.")}
    assert expected.keys() == again.unused.keys()
    assert all(torch.equal(expected[key], again.unused[key]) for key in expected)


def test_every_trainable_weight_gets_a_gradient(opened):
    for name in FAMILIES:
        _, _, ours = opened(name)
        ids, mask = batch()
        ours.zero_grad()
        ours(inputs_of(ours, ids), mask).sequence_BTD[mask].square().sum().backward()
        without = [key for key, parameter in ours.named_parameters() if parameter.grad is None]
        assert not without, (name, without)
        ours.zero_grad(set_to_none=True)


def test_dropout_of_the_base_works_in_training_only(opened):
    _, _, ours = opened("bert")
    ids, mask = batch()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        quiet = [ours(inputs_of(ours, ids), mask).pooled_BD for _ in range(2)]
        ours.train()
        noisy = [ours(inputs_of(ours, ids), mask).pooled_BD for _ in range(2)]
        ours.eval()
    assert torch.equal(*quiet)
    assert not torch.equal(*noisy)


def test_opening_a_base_leaves_torchs_generator_alone(opened):
    folder, _, _ = opened("bert")
    before = torch.get_rng_state()
    open_body(folder)
    assert torch.equal(before, torch.get_rng_state())


def test_weights_under_a_task_heads_prefix_are_found_and_the_rest_is_noted(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForMaskedLM(transformers.BertConfig(**FAMILIES["bert"][1]))
    model.save_pretrained(tmp_path)
    body = open_body(tmp_path)
    assert torch.equal(body.model.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)
    assert body.unused == {}  # this base has no trained pooler: none is made up
    assert body.notes == [f"{body.notes[0].split()[0]} weights of the folder play no part here: cls"]


def test_half_precision_weights_are_opened_in_float32(tmp_path):
    tiny_model("bert").half().save_pretrained(tmp_path)
    assert {p.dtype for p in open_body(tmp_path).model.parameters()} == {torch.float32}


def test_a_missing_weight_of_the_body_is_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_model("bert").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseError) as caught:
        open_body(tmp_path)
    assert str(caught.value) == (
        "1 weights of the base are missing\n"
        f"  where: {tmp_path}\n"
        "  got: encoder.layer.1.output.dense.weight\n"
        "  expected: every weight that the configuration asks for\n"
        "  to do: check that config.json and the weights belong together"
    )


def test_a_weight_of_another_shape_is_an_error(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 41}))
    with pytest.raises(BaseError, match="the base cannot be loaded"):
        open_body(tmp_path)


def test_a_value_of_the_wrong_kind_in_the_configuration_is_an_error(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    with pytest.raises(BaseError, match="the configuration cannot be used"):
        open_body(tmp_path)


def test_a_folder_of_another_architecture_than_was_saved_is_refused(tmp_path, opened):
    _, _, ours = opened("bert")
    folder = save(ours, tmp_path)
    with pytest.raises(BaseError, match="another architecture than was saved"):
        Backbone.load(folder, {**ours.spec(), "architecture": "roberta"})


@pytest.mark.base
def test_minilm_equals_the_hubs_own_output(minilm):
    texts = ["A short one.", "Somewhat longer, with 漢字 and 😀, to be padded against.", "x " * 300]
    modality = minilm.modality({"max_length": 64}, lambda: iter(()))
    backbone = minilm.backbone(modality, seed=0).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm.folder())
    theirs = AutoModel.from_pretrained(minilm.folder(), dtype=torch.float32).eval()
    encoded = tokenizer(texts, truncation=True, max_length=64, padding=True, return_tensors="pt")
    inputs, mask = modality.collate(modality.encode(texts))
    assert set(inputs) == set(encoded) - {"attention_mask"}
    np.testing.assert_array_equal(inputs["input_ids"], encoded["input_ids"])
    np.testing.assert_array_equal(mask, encoded["attention_mask"].bool())
    mask = torch.from_numpy(mask)
    with torch.no_grad():
        expected = theirs(**encoded).last_hidden_state
        features = backbone({name: torch.from_numpy(array) for name, array in inputs.items()}, mask)
    torch.testing.assert_close(features.sequence_BTD[mask], expected[mask], rtol=0, atol=1e-6)
    mean = torch.stack([row[real].mean(0) for row, real in zip(expected, mask, strict=True)])
    torch.testing.assert_close(features.pooled_BD, mean, rtol=0, atol=1e-6)
    assert (backbone.pooling_name, backbone.pooling_reason) == ("mean", "1_Pooling/config.json of the base")


def test_write_folder_writes_what_a_base_needs(tmp_path):
    write_folder(tmp_path / "b")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (tmp_path / "b").iterdir()}

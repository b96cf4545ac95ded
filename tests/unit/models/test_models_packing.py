"""Only real positions are computed, and nothing else changes: against the hub's own models on padded rows."""

import copy
import itertools

import numpy as np
import pytest
import torch
import transformers
from packed_families import PACKED, both, reference, rows
from tiny_families import FAMILIES, tiny_model

from regraft.models.architectures import ARCHITECTURES
from regraft.models.attention import NAME
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes
from regraft.models.layout import _CALL, _COPY, _PAIR, layout_of, partition
from regraft.models.packing import packing_of

LENGTHS = {
    "one row of one": [1],
    "one and two": [1, 2, 1],
    "all equal": [7, 7, 7, 7],
    "all different": [3, 9, 1, 6, 2, 12],
    "one very long": [2, 3, 2, 50, 3],
}


def test_the_families_that_pack_are_those_that_were_promised():
    promised = {
        "bert",
        "roberta",
        "distilbert",
        "electra",
        "mpnet",
        "xlm-roberta",
        "modernbert",
        "llama",
        "qwen2",
        "qwen3",
        "gpt2",
    }
    assert promised <= set(PACKED)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("name", PACKED)
def test_vectors_are_those_of_the_hub_on_padded_rows(name, lengths):
    backbone, plain = both(name)
    inputs, mask = rows(lengths)
    assert not backbone.packing.reason
    with torch.inference_mode():
        found = backbone(inputs, mask).sequence_BTD
        expected = reference(plain, name, inputs, mask)
    assert (found - expected)[mask].abs().max() <= 1e-5
    assert not found[~mask].any()


@pytest.mark.parametrize("name", PACKED)
def test_gradients_are_those_of_padded_rows(name):
    backbone, plain = both(name)
    backbone.train()
    plain.train()
    inputs, mask = rows([3, 9, 1, 6, 9, 2, 30])
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1))
    for sequence in (backbone(inputs, mask).sequence_BTD, reference(plain, name, inputs, mask)):
        ((sequence.square().mean(dim=-1) * weights)[mask]).sum().backward()
    expected = dict(plain.named_parameters())
    checked = 0
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    for path, parameter in backbone.body.named_parameters():
        if expected[path].grad is None or any(key in path for key in ("key.bias", "k_lin.bias", "attn.k.bias")):
            continue  # the true gradient of a key's bias is zero: what is there is rounding
        scale = max(float(expected[path].grad.abs().max()), 1e-3 * largest)
        assert (parameter.grad - expected[path].grad).abs().max() <= 1e-5 * scale, path
        checked += 1
    assert checked > 10


def test_rows_of_mistral_see_no_further_than_its_window():
    config = transformers.MistralConfig(**{**FAMILIES["mistral"][1], "sliding_window": 4})
    model = transformers.AutoModel.from_config(config).eval()
    plain = copy.deepcopy(model)
    backbone = Backbone(Body(model, ARCHITECTURES["mistral"]), PoolingChoice("last", ""))
    inputs, mask = rows([12, 3, 25, 7])
    with torch.inference_mode():
        found, expected = backbone(inputs, mask).sequence_BTD, reference(plain, "mistral", inputs, mask)
        wide = transformers.MistralConfig(**{**FAMILIES["mistral"][1], "sliding_window": 64})
        plain.config.sliding_window = wide.sliding_window
        other = reference(plain, "mistral", inputs, mask)
    assert (found - expected)[mask].abs().max() <= 1e-5
    assert (found - other)[mask].abs().max() > 1e-3


def test_a_token_that_is_the_padding_token_has_no_place_in_roberta():
    backbone, plain = both("roberta")
    inputs, mask = rows([6, 9])
    inputs["input_ids"][1, 3] = plain.config.pad_token_id
    with torch.inference_mode():
        difference = backbone(inputs, mask).sequence_BTD - reference(plain, "roberta", inputs, mask)
    assert difference[mask].abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["bert", "mpnet", "llama"])
def test_long_and_uneven_rows_attend_in_several_buckets(name):
    backbone, plain = both(name)
    lengths = [2] * 20 + [40, 60, 60]
    inputs, mask = rows(lengths)
    assert len(layout_of(mask).buckets) > 1
    with torch.inference_mode():
        difference = backbone(inputs, mask).sequence_BTD - reference(plain, name, inputs, mask)
    assert difference[mask].abs().max() <= 1e-5


def test_padded_rows_are_computed_as_the_hub_does():
    backbone, plain = both("bert")
    backbone.shapes = Shapes("padded")
    inputs, mask = rows([3, 9, 1])
    with torch.inference_mode():
        assert torch.equal(backbone(inputs, mask).sequence_BTD, reference(plain, "bert", inputs, mask))


def test_rows_that_do_not_start_at_the_first_position_are_padded():
    mask = torch.tensor([[False, True, True], [True, True, False]])
    assert layout_of(mask) is None
    assert layout_of(torch.zeros((2, 3), dtype=torch.bool)) is None
    backbone, plain = both("bert")
    inputs, _ = rows([3, 3])
    with torch.inference_mode():
        difference = backbone(inputs, mask).sequence_BTD - reference(plain, "bert", inputs, mask)
    assert difference[mask].abs().max() <= 1e-6


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(PACKED)))
def test_families_that_look_further_run_padded_and_say_why(name):
    backbone, plain = both(name)
    assert "looks beyond attention" in backbone.packing.reason
    inputs, mask = rows([3, 9, 1])
    with torch.inference_mode():
        difference = backbone(inputs, mask).sequence_BTD - reference(plain, name, inputs, mask)
    assert difference[mask].abs().max() <= 1e-6


def test_a_body_that_does_not_give_the_same_runs_padded_and_says_why():
    model = tiny_model("bert")
    attention = model.encoder.layer[1].attention.self
    inner = attention.forward
    attention.forward = lambda hidden, *args, **kwargs: inner(
        hidden.flip(1), *args, **kwargs
    )  # rows end to end are mixed by it
    packing = packing_of(model, ARCHITECTURES["bert"])
    assert packing.adapt is None
    assert "real positions alone gave vectors" in packing.reason
    attention.forward = lambda hidden, *args, **kwargs: hidden.missing
    assert "failed: AttributeError" in packing_of(model, ARCHITECTURES["bert"]).reason


def test_the_attention_in_use_does_not_travel_with_the_saved_folder(tmp_path):
    backbone, _ = both("bert")
    assert backbone.body.config._attn_implementation == NAME
    backbone.save(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text().replace("regraft-", "")
    assert transformers.AutoModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def cost(lengths, ends):
    total, start = 0.0, 0
    for end in ends:
        part = lengths[start:end]
        places = len(part) * part[-1]
        total += _CALL + places * (1 + _PAIR * part[-1] + (_COPY if part[0] != part[-1] else 0))
        start = end
    return total


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_into_buckets_costs_less(seed):
    rng = np.random.default_rng(seed)
    lengths = sorted(rng.integers(1, 400, rng.integers(1, 9)).tolist())
    inner = [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]]
    every = itertools.chain.from_iterable(itertools.combinations(inner, n) for n in range(len(inner) + 1))
    best = min(cost(lengths, [*cuts, len(lengths)]) for cuts in every)
    assert cost(lengths, partition(lengths)) == pytest.approx(best)


def test_a_batch_is_laid_out_and_back():
    values = torch.randn(3, 5, 2)
    mask = torch.arange(5) < torch.tensor([4, 1, 5])[:, None]
    layout = layout_of(mask)
    packed = layout.pack(values)
    assert packed.shape == (1, 10, 2)
    assert torch.equal(packed[0], torch.cat([values[1, :1], values[0, :4], values[2]]))
    assert torch.equal(layout.unpack(packed), values * mask.unsqueeze(-1))


def test_in_fixed_shapes_a_row_has_the_same_bits_in_every_batch():
    backbone, plain = both("bert")
    backbone.shapes = Shapes("fixed", 32)
    inputs, mask = rows([3, 9, 1, 6, 2, 12, 5, 5, 20, 4, 7])
    with torch.inference_mode():
        whole = backbone(inputs, mask).sequence_BTD
        assert (whole - reference(plain, "bert", inputs, mask))[mask].abs().max() <= 1e-5
        for taken in ([0], [5, 2], [10, 9, 8, 7, 6, 5, 4, 3, 2]):
            part = backbone({name: value[taken] for name, value in inputs.items()}, mask[taken]).sequence_BTD
            assert torch.equal(part[mask[taken]], whole[taken][mask[taken]])

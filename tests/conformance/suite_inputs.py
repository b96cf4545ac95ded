"""What every modality, base and pooling must do. Each check takes a registered name."""

from __future__ import annotations

import json

import numpy as np
import torch
import transformers
from assembly import check_options_class, flat, rows_of, scratch_bases, tiny_base

from regraft.modalities import MODALITIES
from regraft.models import BASES, POOLINGS

SIGNAL = np.random.default_rng(0).random((40, 2))


def modality_of(base, raws):
    return base.modality({}, lambda: iter([raws[:25], raws[25:]]))


def rendered(name):
    """Return raw values of a modality and the modality itself, as some base that reads it prepares it."""
    raws = MODALITIES.get(name).example(SIGNAL, 0)
    cls = MODALITIES.get(name)
    base = next(base for base in map(tiny_base, scratch_bases()) if base.modality_name == (cls.over or name))
    options = {"columns": list(raws[0])} if cls.over else {}
    return raws, base.prepared(cls, options, lambda: iter([raws[:25], raws[25:]]))


def same(left, right):
    """Whether two encoded rows are equal in everything but the spans."""
    one, two = left.arrays(), right.arrays()
    return left.dropped == right.dropped and all(np.array_equal(one[key], two[key]) for key in {*one, *two})


def check_modality_options(name):
    check_options_class(MODALITIES.get(name).Options)


def check_modality_example_is_a_function_of_its_seed(name):
    cls = MODALITIES.get(name)
    assert cls.example(SIGNAL, 1) == cls.example(SIGNAL, 1)
    assert len(cls.example(SIGNAL[:1], 1)) == 1
    assert cls.recognises(cls.example(SIGNAL, 0))


def check_modality_says_why_it_cannot_read(name):
    raws, modality = rendered(name)
    assert {modality.problem(raw) for raw in raws} == {""}
    for strange in (None, object(), float("nan")):
        assert modality.problem(strange)


def check_modality_encodes_each_row_by_itself(name):
    raws, modality = rendered(name)
    together = modality.encode(raws)
    assert len(together) == len(raws)
    for raw, row in zip(raws, together, strict=True):
        (alone,) = modality.encode([raw])
        assert same(alone, row)
        assert np.array_equal(alone.spans_T2, row.spans_T2)
        assert row.length > 0
        assert row.arrays()
        assert all(len(array) == row.length for array in row.inputs.values())
        assert (row.spans_T2[:, 0] <= row.spans_T2[:, 1]).all()
    assert all(same(left, right) for left, right in zip(modality.encode(raws, spans=False), together, strict=True))
    assert modality.encode([]) == []


def check_modality_encodes_what_it_can_and_says_why_not(name):
    raws, modality = rendered(name)
    strange = [None, object()]
    tried = modality.attempt([*strange[:1], *raws, *strange[1:]])
    assert [tried[0], tried[-1]] == [modality.problem(raw) for raw in strange]
    for left, right in zip(tried[1:-1], modality.encode(raws), strict=True):
        assert same(left, right)
    assert modality.attempt(strange[:1]) == [modality.problem(None)]


def check_modality_pads_and_masks(name):
    raws, modality = rendered(name)
    encoded = modality.encode(raws)
    for rows in (encoded[:1], encoded[:3], encoded):
        inputs, mask_BT = modality.pad(rows)
        ready, mask_too_BT = modality.collate(rows)
        assert np.array_equal(mask_BT, mask_too_BT)
        assert {len(array) for array in ready.values()} == {len(rows)}, "the first axis of what a network takes is the row"
        assert mask_BT.dtype == bool
        assert mask_BT.sum(axis=1).tolist() == [row.length for row in rows]
        for key, array in inputs.items():
            assert array.shape[:2] == mask_BT.shape
            for i, row in enumerate(rows):
                assert np.array_equal(array[i, : row.length], row.inputs[key])
                assert (array[i, row.length :] == modality.padding[key]).all()


def check_modality_is_the_same_after_save_and_load(name, folder):
    raws, modality = rendered(name)
    modality.save(folder)
    again = type(modality).load(folder, json.loads(json.dumps(modality.spec(), allow_nan=False)))
    assert again.spec() == modality.spec()
    for left, right in zip(modality.encode(raws), again.encode(raws), strict=True):
        assert same(left, right)
        assert np.array_equal(left.spans_T2, right.spans_T2)


MODALITY_CHECKS = (
    check_modality_options,
    check_modality_example_is_a_function_of_its_seed,
    check_modality_says_why_it_cannot_read,
    check_modality_encodes_each_row_by_itself,
    check_modality_encodes_what_it_can_and_says_why_not,
    check_modality_pads_and_masks,
)


def based(name, seed=0):
    """Return raw values, the base, its modality and its network."""
    base = tiny_base(name)
    raws = MODALITIES.get(base.modality_name).example(SIGNAL, 0)
    modality = modality_of(base, raws)
    return raws, base, modality, base.backbone(modality, seed).eval()


def features_of(backbone, modality, raws):
    batch = rows_of(modality, raws).batch(np.arange(len(raws)))
    with torch.no_grad():
        return backbone({key: torch.from_numpy(array) for key, array in batch.inputs.items()}, torch.from_numpy(batch.mask_BT))


def check_base_describes_itself(name):
    base = tiny_base(name)
    card = base.card()
    name = name.partition("/")[0]
    assert (card.name, card.modality) == (name, base.modality_name)
    assert all((card.what, card.licence, card.source))
    assert base.modality_name in MODALITIES
    assert json.loads(json.dumps(base.origin(), allow_nan=False))["name"] == name
    check_options_class(BASES.get(name).Options)


def check_base_gives_features_of_the_promised_shapes(name):
    raws, _, modality, backbone = based(name)
    assert {"sequence", "pooled"} & backbone.provides
    for batch in (1, 3, 40):
        features = features_of(backbone, modality, raws[:batch])
        rows, positions, width = features.sequence_BTD.shape
        assert (rows, width) == (batch, backbone.width)
        assert features.mask_BT.shape == (rows, positions)
        assert features.pooled_BD.shape == (batch, backbone.width)
        assert torch.isfinite(features.pooled_BD).all()


def check_base_ignores_padding(name):
    raws, _, modality, backbone = based(name)
    together = features_of(backbone, modality, raws[:12])
    for i, raw in enumerate(raws[:12]):
        alone = features_of(backbone, modality, [raw])
        length = int(alone.mask_BT.sum())
        assert torch.allclose(alone.pooled_BD[0], together.pooled_BD[i], atol=1e-5)
        assert torch.allclose(alone.sequence_BTD[0, :length], together.sequence_BTD[i, :length], atol=1e-5)


def check_base_repeats_itself(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    (raws, base, one, first), (_, _, two, second) = based(name), based(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(left, right) for left, right in zip(one.encode(raws), two.encode(raws), strict=True))
    assert torch.equal(flat(first), flat(second))
    if not base.card().size_bytes:
        assert not torch.equal(flat(first), flat(based(name, seed=1)[3]))


def check_base_is_the_same_after_save_and_load(name, folder):
    raws, _, modality, backbone = based(name)
    backbone.save(folder)
    again = type(backbone).load(folder, json.loads(json.dumps(backbone.spec(), allow_nan=False)))
    again.pooling.load_state_dict(backbone.pooling.state_dict())
    left, right = (features_of(made.eval(), modality, raws[:7]) for made in (backbone, again))
    assert torch.equal(left.sequence_BTD, right.sequence_BTD)
    assert torch.equal(left.pooled_BD, right.pooled_BD)


BASE_CHECKS = (
    check_base_describes_itself,
    check_base_gives_features_of_the_promised_shapes,
    check_base_ignores_padding,
    check_base_repeats_itself,
)


def tiny_pooling(name, positions=2):
    """Return a pooling for a body 8 wide of a family that every pooling knows; one over layers takes so many outputs of them."""
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=positions - 1, num_attention_heads=2, intermediate_size=8, vocab_size=9
    )
    return POOLINGS.get(name).for_body(transformers.BertModel(config, add_pooling_layer=False), {})


def check_pooling_shapes(name):
    for batch, positions in ((1, 1), (1, 5), (3, 1), (7, 9)):
        pooling = tiny_pooling(name, positions)
        pooled = pooling(torch.randn(batch, positions, 8), torch.ones(batch, positions, dtype=torch.bool))
        assert pooled.shape == (batch, 8)


def check_pooling_ignores_padding_at_either_end(name):
    for left, right in ((0, 3), (3, 0), (2, 2)):
        pooling = tiny_pooling(name, left + 4 + right)
        with torch.no_grad():
            for parameter in pooling.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        x, one, other = torch.randn(2, 4, 8), *(torch.randn(2, left + right, 8) for _ in range(2))
        mask = torch.tensor([[False] * left + [True] * 4 + [False] * right] * 2)
        filled = [torch.cat([1e4 * rubbish[:, :left], x, 1e4 * rubbish[:, left:]], dim=1) for rubbish in (one, other)]
        assert torch.allclose(pooling(filled[0], mask), pooling(filled[1], mask), atol=1e-5)
        if not pooling.over_layers:  # the outputs of a body are as many in every row: none is filled up
            assert torch.allclose(pooling(x, torch.ones(2, 4, dtype=torch.bool)), pooling(filled[0], mask), atol=1e-5)


def check_pooling_of_nothing_is_finite(name):
    pooled = tiny_pooling(name, 3)(torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.bool))
    assert torch.isfinite(pooled).all()


POOLING_CHECKS = (check_pooling_shapes, check_pooling_ignores_padding_at_either_end, check_pooling_of_nothing_is_finite)

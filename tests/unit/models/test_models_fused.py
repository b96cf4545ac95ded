"""Several backbones as one: rows picked or filled, layers counted from the top, what is new, files, and the base that makes it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from regraft.errors import DataError, OptionsError
from regraft.modalities import MODALITIES
from regraft.models import BASES
from regraft.models.backbones import Shapes
from regraft.models.fused import load_backbone
from regraft.models.net import Headed, outside_backbone_folder, save_net
from regraft.options import build
from regraft.tasks import TASKS
from regraft.tuning import TUNINGS
from regraft.types import Ledger

SIGNAL = np.random.default_rng(0).random((24, 2))
TEXT = {"name": "transformer", "width": 16, "layers": 3, "heads": 2, "vocabulary_size": 300, "positions": 64, "dropout": 0.0}
KINDS = {
    "text": TEXT,
    "table": {"name": "table", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0},
    "image": {"name": "conv", "widths": [8, 8], "dropout": 0.0},
    "series": {"name": "series", "width": 16, "layers": 1, "dropout": 0.0},
}


def made(kinds=("text", "table"), style="concat", seed=0, lacking=3):
    """A base, its modality and backbone, and rows of which every third lacks one part."""
    examples = {kind: MODALITIES.get(kind).example(SIGNAL, 0) for kind in kinds}
    rows = []
    for number in range(len(SIGNAL)):
        row = {}
        for place, kind in enumerate(kinds):
            value = examples[kind][number]
            out = number % lacking == place + 1
            row |= {name: None if out else cell for name, cell in (value if kind == "table" else {kind: value}).items()}
        rows.append(row)
    cls = BASES.get("fusion")
    options = {"parts": {kind: KINDS[kind] for kind in kinds}, "style": style, "width": 8, "heads": 2, "layers": 1}
    base = cls("fusion", build(cls.Options, options))
    base.fetch()
    modality = base.modality({}, lambda: iter([rows]))
    return base, modality, base.backbone(modality, seed).eval(), rows


def features(backbone, modality, rows):
    inputs, mask = modality.collate(modality.encode(rows))
    with torch.no_grad():
        return backbone({name: torch.from_numpy(array) for name, array in inputs.items()}, torch.from_numpy(mask))


def task():
    cls = TASKS.get("classification")
    found = cls(cls.Options())
    found.learn(["a", "b"] * 5, Ledger())
    return found


PAIRS = [("text", "table"), ("image", "table"), ("series", "text"), ("image", "series", "table")]


@pytest.mark.parametrize("style", ["concat", "early", "late"])
@pytest.mark.parametrize("kinds", PAIRS, ids="+".join)
def test_rows_are_alike_alone_together_picked_and_filled(kinds, style):
    _, modality, backbone, rows = made(kinds, style)
    together = features(backbone, modality, rows).pooled_BD
    assert together.shape == (24, backbone.width)
    for number in range(0, 24, 5):
        alone = features(backbone, modality, rows[number : number + 1]).pooled_BD
        torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=1e-5)
    backbone.shapes = Shapes("padded")
    torch.testing.assert_close(features(backbone, modality, rows).pooled_BD, together, atol=1e-5, rtol=1e-5)
    backbone.shapes = Shapes("fixed")
    torch.testing.assert_close(features(backbone, modality, rows).pooled_BD, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kinds", PAIRS[:3], ids="+".join)
def test_save_and_load_are_bit_equal(kinds, tmp_path):
    _, modality, backbone, rows = made(kinds, "gated")
    net = Headed(backbone, backbone.head(task(), 0.0)).eval()
    save_net(net, tmp_path)
    modality.save(tmp_path / "backbone")
    assert all((tmp_path / "backbone" / kind / "config.json").is_file() for kind in kinds), "ordinary folders of the hub"
    again = load_backbone(tmp_path / "backbone", json.loads(json.dumps(backbone.spec(), allow_nan=False))).eval()
    again.pooling.load_state_dict(backbone.pooling.state_dict())
    one, two = (features(each, modality, rows).pooled_BD for each in (backbone, again))
    assert torch.equal(one, two)
    assert not [name for name in outside_backbone_folder(net) if ".body." in name]


def test_a_part_is_what_it_is_alone():
    base, modality, backbone, rows = made(style="late")
    part = modality.parts[0]
    alone = base.bases["text"].backbone(part.modality, 0).eval()
    there = [row for row in rows if row["text"]]
    inputs, mask = part.modality.collate(part.modality.encode([row["text"] for row in there]))
    with torch.no_grad():
        expected = alone({name: torch.from_numpy(array) for name, array in inputs.items()}, torch.from_numpy(mask)).pooled_BD
    found = features(backbone, modality, there).pooled_BD[:, :16]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_layers_are_counted_from_the_last_of_each_part():
    base, modality, *_ = made()
    base.bases["text"].pretrained = base.bases["table"].pretrained = True
    backbone = base.backbone(modality, 0)
    net = Headed(backbone, backbone.head(task(), 0.0))
    blocks = backbone.blocks
    assert len(blocks.layers) == 3
    assert blocks.layer_of("parts.0.body.encoder.layer.0.output.dense.weight") == 0
    assert blocks.layer_of("parts.0.body.encoder.layer.2.output.dense.weight") == 2
    assert blocks.layer_of("parts.0.body.embeddings.word_embeddings.weight") == -1
    assert blocks.layer_of("parts.1.body.layers.0.wide.weight") == 2, "the only layer of a part is its last"
    assert blocks.layer_of("pooling.mixing.weight") == 3
    tuning = TUNINGS.get("top-k")
    names = tuning(tuning.Options(layers=1)).trainable(net)
    assert "backbone.parts.0.body.encoder.layer.2.output.dense.weight" in names
    assert "backbone.parts.0.body.encoder.layer.1.output.dense.weight" not in names


def test_what_is_untrained_learns_whatever_is_frozen():
    base, modality, *_ = made()
    base.bases["text"].pretrained = True
    backbone = base.backbone(modality, 0)
    net = Headed(backbone, backbone.head(task(), 0.0))
    names = TUNINGS.get("head")(None).trainable(net)
    assert any(name.startswith("backbone.parts.1.") for name in names), "the table came without weights"
    assert not any(name.startswith("backbone.parts.0.") for name in names), "the text came with weights"
    assert {"backbone.pooling.mixing.weight", "head.linear.weight"} <= names


def test_axes_of_any_length_are_those_of_each_part():
    *_, backbone, _ = made(("image", "text"))
    assert backbone.axes("text__input_ids") == {0: "batch", 1: "text__length"}
    assert backbone.axes("text__attention_mask") == {0: "batch", 1: "text__length"}
    assert backbone.axes("image__pixel_values") == {0: "batch"}
    assert backbone.architecture.inputs[:2] == ("image__pixel_values", "image__attention_mask")


def test_rows_are_packed_where_the_part_can():
    *_, backbone, _ = made(("image", "text"))
    assert backbone.packing.reason == "", "BERT computes real positions alone, a picture has no other"
    *_, backbone, _ = made(("series", "table"))
    assert backbone.packing.reason.startswith("series: ")


def test_same_seed_same_weights():
    one, two, three = (made(seed=seed)[2].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["pooling.mixing.weight"], three["pooling.mixing.weight"])


def fusion_base(**options):
    cls = BASES.get("fusion")
    return cls("fusion", build(cls.Options, options))


def test_a_fusion_of_one_part_and_odd_heads_are_refused_together():
    with pytest.raises(OptionsError) as caught:
        fusion_base(parts={"text": TEXT}, width=16, heads=3).fetch()
    assert [problem.what for problem in caught.value.problems] == [
        "the option 'heads' has a value it cannot take",
        "a fusion needs two parts",
    ]
    assert caught.value.problems[1].fix == "name columns of two kinds at least, such as --text COLUMN --table A,B"


def test_an_unknown_base_of_a_part_offers_the_nearest():
    with pytest.raises(OptionsError) as caught:
        fusion_base(parts={"text": "minilmm", "table": "table"})
    assert "there is no 'minilmm' among the bases" in str(caught.value)
    assert "did you mean 'minilm'?" in str(caught.value)


def test_a_part_that_no_training_row_has_is_refused():
    base = fusion_base(parts={"text": TEXT, "table": KINDS["table"]})
    rows = [{"text": None, "age": number} for number in range(5)]
    with pytest.raises(DataError) as caught:
        base.modality({}, lambda: iter([rows]))
    assert caught.value.problems[0].what == "the part 'text' is missing in every training row"
    assert caught.value.problems[0].fix == "leave it out of --text, or give training rows that have it"


def test_a_part_without_a_base_is_refused():
    base = fusion_base(parts={"text": TEXT, "table": KINDS["table"]})
    with pytest.raises(OptionsError, match="the part 'texts' has no base") as caught:
        base.modality({"parts": {"texts": {"name": "text"}}}, lambda: iter([]))
    assert caught.value.problems[0].fix == "did you mean 'text'?"


def test_the_card_and_the_origin_name_every_part():
    base = fusion_base(parts={"text": TEXT, "table": KINDS["table"]})
    assert "text: transformer, table: table" in base.card().what
    assert base.card().fetched
    assert set(base.origin()["parts"]) == {"text", "table"}
    assert fusion_base().card().modality == "fusion"

"""Parts that are frozen are computed once, each by itself; what is trained from them is what would be trained without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.modalities import MODALITIES
from regraft.modalities.digests import modality_digest
from regraft.models import BASES
from regraft.models.net import Headed
from regraft.options import build
from regraft.tasks import TASKS
from regraft.training import frozen, frozen_parts
from regraft.training.cache.options import CacheOptions
from regraft.tuning import TUNINGS
from regraft.types import Ledger

SIGNAL = np.random.default_rng(0).random((20, 2))
TEXT = {"name": "transformer", "width": 16, "layers": 2, "heads": 2, "vocabulary_size": 300, "positions": 64, "dropout": 0.0}
TABLE = {"name": "table", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0}


@pytest.fixture
def setting(tmp_path):
    notes = []
    cache = build(CacheOptions, {"folder": str(tmp_path / "kept")})
    return frozen.Setting(cache=cache, preprocessing="unused", about="fusion", threads=1, note=notes.append), notes


def made(style="concat"):
    words = MODALITIES.get("text").example(SIGNAL, 0)
    tables = MODALITIES.get("table").example(SIGNAL, 0)
    raws = [{"text": None if i % 6 == 1 else text, **row} for i, (text, row) in enumerate(zip(words, tables, strict=True))]
    cls = BASES.get("fusion")
    base = cls("fusion", build(cls.Options, {"parts": {"text": TEXT, "table": TABLE}, "style": style, "width": 8, "heads": 2}))
    base.bases["text"].pretrained = True
    modality = base.modality({}, lambda: iter([raws]))
    backbone = base.backbone(modality, 0)
    task_cls = TASKS.get("classification")
    task = task_cls(task_cls.Options())
    task.learn(["a", "b"] * 5, Ledger())
    net = Headed(backbone, backbone.head(task, 0.0)).eval()
    rows = modality.rows(lambda: [raws], lambda _: None)
    return base, net, rows, raws


def outputs(net, rows, order):
    with torch.no_grad():
        return net(*net.tensors(rows.batch(np.array(order))))


def trainable(net, name, **options):
    cls = TUNINGS.get(name)
    return cls(build(cls.Options, options)).trainable(net)


@pytest.mark.parametrize("style", ["concat", "gated", "weighted", "early", "late"])
@pytest.mark.parametrize(("tuning", "options"), [("head", {}), ("top-k", {"layers": 1})])
def test_from_what_is_kept_comes_what_the_whole_network_gives(style, tuning, options, setting):
    _, net, rows, _ = made(style)
    names = trainable(net, tuning, **options)
    with frozen_parts.learner(net, names, {"pooled"}, {"train": rows, "valid": rows}, setting[0]) as found:
        assert found.net is not net, "the text below its cut is not there any more"
        kept = [name for name, _ in found.net.named_parameters() if name.startswith("backbone.parts.0.")]
        whole = [name for name, _ in net.named_parameters() if name.startswith("backbone.parts.0.")]
        assert len(kept) < len(whole)
        assert names <= {name for name, _ in found.net.named_parameters()}, "what learns is all there"
        for order in ([0, 1, 2, 3, 4], [7], [1, 19]):
            expected = outputs(net, rows, order)
            torch.testing.assert_close(outputs(found.net, found.rows["train"], order), expected, atol=1e-5, rtol=1e-5)


def test_weights_that_learn_are_those_of_the_network(setting):
    _, net, rows, _ = made()
    with frozen_parts.learner(net, trainable(net, "head"), {"pooled"}, {"train": rows}, setting[0]) as found:
        theirs = dict(found.net.named_parameters())
        assert all(theirs[name] is weight for name, weight in net.named_parameters() if name in theirs)


def test_nothing_is_kept_where_everything_learns(setting):
    _, net, rows, _ = made()
    with frozen_parts.learner(net, trainable(net, "full"), {"pooled"}, {"train": rows}, setting[0]) as found:
        assert found.net is net
        assert found.rows["train"] is rows
    assert not setting[1]


def test_what_a_run_over_the_text_alone_has_kept_is_found_again(setting):
    base, net, rows, raws = made()
    modality = rows.modality.parts[0].modality
    texts = [raw["text"] for raw in raws if raw["text"]]
    alone_rows = modality.rows(lambda: [texts], lambda _: None)
    alone = Headed(base.bases["text"].backbone(modality, 0), torch.nn.Linear(16, 2))
    own = frozen.Setting(**{**vars(setting[0]), "preprocessing": modality_digest(modality)})
    with frozen.learner(alone, {"head.weight", "head.bias"}, {"pooled"}, {"train": alone_rows}, own):
        pass
    setting[1].clear()
    with frozen_parts.learner(net, trainable(net, "head"), {"pooled"}, {"train": rows}, setting[0]):
        pass
    (note,) = setting[1]
    assert f"{len(texts)} of {len(texts)} rows are there" in note
    assert "fusion: text" in note


def test_baselines_see_the_vectors_of_all_parts_and_zeros_for_what_is_missing(setting):
    _, net, rows, _ = made()
    order = np.array([4, 1, 0, 7])
    vectors = frozen_parts.kept_pooled(net, rows, order, setting[0], lambda _: None)
    assert vectors.shape == (4, 32)
    assert not vectors[1, :16].any()
    assert not vectors[3, :16].any()
    assert vectors[:, 16:].any(axis=1).all()
    batch = rows.batch(order)
    text = {"input_ids": torch.from_numpy(batch.inputs["text__input_ids"][:1])}
    text["token_type_ids"] = (
        torch.from_numpy(batch.inputs["text__token_type_ids"][:1]) if "text__token_type_ids" in batch.inputs else None
    )
    mask = torch.from_numpy(batch.inputs["text__attention_mask"][:1]).bool()
    with torch.no_grad():
        expected = net.backbone.parts[0]({name: value for name, value in text.items() if value is not None}, mask).pooled_BD
    np.testing.assert_allclose(vectors[0, :16], expected[0].numpy(), atol=1e-5)

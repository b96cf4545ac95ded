"""ROCKET against its definition in plain numpy, kernel by kernel and place by place; and the contract of a base."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.models.backbones import Backbone, Shapes
from regraft.models.rocket import RocketBase, RocketOptions, drawn, shares_and_maxima, spread
from regraft.options import build

RNG = np.random.default_rng(0)
RAWS = [RNG.standard_normal((length, 3)).tolist() for length in (1, 2, 7, 11, 12, 30, 41, 60)]


def made(seed=0, kernels=60, raws=RAWS, **options):
    base = RocketBase("rocket", build(RocketOptions, {"kernels": kernels}))
    modality = base.modality({"scaling": "none", **options}, lambda: iter([raws[:3], raws[3:]]))
    return modality, base.backbone(modality, seed).eval()


def run(modality, backbone, raws):
    batch = EncodedRows(modality, [raws]).batch(np.arange(len(raws)))
    with torch.no_grad():
        return backbone({k: torch.from_numpy(v) for k, v in batch.inputs.items()}, torch.from_numpy(batch.mask_BT))


def by_definition(series_TC, weights_CL, bias, dilation, margin):
    """Return share above zero and maximum of one kernel over one series, as section 3 of the paper says it."""
    steps, reach = len(series_TC), weights_CL.shape[1] // 2
    if 2 * margin >= steps:
        margin = 0
    out = []
    for place in range(margin, steps - margin):
        total = bias
        for tap in range(weights_CL.shape[1]):
            at = place + (tap - reach) * dilation
            if 0 <= at < steps:
                total += float(weights_CL[:, tap] @ series_TC[at])
        out.append(total)
    return sum(value > 0 for value in out) / len(out), max(out)


def test_shares_and_maxima_are_those_of_the_definition_for_rows_of_any_length():
    lengths, channels = [1, 5, 13, 40], 3
    rows = [RNG.standard_normal((length, channels)) for length in lengths]
    values = np.full((len(rows), max(lengths), channels), 1e3)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    for place, row in enumerate(rows):
        values[place, : len(row)] = row
    values = np.where(mask[..., None], values, 0.0)
    tried = set()
    for dilation, weights, biases, margins in drawn(40, channels, 40, np.random.default_rng(1)):
        tensors = tuple(map(torch.from_numpy, (weights, biases, margins)))
        found = shares_and_maxima(torch.from_numpy(values).transpose(1, 2), torch.from_numpy(mask), tensors, dilation)
        for place, row in enumerate(rows):
            expected = [by_definition(row, *each, dilation, m) for *each, m in zip(weights, biases, margins, strict=True)]
            np.testing.assert_allclose(torch.stack(found)[:, place].T.numpy(), expected, rtol=1e-9, atol=1e-9)
        tried |= {(dilation, bool(margin)) for margin in margins}
    assert {padded for _, padded in tried} == {True, False}
    assert len({dilation for dilation, _ in tried}) > 2


def test_kernels_are_drawn_as_the_paper_says():
    steps, channels, count = 500, 5, 6000
    taps, biases, padded, dilations, read = [], [], [], [], []
    for dilation, weights, bias, margins in drawn(count, channels, steps, np.random.default_rng(0)):
        used = weights != 0
        taps += used.any(axis=1).sum(axis=1).tolist()
        read += used.any(axis=2).sum(axis=1).tolist()
        sums = weights.sum(axis=2)
        assert np.abs(sums).max() < 1e-9, "the weights of a channel are less their mean"
        biases += bias.tolist()
        padded += (margins == 0).tolist()
        dilations += [dilation] * len(bias)
        lengths = used.any(axis=1).sum(axis=1)
        assert set(margins[margins > 0]) <= set((lengths // 2 * dilation).tolist())
        assert ((lengths - 1) * dilation < steps).all(), "no kernel is wider than the series"
    assert len(taps) == count
    shares = [np.mean(np.array(taps) == length) for length in (7, 9, 11)]
    assert np.allclose(shares, 1 / 3, atol=0.03)
    assert abs(np.mean(padded) - 0.5) < 0.03
    assert np.allclose(np.quantile(biases, [0, 0.5, 1]), [-1, 0, 1], atol=0.05)
    # 2^u is 1 when rounded down for u below 1, of u up to log2(499 / (length - 1)).
    ones = np.mean([1 / math.log2((steps - 1) / (length - 1)) for length in (7, 9, 11)])
    assert abs(np.mean(np.array(dilations) == 1) - ones) < 0.03
    expected = [1 / math.log2(6), (math.log2(3) - 1) / math.log2(6)]
    assert np.allclose([np.mean(np.array(read) == number) for number in (1, 2)], expected, atol=0.03)


def test_features_are_standardised_over_the_training_rows_and_bounded():
    raws = [np.random.default_rng(seed).standard_normal((50, 1)).tolist() for seed in range(64)]
    modality, backbone = made(raws=raws)
    found = run(modality, backbone, raws)
    assert found.sequence_BTD.shape == (64, 1, 120)
    assert torch.equal(found.sequence_BTD[:, 0], found.pooled_BD)
    features = found.pooled_BD.numpy() * math.sqrt(120)
    varied = features.std(axis=0) > 0.5
    assert varied.mean() > 0.9
    inside = np.abs(features).max(axis=0) < 4
    np.testing.assert_allclose(features[:, varied & inside].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features[:, varied & inside].std(axis=0), 1, atol=1e-3)
    far = run(modality, backbone, [(1e4 * np.array(raws[0])).tolist()]).pooled_BD
    assert far.abs().max() * math.sqrt(120) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("kind", ["packed", "fixed"])
def test_padding_changes_nothing_whatever_stands_in_it(kind):
    modality, backbone = made()
    backbone.shapes = Shapes(kind, 64 if kind == "fixed" else None)
    together = run(modality, backbone, RAWS).pooled_BD
    for row, raw in enumerate(RAWS):
        assert torch.allclose(run(modality, backbone, [raw]).pooled_BD[0], together[row], atol=1e-5)
    values, mask = torch.randn(2, 20, 3), torch.arange(20) < torch.tensor([[20], [5]])
    with torch.no_grad():
        one, two = (
            backbone({"values": torch.where(mask[..., None], values, rubbish)}, mask).pooled_BD for rubbish in (0.0, 1e4)
        )
        assert torch.isfinite(backbone({"values": values}, torch.zeros_like(mask)).pooled_BD).all()
    assert torch.equal(one, two)


def test_kernels_come_from_the_seed_go_through_a_folder_and_never_learn(tmp_path):
    modality, backbone = made()
    backbone.save(tmp_path)
    again = Backbone.load(tmp_path, backbone.spec()).eval()
    expected = run(modality, backbone, RAWS).pooled_BD
    assert torch.equal(expected, run(modality, again, RAWS).pooled_BD)
    assert torch.equal(expected, run(*made(), RAWS).pooled_BD)
    assert not torch.equal(expected, run(*made(seed=1), RAWS).pooled_BD)
    assert not list(backbone.parameters())


def test_rows_all_over_the_training_rows_are_kept():
    assert spread(iter(range(3)), 4) == [0, 1, 2]
    kept = spread(iter(range(10_000)), 256)
    assert 128 <= len(kept) <= 256
    assert len(set(np.diff(kept))) == 1
    assert kept[-1] > 9_900


def test_no_kernels_are_refused():
    with pytest.raises(OptionsError, match="kernels"):
        build(RocketOptions, {"kernels": 0})


def test_a_fit_of_the_head_answers_the_same_in_a_graph(tmp_path):
    rng = np.random.default_rng(5)
    lines = []
    for number in range(120):
        steps, rate = int(rng.integers(30, 60)), (0.3, 0.6)[number % 2]
        wave = np.sin(rate * np.arange(steps) + rng.uniform(0, 6)) + 0.3 * rng.standard_normal(steps)
        lines.append(json.dumps({"wave": wave.round(4).tolist(), "label": ("slow", "fast")[number % 2]}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:80]) + "\n")
    (tmp_path / "test.jsonl").write_text("\n".join(lines[80:]) + "\n")
    asked = {"judge": {"resamples": 200}, "machine": {"threads": 1, "cache": {"disk_mb": 0}}}
    base, out, test = {"name": "rocket", "kernels": 200}, tmp_path / "m", str(tmp_path / "test.jsonl")
    data = str(tmp_path / "train.jsonl")
    artifact = regraft.fit(data, target="label", series="wave", base=base, tuning="head", test=test, out=out, **asked)
    assert artifact.report.to_json()["metrics"]["accuracy"]["value"] > 0.9
    exported = regraft.export(artifact, format="onnx", out=tmp_path / "o", rows=test, machine={"threads": 1})
    assert exported.manifest.export.gate["runtimes"]["onnxruntime"]["worst_probability"] <= 1e-5

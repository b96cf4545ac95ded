"""Operations against numbers worked out by hand and counted by torch; rates from events; what people read."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from tiny_net import tiny_net
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5EncoderModel,
)

from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice, detach_unused
from regraft.models.net import Headed
from regraft.training.arithmetic import Flops, Part, attended, flops_per_token, inference_flops, training_flops
from regraft.training.cost import Meter, Passes, Use, Work, cost_of, peak_memory_mb, rates, sentences
from regraft.training.events import BeginEvent, EndEvent, NoteEvent, StepEvent, ValidEvent
from regraft.training.machine import Profile
from regraft.training.stages import Stages, ignore
from regraft.training.threads import crowding

LENGTHS = np.array([8, 8, 8])
W, F, L = 16, 32, 3  # width, feed-forward width, layers
LAYER = 4 * (W * W + W) + (W * F + F) + (F * W + W) + 4 * W  # attention, feed-forward, two norms


class RowHead(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(W, 2)

    def forward(self, features):
        return self.linear(features.pooled_BD)


def net_of(model, kind) -> Headed:
    body = Body(model, ARCHITECTURES[kind])
    detach_unused(model, keep=False)
    return Headed(Backbone(body, PoolingChoice("mean", "test")), RowHead())


@pytest.fixture(scope="module")
def bert() -> Headed:
    config = BertConfig(
        hidden_size=W,
        intermediate_size=F,
        num_hidden_layers=L,
        num_attention_heads=2,
        vocab_size=50,
        max_position_embeddings=16,
    )
    return net_of(BertModel(config), "bert")


def names(net, *paths):
    return {name for name, _ in net.named_parameters() if not paths or name.startswith(paths)}


def test_a_token_attends_to_the_mean_of_squares_over_the_mean():
    assert attended(np.array([4, 4, 4])) == 4.0
    assert attended(np.array([1, 3])) == 10 / 4
    assert attended(np.array([], dtype=int)) == attended(np.array([0])) == 0.0


def test_everything_learning_and_nothing_learning_are_the_published_formulas():
    parts = [Part(weights=100, learning=100, attention=8)] * 5
    p, layers, t, d = 500, 5, 10.0, 8
    assert flops_per_token(parts, t, 0) == 6 * p + 12 * layers * t * d
    assert flops_per_token(parts, t, None) == 2 * p + 4 * layers * t * d


def test_frozen_and_cached_parts_cost_less():
    frozen, learns = Part(weights=100, attention=8), Part(weights=100, learning=100, attention=8)
    assert flops_per_token([frozen, frozen, learns], 10.0, 2) == 3 * (200 + 320) + (400 + 640)
    assert flops_per_token([frozen, frozen, learns], 10.0, 2, cached=2) == 600 + 960
    assert flops_per_token([frozen], 10.0, None, cached=1) == 0.0
    lora = Part(weights=110, learning=10, attention=8)
    assert flops_per_token([lora], 10.0, 0) == 2 * 110 + 2 * 110 + 2 * 10 + 12 * 10 * 8


def test_a_real_network_by_hand(bert):
    assert inference_flops(bert, LENGTHS).per_token == L * (2 * LAYER + 4 * 8 * W)
    assert training_flops(bert, names(bert), LENGTHS).per_token == L * (6 * LAYER + 12 * 8 * W)
    top = names(bert, "head", "backbone.body.encoder.layer.2")
    expected = 3 * (2 * LAYER + 4 * 8 * W) + 4 * LAYER + 8 * 8 * W
    assert training_flops(bert, top, LENGTHS).per_token == expected
    assert training_flops(bert, top, LENGTHS, cached_layers=2).per_token == 6 * LAYER + 12 * 8 * W
    assert training_flops(bert, names(bert, "head"), LENGTHS).per_token == L * (2 * LAYER + 4 * 8 * W)
    nothing = training_flops(bert, names(bert, "head"), LENGTHS, cached_layers=3)
    assert nothing == Flops(reason="only the head is computed, everything below it is cached")


MODELS = {
    "distilbert": lambda: DistilBertModel(DistilBertConfig(dim=W, hidden_dim=F, n_layers=L, n_heads=2, vocab_size=50)),
    "gpt2": lambda: GPT2Model(GPT2Config(n_embd=W, n_layer=L, n_head=2, n_inner=F, vocab_size=50, n_positions=16)),
    "t5": lambda: T5EncoderModel(T5Config(d_model=W, d_ff=F, num_layers=L, num_heads=2, d_kv=40, vocab_size=50)),
}


@pytest.mark.parametrize("kind", ["bert", *MODELS])
def test_it_is_what_torch_counts(kind, bert):
    """torch's own counter sees products only, the formula counts biases and norms as well: a few percent more."""
    net = bert if kind == "bert" else net_of(MODELS[kind](), kind)
    rows = 4
    inputs, mask = {"input_ids": torch.ones(rows, 8, dtype=torch.long)}, torch.ones(rows, 8, dtype=torch.bool)
    net.backbone.body.set_attn_implementation("eager")  # the counter does not see inside fused attention on a processor
    net.train()
    with FlopCounterMode(display=False) as counter:
        output = net(inputs, mask)
    forwards = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    backwards = counter.get_total_flops()
    head = 2 * rows * W * 2
    found = inference_flops(net, LENGTHS).per_token * rows * 8
    assert forwards - head <= found <= 1.12 * (forwards - head)
    trained = training_flops(net, names(net), LENGTHS).per_token * rows * 8
    assert trained == pytest.approx(forwards + backwards - 3 * head, rel=0.12)


def test_what_is_not_known_is_said():
    found = training_flops(tiny_net(), names(tiny_net()), LENGTHS)
    assert found == Flops(reason="the base is not a transformer, its operations a token are not known")
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        hidden_size=W, embedding_size=8, intermediate_size=F, num_hidden_layers=4, num_attention_heads=2, vocab_size=50
    )
    assert (
        inference_flops(net_of(AlbertModel(config), "albert"), LENGTHS).reason == "the base runs 4 layers with the weights of 1"
    )


def step(number, seconds, rows=4, positions=10, padded=20):
    return StepEvent(
        step=number,
        seconds=seconds,
        epoch=0.0,
        loss=1.0,
        learning_rate=0.1,
        gradient_norm=1.0,
        rows=rows,
        positions=positions,
        padded_positions=padded,
    )


def test_the_meter_adds_up_steps_and_leaves_validation_out():
    heard = []
    meter = Meter(heard.append)
    events = [
        NoteEvent(step=0, seconds=99.0, text="x"),
        BeginEvent(step=0, seconds=0.5, total_steps=3, rows=4, parameters=1, trainable=1),
        step(1, 1.5),
        step(2, 2.0, rows=2, positions=7, padded=8),
        NoteEvent(step=0, seconds=50.0, text="x"),
        ValidEvent(step=2, seconds=12.0),
        step(3, 12.5),
        EndEvent(step=3, seconds=13.0, reason="done", best_step=3),
    ]
    for event in events:
        meter(event)
    assert heard == events
    assert meter.training == Work(rows=10, tokens=27, padded_tokens=48, seconds=2.0)
    for event in (events[1], step(1, 1.0)):  # a second training in one verb
        meter(event)
    assert meter.training.seconds == 2.5


WORK = Work(rows=100, tokens=2000, padded_tokens=5000, seconds=4.0)


def test_rates_by_hand():
    found = rates(Passes(WORK, Flops(per_token=3e6), "bf16"), 6e9)
    assert found == {
        "rows_per_s": 25.0,
        "tokens_per_s": 500.0,
        "padding_ratio": 2.5,
        "precision": "bf16",
        "flops_per_token": 3e6,
        "peak_flops": 6e9,
        "mfu": pytest.approx(3e6 * 500 / 6e9),
    }


@pytest.mark.parametrize(
    ("passes", "peak", "note"),
    [
        (Passes(WORK, Flops(reason="it is an LSTM")), None, "it is an LSTM"),
        (Passes(WORK, Flops(per_token=3e6)), None, "the peak of matrix products is not known"),
    ],
)
def test_what_cannot_be_known_is_left_out(passes, peak, note):
    found = rates(passes, peak)
    assert (found["mfu"], found["mfu_note"], found["tokens_per_s"]) == (None, note, 500.0)


def test_nothing_done_is_no_rate():
    assert rates(Passes(Work(), Flops(per_token=1.0)), 1.0) == {}
    assert rates(Passes(Work(rows=3), Flops(per_token=1.0)), 1.0) == {}
    assert rates(Passes(Work(rows=3, seconds=1.0), Flops(per_token=1.0)), 1.0)["padding_ratio"] is None
    assert rates(Passes(Work(rows=3, tokens=9, seconds=1.0), Flops(per_token=1.0)), 1.0)["padding_ratio"] is None


@pytest.fixture
def profile(tmp_path):
    found = Profile(tmp_path / "p.json", {})
    for dtype, peak in (("fp32", 1e9), ("bf16", 2e9)):
        found.remember("matrix product", f"cpu {dtype} 2 threads", {"flops": peak, "measurements": 9})
    return found


def test_a_cost_is_flat_json_with_units(profile):
    cost = cost_of(
        Use(threads=2, cores=4),
        {"read": 0.5, "train": 4.0},
        training=Passes(WORK, Flops(per_token=1e6), "bf16"),
        answering=Passes(Work(rows=10, tokens=100, padded_tokens=100, seconds=1.0), Flops(per_token=1e6)),
        profile=profile,
    )
    written = cost.to_json()
    assert written["mfu"] == pytest.approx(0.25)
    assert (written["peak_flops"], written["predict_peak_flops"]) == (2e9, 1e9)
    assert written["predict_mfu"] == pytest.approx(0.1)
    assert (written["precision"], written["predict_precision"]) == ("bf16", "fp32")
    assert (written["threads"], written["cores"]) == (2, 4)
    assert written["seconds_by_stage"] == {"read": 0.5, "train": 4.0}
    assert written["peak_memory_mb"] > 100
    assert "peak_gpu_memory_mb" not in written
    assert not [name for name, value in written.items() if isinstance(value, dict) and name != "seconds_by_stage"]


def test_both_sides_of_a_comparison_have_their_own_figures(profile):
    cost = cost_of(
        Use(threads=2, cores=4),
        {},
        answering=Passes(Work(rows=10, tokens=100, seconds=1.0), Flops(per_token=1e6)),
        against=Passes(Work(rows=10, tokens=100, padded_tokens=150, seconds=2.0), Flops(reason="it is not counted"), None),
        profile=profile,
    ).to_json()
    assert (cost["predict_rows_per_s"], cost["against_rows_per_s"]) == (10.0, 5.0)
    assert (cost["predict_padding_ratio"], cost["against_padding_ratio"]) == (None, 1.5)
    assert (cost["predict_precision"], cost["against_precision"]) == ("fp32", None)
    assert (cost["predict_mfu"], cost["against_mfu"]) == (pytest.approx(0.1), None)
    assert sentences(cost)[:2] == [
        "answering: 10 rows/s, 100 real tokens/s, MFU 0.10 of 1 GFLOP/s in fp32",
        "answering of the first: 5 rows/s, 50 real tokens/s, padding ratio 1.50, no MFU: it is not counted",
    ]


def test_without_a_number_format_there_is_no_peak_to_hold_it_against(tmp_path, monkeypatch):
    monkeypatch.setattr("regraft.training.cost.peak_flops", lambda *given, **named: pytest.fail("measured"))
    passes = Passes(WORK, Flops(per_token=1e6), None)
    cost = cost_of(Use(threads=1, cores=1), {}, answering=passes, profile=Profile(tmp_path / "p.json", {})).to_json()
    assert (cost["predict_mfu"], cost["predict_mfu_note"]) == (None, "the peak of matrix products is not known")


def test_a_part_of_a_stage_is_counted_once():
    stages = Stages(ignore)
    with stages("answer"):
        pass
    stages.seconds["answer"] = 5.0
    stages.part("answer", "read", 2.0)
    stages.part("answer", "tokenise", 1.0)
    stages.part("answer", "read", 0.5)
    assert stages.seconds == {"answer": 1.5, "read": 2.5, "tokenise": 1.0}
    stages.part("answer", "read", 9.0)
    assert stages.seconds == {"answer": 0.0, "read": 4.0, "tokenise": 1.0}


def test_a_peak_is_only_measured_for_what_needs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("regraft.training.cost.peak_flops", lambda *given, **named: pytest.fail("measured"))
    empty = Profile(tmp_path / "p.json", {})
    cost = cost_of(Use(threads=1, cores=1), {}, training=Passes(WORK, Flops(reason="why")), profile=empty)
    assert cost.to_json()["mfu_note"] == "why"
    assert "rows_per_s" not in cost_of(Use(threads=1, cores=1), {}, profile=empty).to_json()


def test_peak_memory_is_what_the_kernel_says(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t 999 kB\nVmHWM:\t   250000 kB\n")
    assert peak_memory_mb(tmp_path / "status") == pytest.approx(256.0)
    (tmp_path / "odd").write_text("VmHWM:\n")
    for status in (tmp_path / "odd", tmp_path / "nothing"):
        if sys.platform != "win32":
            assert peak_memory_mb(status) == pytest.approx(peak_memory_mb(), rel=0.5)


def test_people_read_it(profile):
    cost = cost_of(
        Use(threads=2, cores=4),
        {"read": 0.5, "train": 400.0, "none": 0.0},
        training=Passes(WORK, Flops(per_token=1e6), "bf16"),
        answering=Passes(WORK, Flops(reason="it is an LSTM")),
        profile=profile,
    ).to_json()
    *lines, machine = sentences({**cost, "peak_gpu_memory_mb": 2048.4})
    assert lines == [
        "training: 25 rows/s, 500 real tokens/s, padding ratio 2.50, MFU 0.25 of 2 GFLOP/s in bf16",
        "answering: 25 rows/s, 500 real tokens/s, padding ratio 2.50, no MFU: it is an LSTM",
        "time: train 400 s, read 0.5 s",
    ]
    assert machine.startswith("machine: 2 threads on 4 cores, at most ")
    assert machine.endswith(" MB of memory, at most 2,048 MB of memory on the GPU")
    assert sentences({}) == []
    assert sentences({"threads": 1, "cores": 1}) == ["machine: 1 thread on 1 core"]


def test_more_threads_than_cores_are_warned_of():
    assert crowding(2, 2) == crowding(1, 2) == ""
    assert crowding(8, 1) == "8 threads share 1 core, which is slower than 1: leave machine.threads and OMP_NUM_THREADS out"
    assert "share 2 cores, which is slower than 2" in crowding(3, 2)


def test_numbers_are_finite():
    assert all(
        math.isfinite(value) for value in rates(Passes(WORK, Flops(per_token=1.0)), 1e-3).values() if isinstance(value, float)
    )

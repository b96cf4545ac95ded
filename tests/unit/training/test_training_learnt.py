"""What is said before the first step: how much of each part learns, and what memory that takes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import torch
from adapted_nets import headed, tuned

from regraft.cli.console import begin_lines
from regraft.training.events import BeginEvent
from regraft.training.learnt import shares_by_part
from regraft.training.options import TrainOptions
from regraft.tuning import TUNINGS


def test_adamw_takes_four_numbers_for_a_weight_that_learns_and_one_for_a_frozen_one():
    net = tuned("bert", "lora", rank=2)
    names = TUNINGS.get("lora")(TUNINGS.get("lora").Options()).trainable(net)
    parts = shares_by_part(net, net, names, TrainOptions())
    assert list(parts) == ["embeddings", "layers", "adapters", "head"]
    assert sum(part.weights for part in parts.values()) == sum(weight.numel() for weight in net.parameters())
    assert sum(part.trainable for part in parts.values()) == sum(net.get_parameter(name).numel() for name in names)
    assert (parts["layers"].trainable, parts["embeddings"].trainable) == (0, 0)
    assert parts["layers"].size_bytes == 4 * parts["layers"].weights
    for name in ("adapters", "head"):
        assert parts[name].trainable == parts[name].weights
        assert parts[name].size_bytes == 4 * 4 * parts[name].weights  # weight, gradient, two moments


def test_of_a_table_in_use_only_the_rows_that_learn_count():
    net = headed("bert")
    part = shares_by_part(net, net, set(), TrainOptions())["embeddings"]
    assert part.trainable == 0
    names = {name for name, _ in net.named_parameters()}
    table = "backbone.body.embeddings.word_embeddings.weight"
    learning = {name: weight for name, weight in net.named_parameters() if name != table}

    class Compact(torch.nn.Module):
        def named_parameters(self, *_, **__):
            yield from learning.items()
            yield table, torch.nn.Parameter(torch.zeros(5, net.get_parameter(table).shape[1]))

    compact = shares_by_part(net, Compact(), names, TrainOptions())["embeddings"]
    rest = sum(weight.numel() for name, weight in learning.items() if ".embeddings." in name)
    assert compact.trainable == rest + 5 * net.get_parameter(table).shape[1]
    assert compact.weights == part.weights


def test_people_see_a_table():
    net = headed("bert")
    parts = shares_by_part(net, net, {"head.linear.bias"}, TrainOptions())
    counted = sum(weight.numel() for weight in net.parameters())
    event = BeginEvent(step=0, seconds=0.0, total_steps=1200, rows=3, parameters=counted, trainable=3, parts=parts)
    lines = begin_lines(event)
    assert lines[0].startswith(f"  1,200 steps, 3 of {counted:,} weights learn (0.0%)")
    assert lines[1].split() == ["part", "weights", "learn", "share", "in", "training"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    head = parts["head"]
    assert rows["head"] == [f"{head.weights:,}", "3", f"{3 / head.weights:.1%}", "0.0", "MB"]
    assert rows["layers"][1:3] == ["0", "0.0%"]
    assert event.to_json()["parts"]["head"] == {"weights": head.weights, "trainable": 3, "size_bytes": head.size_bytes}
    bare = BeginEvent(step=0, seconds=0.0, total_steps=2, rows=3, parameters=8, trainable=4)
    assert begin_lines(bare) == ["  2 steps, 4 of 8 weights learn (50.0%)"]

"""What is frozen is computed once: the trained weights are those of a run that computes everything in every epoch."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from frozen_net import LONGEST, TUNINGS, Work, difference, frozen_net, number_rows, same
from torch import nn

import regraft
from regraft.models.backbones import Shapes
from regraft.models.forward import pooled
from regraft.training.frozen import deepest_cut, kept_pooled, learner
from regraft.tuning.tuning import Tuning

FIXED, PACKED, PADDED = Shapes("fixed", LONGEST), Shapes("packed"), Shapes("padded")


@pytest.fixture
def net():
    return frozen_net(shapes=FIXED)


@pytest.mark.parametrize(("dropout", "validate"), [(0.0, False), (0.3, False), (0.3, True)])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_in_fixed_shapes_cached_and_uncached_weights_have_the_same_bits(tmp_path, tuning, validate, dropout):
    net = frozen_net(dropout=dropout, shapes=FIXED)
    work = Work(tmp_path, tuning, validate=validate)
    cached = work.run(net)
    assert work.missing == 54
    assert same(cached, work.run(net, enabled=False))
    assert difference(cached, net.state_dict()) > 0.05, "something was learnt"


@pytest.mark.parametrize(
    ("kind", "shapes", "dropout"),
    [("bert", PACKED, 0.0), ("bert", PACKED, 0.3), ("bert", PADDED, 0.3), ("regraft-lstm", PADDED, 0.3)],
    ids=["packed", "packed with dropout", "padded with dropout", "recurrent"],
)
@pytest.mark.parametrize("tuning", ["head", "top-2"])
def test_in_other_shapes_they_are_close(tmp_path, tuning, shapes, kind, dropout):
    """All weights, key biases too: `Work` trains with an epsilon that keeps AdamW from dividing rounding by rounding."""
    net = frozen_net(kind, dropout, shapes)
    work = Work(tmp_path, tuning, steps=50 if kind == "bert" else 20, validate=True)
    assert difference(work.run(net), work.run(net, enabled=False)) <= 1e-6


@pytest.mark.parametrize("tuning", TUNINGS)
def test_weights_below_the_cut_keep_their_bits(tmp_path, tuning, net):
    trainable = TUNINGS[tuning].trainable(net)
    trained, start = Work(tmp_path, tuning, steps=10).run(net), net.state_dict()
    moved = {name for name in trained if not torch.equal(trained[name], start[name])}
    assert moved <= trainable
    assert {"head.linear.weight"} <= moved


@pytest.mark.parametrize("tuning", ["head", "top-1"])
def test_disk_gives_what_memory_gives(tmp_path, tuning, net):
    memory, disk = (Work(tmp_path / name, tuning, steps=20, validate=True) for name in ("memory", "disk"))
    assert same(memory.run(net), disk.run(net, memory_mb=0))
    assert "; in memory:" in memory.notes[0]
    assert "; on disk: 1 MB of features do not fit into 0 MB of memory" in disk.notes[0]
    assert same(memory.run(net), memory.run(net, memory_mb=0)), "memory wrote what disk reads"
    assert same(memory.run(net), disk.run(net)), "disk wrote what memory reads"


def test_bf16_features_are_close_and_take_half_the_room(tmp_path, net):
    full, half = Work(tmp_path / "fp32", steps=20), Work(tmp_path / "bf16", steps=20)
    expected, found = full.run(net), half.run(net, dtype="bf16")
    assert 0 < difference(expected, found) < 0.02
    assert 0.5 < sum(p.stat().st_size for p in half.files()) / sum(p.stat().st_size for p in full.files()) < 0.75
    assert same(found, half.run(net, dtype="bf16", memory_mb=0))


def test_without_a_cache_nothing_is_kept_and_the_result_is_the_same(tmp_path, net):
    expected = Work(tmp_path / "kept", steps=20).run(net)
    off, nowhere, memory_only = (Work(tmp_path / "off", steps=20) for _ in range(3))
    assert same(expected, off.run(net, enabled=False))
    assert off.notes == []
    assert same(expected, nowhere.run(net, memory_mb=0, disk_mb=0))
    assert "off: 1 MB of features do not fit into 0 MB of memory, and nothing may be kept on disk" in nowhere.notes[0]
    assert same(expected, memory_only.run(net, disk_mb=0))
    assert memory_only.notes[0].endswith("nothing is kept on disk")
    assert not (tmp_path / "off").exists()


@pytest.mark.parametrize("cache", [{}, {"memory_mb": 0}], ids=["memory", "disk"])
@pytest.mark.parametrize("shapes", [FIXED, PACKED], ids=["fixed", "packed"])
def test_a_second_run_computes_nothing_and_gives_the_same_bits(tmp_path, cache, shapes):
    net = frozen_net(shapes=shapes)
    work = Work(tmp_path, steps=20)
    first = work.run(net, **cache)
    assert work.missing == 54
    work.missing = 0
    assert same(first, work.run(net, **cache))
    assert work.missing == 0
    assert "54 of 54 rows are there" in work.notes[-1]


def prepared(work, net, **cache):
    """Compute what is frozen; return the number of rows that had to be computed."""
    rows = work.rows()
    with work.learner(net, **cache) as part:
        gathered = {name: part.rows[name].batch(np.arange(len(rows[name]))) for name in rows}
    there = [note for note in work.notes if "rows are there" in note][-1]
    return len(work.train) + len(work.valid) - int(there.partition("): ")[2].split()[0]), gathered


def changed(net, name, amount=1e-6):
    other = copy.deepcopy(net)
    with torch.no_grad():
        dict(other.named_parameters())[name].view(-1)[3] += amount
    return other


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.attention.self.key.bias",
        "encoder.layer.1.output.dense.weight",
    ],
)
def test_one_weight_changed_below_the_cut_misses(tmp_path, net, name):
    work = Work(tmp_path)
    assert prepared(work, net)[0] == 54
    assert prepared(work, net)[0] == 0
    assert prepared(work, changed(net, f"backbone.body.{name}"))[0] == 54


@pytest.mark.parametrize("name", ["backbone.body.encoder.layer.2.output.dense.weight", "head.linear.weight"])
def test_one_weight_changed_above_the_cut_hits(tmp_path, net, name):
    work = Work(tmp_path)
    assert prepared(work, net)[0] == 54
    other = changed(net, name, 0.5)
    assert prepared(work, other)[0] == 0
    assert same(work.run(other), work.run(other, enabled=False))


def test_with_the_whole_backbone_frozen_the_last_layer_and_the_pooling_count_too(tmp_path):
    work = Work(tmp_path, "head")
    net = frozen_net(shapes=FIXED)
    assert prepared(work, net)[0] == 54
    assert prepared(work, changed(net, "head.linear.weight"))[0] == 0
    assert prepared(work, changed(net, "backbone.body.encoder.layer.2.output.dense.weight"))[0] == 54
    assert prepared(work, frozen_net(shapes=FIXED, pooling="cls"))[0] == 54


@pytest.mark.parametrize(
    "change",
    [
        lambda work, net: {"dtype": "bf16"},
        lambda work, net: setattr(work, "preprocessing", "q") or {},
        lambda work, net: setattr(work, "threads", 2) or {},
        lambda work, net: setattr(work, "tuning", "top-2") or {},
        lambda work, net: setattr(net.backbone, "shapes", PADDED) or {},
        lambda work, net: setattr(net.backbone.body.config, "layer_norm_eps", 1e-6) or {},
    ],
    ids=["dtype", "preprocessing", "threads", "cut", "shapes", "configuration"],
)
def test_whatever_changes_the_features_misses(tmp_path, net, change):
    work = Work(tmp_path)
    assert prepared(work, net)[0] == 54
    cache = change(work, net)
    assert prepared(work, net, **cache)[0] == 54
    assert prepared(work, net, **cache)[0] == 0


@pytest.mark.parametrize("library", [torch, transformers.configuration_utils], ids=["torch", "transformers"])
def test_another_version_of_what_computes_misses(tmp_path, monkeypatch, net, library):
    work = Work(tmp_path)
    assert prepared(work, net)[0] == 54
    monkeypatch.setattr(library, "__version__", type(library.__version__)("99.0.0"))
    assert prepared(work, net)[0] == 54


@pytest.mark.parametrize("cache", [{}, {"memory_mb": 0}], ids=["memory", "disk"])
@pytest.mark.parametrize("tuning", ["head", "top-1"])
def test_a_changed_row_is_the_only_one_computed_again(tmp_path, net, tuning, cache):
    work = Work(tmp_path, tuning)
    assert prepared(work, net, **cache)[0] == 54
    row = next(number for number, raw in enumerate(work.train) if len(raw) > 4)
    work.train[row] = [*work.train[row][:3], WORD_APART[work.train[row][3]], *work.train[row][4:]]
    missing, gathered = prepared(work, net, **cache)
    assert missing == 1
    fresh = dataclasses.replace(work, folder=tmp_path / "fresh", notes=[])
    everything, expected = prepared(fresh, net)
    assert everything == 54
    for split, batch in gathered.items():
        for name, values in batch.inputs.items():
            assert np.array_equal(values, expected[split].inputs[name])
    assert prepared(work, net, **cache)[0] == 0


WORD_APART = {word: word + 1 if word % 2 else word - 1 for word in range(1, 60)}


def test_rows_that_are_the_same_are_computed_once_in_whatever_split_they_stand(tmp_path, net):
    train = number_rows(20)[0]
    work = Work(tmp_path, train=[*train, *train], valid=train[:6])
    seen = []
    with learner(net, TUNINGS["top-1"].trainable(net), {"pooled"}, work.rows(), work.setting(), seen.append) as part:
        batch = part.rows["train"].batch(np.array([3, 23]))
        other = part.rows["valid"].batch(np.array([3]))
    assert seen[-1] == 46
    assert len(seen) == 1, "one batch of 20 rows"
    assert np.array_equal(batch.inputs["hidden"][0], batch.inputs["hidden"][1])
    assert np.array_equal(batch.inputs["hidden"][0], other.inputs["hidden"][0])


@pytest.mark.parametrize("cache", [{}, {"memory_mb": 0}], ids=["memory", "disk"])
def test_a_flipped_byte_is_found_said_and_computed_again(tmp_path, net, cache):
    work = Work(tmp_path, steps=20)
    expected = work.run(net, **cache)
    (path,) = work.files()
    content = bytearray(path.read_bytes())
    for place in (70, len(content) // 3):  # inside the features of two rows
        content[place] ^= 16
    path.write_bytes(content)
    assert same(expected, work.run(net, **cache))
    assert "cache: 2 damaged rows were found by their checksum; what is missing is computed again" in work.notes
    assert "52 of 54 rows are there" in work.notes[-1]
    assert same(expected, work.run(net, **cache))
    assert "54 of 54 rows are there" in work.notes[-1]


def test_a_truncated_file_is_left_out_and_everything_computed_again(tmp_path, net):
    work = Work(tmp_path, steps=20)
    expected = work.run(net)
    (path,) = work.files()
    path.write_bytes(path.read_bytes()[:-9])
    assert same(expected, work.run(net))
    assert any("it is truncated; its rows are computed again" in note for note in work.notes)
    assert "0 of 54 rows are there" in work.notes[-1]


PROCESS = """
import hashlib, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from frozen_net import LONGEST, Work, frozen_net, number_rows
from regraft.models.backbones import Shapes
net = frozen_net(shapes=Shapes("fixed", LONGEST))
work = Work(Path(sys.argv[1]), train=number_rows(200)[0], steps=20, validate=True)
print("ready", flush=True)
sys.stdin.readline()
weights = work.run(net, memory_mb=int(sys.argv[2]))
digest = hashlib.sha256()
for name, value in sorted(weights.items()):
    digest.update(name.encode() + value.numpy().tobytes())
print(digest.hexdigest(), work.notes)
"""


def test_two_trainings_at_once_share_a_folder(tmp_path):
    paths = os.pathsep.join([str(Path(regraft.__file__).parent.parent), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    # One holds its features in memory, the other on disk.
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), memory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for memory in ("100", "0")
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    answers = [process.communicate("\n", timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    digests = {answer.split()[0] for answer in answers}
    assert len(digests) == 1
    assert not any("damaged" in answer or "gave up" in answer for answer in answers)
    work = Work(tmp_path, train=number_rows(200)[0])
    assert prepared(work, frozen_net(shapes=FIXED))[0] == 0


def names(net, *starts):
    return {name for name, _ in net.named_parameters() if name.startswith(starts)}


def test_the_deepest_cut_lies_below_the_lowest_weight_that_learns(net):
    layer = "backbone.body.encoder.layer"
    every, head = {name for name, _ in net.named_parameters()}, names(net, "head.")
    assert deepest_cut(net, every, {"pooled"}) is None
    assert deepest_cut(net, head, {"pooled"}) == 4
    assert deepest_cut(net, head, {"pooled", "sequence"}) == 3, "one vector a row is not enough"
    assert deepest_cut(net, head, {"sequence"}) == 3
    for layers, cut in ((1, 2), (2, 1), (3, 0)):
        trainable = type(TUNINGS["top-1"])(TUNINGS["top-1"].Options(layers=layers)).trainable(net)
        assert deepest_cut(net, trainable, {"pooled"}) == cut
    assert deepest_cut(net, {name for name in every if name.endswith("bias")}, {"pooled"}) is None
    assert deepest_cut(net, {name for name in every if name.endswith("bias") and "embeddings" not in name}, {"pooled"}) == 0
    assert deepest_cut(net, head | names(net, f"{layer}.1."), {"pooled"}) == 1, "only a middle layer"
    assert deepest_cut(net, head | names(net, f"{layer}.2.output.LayerNorm"), {"pooled"}) == 2
    assert deepest_cut(net, head | {"backbone.body.embeddings.LayerNorm.bias"}, {"pooled"}) is None
    attention = frozen_net(pooling="attention")
    assert deepest_cut(attention, names(attention, "head.", "backbone.pooling."), {"pooled"}) == 3, "the pooling learns"
    assert deepest_cut(attention, names(attention, "head."), {"pooled"}) == 4, "the pooling is as frozen as the rest"
    lstm = frozen_net("regraft-lstm")
    assert deepest_cut(lstm, names(lstm, "head.", "backbone.body.norm"), {"pooled"}) == 3, "the last norm alone"


ODD = {
    "a middle layer": ("bert", "mean", ("head.", "backbone.body.encoder.layer.1.")),
    "one norm": ("bert", "mean", ("head.", "backbone.body.encoder.layer.2.output.LayerNorm")),
    "one bias of the middle": ("bert", "mean", ("backbone.body.encoder.layer.1.output.dense.bias",)),
    "pooling and head": ("bert", "attention", ("head.", "backbone.pooling.")),
    "pooling alone": ("bert", "attention", ("backbone.pooling.",)),
    "head, with a pooling that has weights": ("bert", "attention", ("head.",)),
    "last norm": ("regraft-lstm", "mean", ("head.", "backbone.body.norm")),
}


@pytest.mark.parametrize(("kind", "pooling", "starts"), ODD.values(), ids=ODD)
def test_odd_tunings_train_as_without_a_cache(tmp_path, monkeypatch, kind, pooling, starts):
    net = frozen_net(kind, dropout=0.3, shapes=FIXED, pooling=pooling)
    monkeypatch.setitem(TUNINGS, "odd", Odd(names(net, *starts)))
    work = Work(tmp_path, "odd", steps=20, validate=True)
    cached, uncached = work.run(net), work.run(net, enabled=False)
    assert "54 of 54" not in work.notes[0]
    if kind == "bert":
        assert same(cached, uncached)
    else:  # how many rows a recurrent step sees depends on the lengths of its neighbours, and its last bits with it
        assert difference(cached, uncached) <= 1e-6
    assert {name for name in cached if not torch.equal(cached[name], net.state_dict()[name])} <= names(net, *starts)
    assert difference(cached, net.state_dict()) > 1e-4


class Odd(Tuning):
    def __init__(self, trainable):
        super().__init__(None)
        self.chosen = trainable

    def trainable(self, net):
        return self.chosen


def test_the_embeddings_alone_frozen_are_not_kept(tmp_path, net):
    work = Work(tmp_path)
    trainable = names(net, "head.", "backbone.body.encoder.")
    with learner(net, trainable, {"pooled"}, work.rows(), work.setting()) as part:
        assert part.net is net
        assert part.cut is None
    assert work.notes == []


@pytest.mark.parametrize("kind", ["t5"])
def test_a_base_that_cannot_be_cut_says_so_and_trains_whole(tmp_path, kind):
    net = frozen_net(kind, shapes=FIXED)
    work = Work(tmp_path, steps=5)
    with work.learner(net) as part:
        assert part.net is net
    assert work.notes == [
        "what is frozen is computed in every epoch: the layers of t5 share more than their hidden states and cannot be cut here"
    ]
    assert same(work.run(net), work.run(net, enabled=False))
    head = Work(tmp_path, "head", steps=20)
    assert same(head.run(net), head.run(net, enabled=False)), "the whole body can be left out"
    assert "0 of 54 rows are there" in head.notes[0]


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_network_is_left_as_it_was(tmp_path, tuning, mode):
    net = frozen_net(dropout=0.5).train(mode)
    net.backbone.body.encoder.layer[2].output.train(not mode)
    net.backbone.body.encoder.layer[0].requires_grad_(False)
    before = [(path, id(module), type(module), module.training) for path, module in net.named_modules()]
    flags = [(path, id(p), p.requires_grad, p.grad) for path, p in net.named_parameters()]
    state = copy.deepcopy(net.state_dict())
    generator = torch.get_rng_state()
    with Work(tmp_path, tuning).learner(net) as part:
        part.rows["train"].batch(np.arange(5))
        assert [(path, id(module), type(module), module.training) for path, module in net.named_modules()] == before
    assert [(path, id(module), type(module), module.training) for path, module in net.named_modules()] == before
    assert [(path, id(p), p.requires_grad, p.grad) for path, p in net.named_parameters()] == flags
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator), "nothing was drawn"


@pytest.mark.parametrize("kind", ["bert", "regraft-lstm"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_nothing_below_the_cut_is_random(tmp_path, kind, tuning):
    loud, quiet = frozen_net(kind, dropout=0.5).train(), frozen_net(kind).eval()
    works = [Work(tmp_path / name, tuning) for name in ("loud", "again", "quiet")]
    found = [prepared(work, net)[1] for work, net in zip(works, (loud, loud, quiet), strict=True)]
    for split in ("train", "valid"):
        (name,) = found[0][split].inputs
        first, again, silent = (one[split].inputs[name] for one in found)
        assert np.array_equal(first, again)
        assert np.array_equal(first, silent)


class Normed(nn.Module):
    """A layer followed by a batch norm, whose statistics would move in training."""

    def __init__(self, layer, width):
        super().__init__()
        self.layer, self.norm = layer, nn.BatchNorm1d(width)

    def forward(self, hidden, *args, **kwargs):
        out = self.layer(hidden, *args, **kwargs)
        return self.norm(out.transpose(1, 2)).transpose(1, 2)


def test_statistics_of_a_frozen_batch_norm_stay(tmp_path):
    net = frozen_net("regraft-lstm", shapes=PADDED)
    for number in (0, 2):
        net.backbone.body.layers[number] = Normed(net.backbone.body.layers[number], 16)
    work = Work(tmp_path, steps=15)
    cached, uncached = work.run(net), work.run(net, enabled=False)
    start = net.state_dict()
    statistic = "backbone.body.layers.{}.norm.running_mean"
    for state in (cached, uncached):
        assert torch.equal(state[statistic.format(0)], start[statistic.format(0)])
        assert not torch.equal(state[statistic.format(2)], start[statistic.format(2)]), "the one above learns"
    assert difference(cached, uncached) <= 1e-5


def test_a_statistic_changed_below_the_cut_misses(tmp_path):
    net = frozen_net("regraft-lstm", shapes=PADDED)
    net.backbone.body.layers[0] = Normed(net.backbone.body.layers[0], 16)
    work = Work(tmp_path)
    assert prepared(work, net)[0] == 54
    net.backbone.body.layers[0].norm.running_mean[2] += 1e-3
    assert prepared(work, net)[0] == 54


@pytest.mark.parametrize("cache", [{}, {"memory_mb": 0}, {"enabled": False}], ids=["memory", "disk", "off"])
def test_pooled_features_are_those_of_the_network(tmp_path, cache):
    net = frozen_net(dropout=0.5, shapes=FIXED).train()
    work = Work(tmp_path)
    rows, positions = work.rows()["train"], np.array([7, 3, 30, 3, 0])
    expected = pooled(net, rows, positions, 32)
    for _ in range(2):
        assert np.array_equal(kept_pooled(net, rows, positions, work.setting(**cache), lambda _: None), expected)
    nothing = kept_pooled(net, rows, np.zeros(0, dtype=np.int64), work.setting(**cache), lambda _: None)
    assert len(nothing) == 0


def test_the_ladders_features_are_found_by_a_head_and_the_other_way_round(tmp_path, net):
    work = Work(tmp_path, "head")
    rows = work.rows()["train"]
    kept_pooled(net, rows, np.arange(0, 40, 2), work.setting(), lambda _: None)
    assert prepared(work, net)[0] == 34
    kept_pooled(net, rows, np.arange(40), work.setting(), lambda _: None)
    assert "40 of 40 rows are there" in work.notes[-1]
    assert same(work.run(net), work.run(net, enabled=False))


def test_splits_without_rows_are_no_hindrance(tmp_path, net):
    for tuning in TUNINGS:
        work = Work(tmp_path, tuning, valid=[], steps=5)
        assert same(work.run(net), work.run(net, enabled=False))


def test_features_are_let_go_when_training_ends_in_an_error(tmp_path, net):
    found = []

    def interrupted():
        with Work(tmp_path).learner(net, memory_mb=0) as part:
            found.append(part.rows["train"])
            found[0].batch(np.arange(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(LookupError, match="have not been put"):
        found[0].batch(np.arange(3))


SPILL = """
import copy, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
import transformers
from frozen_net import TUNINGS, WORDS, Decided, EncodedRows, Numbers, Work, same, train
from frozen_net import Classification, ClassificationOptions, Supervised, SupervisedOptions, TrainOptions, Ledger
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.training.frozen import learner

count, memory_mb, positions, width = int(sys.argv[2]), int(sys.argv[3]), 64, 64
sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 64}
model = transformers.BertModel(transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=positions, **sizes))
model.pooler = None
backbone = Backbone(Body(model.eval(), ARCHITECTURES["bert"]), PoolingChoice("mean", ""))
backbone.shapes = Shapes("padded")
net = Headed(backbone, LinearHead(width, 2, 0.0, torch.Generator().manual_seed(0)))

def encoded(count, seed):
    rng = np.random.default_rng(seed)
    return EncodedRows(Numbers(), (rng.integers(2, WORDS, (50, positions)).tolist() for _ in range(count // 50)))

def fact(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024

def fit(rows, memory_mb):
    mine, notes = copy.deepcopy(net), []
    work = Work(Path(sys.argv[1]), notes=notes)
    task, targets = Classification(ClassificationOptions()), np.arange(len(rows)) % 2
    task.learn(["a", "b"] * (len(rows) // 2), Ledger())
    trainable = TUNINGS["top-1"].trainable(mine)
    with learner(mine, trainable, {"pooled"}, {"train": rows}, work.setting(memory_mb=memory_mb, disk_mb=2000)) as part:
        objective = Supervised(SupervisedOptions()).attach(part.rows["train"], targets, task)
        for _ in train(part.net, objective, Decided(part.trainable), TrainOptions(max_steps=10, batch_size=32), seed=0):
            pass
        for some in np.array_split(np.random.default_rng(1).permutation(len(rows)), len(rows) // 50):
            part.rows["train"].batch(some)
    return mine.state_dict(), notes

rows = encoded(count, 0)
fit(encoded(200, 1), 100)  # what the libraries take once
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
before = fact("VmRSS")
spilled, notes = fit(rows, memory_mb)
grown = fact("VmHWM") - before
assert "; on disk: " in notes[0], notes
again, notes = fit(rows, memory_mb)
assert f"{count:,} of {count:,} rows are there" in notes[0], notes
held, notes = fit(rows, 2000)
assert "; in memory: " in notes[0], notes
assert same(spilled, held) and same(spilled, again)
print(grown)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not say what a process has taken")
@pytest.mark.parametrize(
    ("count", "memory_mb"), [(5_000, 20), pytest.param(50_000, 200, marks=pytest.mark.slow)], ids=["small", "50,000 rows"]
)
def test_features_that_do_not_fit_spill_within_the_budget_and_give_the_same_weights(tmp_path, count, memory_mb):
    paths = os.pathsep.join([str(Path(regraft.__file__).parent.parent), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SPILL, str(tmp_path), str(count), str(memory_mb)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.ragged")) > 4 * memory_mb * 10**6
    assert int(done.stdout) <= 1.2 * memory_mb * 10**6

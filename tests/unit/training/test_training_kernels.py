"""Compiled layers: the same answers, the same names, and a note where it does not work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frozen_net import frozen_net, number_rows
from tiny_net import Numbers, TinyBackbone, TinyHead, tiny_net, tiny_objective
from torch import nn

from regraft.modalities.encoded import EncodedRows
from regraft.models.blocks import Blocks
from regraft.models.dropout import fast_dropouts
from regraft.models.net import Headed
from regraft.models.view import view
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.tasks.classification import Classification, ClassificationOptions
from regraft.training import kernels
from regraft.training.kernels import compiled
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.training.precision import Precision
from regraft.tuning.full import Full, FullOptions
from regraft.types import Ledger


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + nn.functional.gelu(self.linear(x)))


class Layered(TinyBackbone):
    """Two layers that can be compiled one by one."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Sequential(Layer(), Layer())
        self.blocks = Blocks(embeddings=("words",), layers=("mix.0", "mix.1"), final=())


def layered_net():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Headed(Layered(), TinyHead(8, 2, 0.0))


def loss_of(objective):
    (batch,) = next(objective.batches(0, 8, 8, np.random.default_rng(0)))
    return lambda net: objective.loss(net, batch)[0].total


def names(net):
    return {name for name, _ in net.named_parameters()}


def test_no_layers_no_compiler_and_a_failing_compiler_leave_the_network_as_it_is(monkeypatch):
    loss, notes = loss_of(tiny_objective()), []
    tiny, net = tiny_net(), layered_net()
    assert compiled(tiny, loss, names(tiny), notes.append) is tiny
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiled(net, loss, names(net), notes.append) is net
    monkeypatch.setattr(kernels, "_compiler", lambda: "g++")
    monkeypatch.setattr(torch, "compile", lambda *given, **named: broken)
    assert compiled(net, loss, names(net), notes.append) is net
    assert notes == [
        "not compiled: the base has no layers that could be compiled one by one",
        "not compiled: there is no C++ compiler (g++, clang++ or the one that CXX names)",
        "not compiled: RuntimeError: the linker is missing",
    ]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net(*net.tensors(next(tiny_objective().batches(0, 8, 8, np.random.default_rng(0)))[0])).shape == (8, 2)


def broken(*_given, **_named):
    raise RuntimeError("the linker\n  is missing")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what its own dependencies have deprecated
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # it looks at the gradient of what comes into a layer
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_compiled_layers_train_to_the_same_weights(name):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    objective, precision, notes = tiny_objective(), Precision(name), []
    options = TrainOptions(epochs=2, batch_size=8, learning_rate=1e-2)
    ends = []
    for fast in (False, True):
        net = layered_net()
        ready = compiled(net, loss_of(objective), names(net), notes.append) if fast else net
        assert (ready is net) is not fast
        list(train(precision.network(ready), objective, Full(FullOptions()), options, seed=3))
        assert names(ready) == names(net)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    assert notes == ["compiled 2 layers"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 4  # layers of a kind share what was compiled, whatever the length
    assert not counters["graph_break"]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4 if name == "fp32" else 2e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_network_of_the_hub_with_dropout_is_compiled():
    torch._dynamo.reset()
    raws, labels = number_rows(24, longest=12)
    task = Classification(ClassificationOptions())
    task.learn([str(label) for label in labels], Ledger())
    rows = Supervised(SupervisedOptions()).attach(EncodedRows(Numbers(), [raws]), task.targets([str(x) for x in labels]), task)
    net, notes = frozen_net(dropout=0.2), []
    net = view(net, fast_dropouts(net))
    ready = compiled(net, loss_of(rows), names(net), notes.append)
    assert notes == [f"compiled {len(net.backbone.blocks.layers)} layers"]
    (batch,) = next(rows.batches(0, 24, 24, np.random.default_rng(0)))
    ends = []
    for each in (net, ready):
        each.train()
        torch.manual_seed(0)
        with torch.no_grad():
            ends.append(torch.stack([each(*each.tensors(batch)) for _ in range(400)]))
        each.eval()
    assert not torch.equal(ends[0][0], ends[0][1])
    assert not torch.equal(ends[1][0], ends[1][1])
    assert torch.allclose(*(end.mean(0) for end in ends), atol=0.1)  # about 8 standard errors
    assert torch.allclose(*(end.std(0) for end in ends), rtol=0.3)

"""Layers that are computed again on the way back give the gradients of layers that keep everything, bit for bit, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from adapted_nets import EVERY, adapted, given, headed
from packed_families import PACKED, set_dropout

from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes
from regraft.models.cuts import HIDDEN, halves
from regraft.models.dropout import fast_dropouts
from regraft.models.fused import MASK, Fused, PartEntry
from regraft.models.heads import LinearHead
from regraft.models.joinings import Sizes
from regraft.models.net import Headed
from regraft.models.recomputed import Recompute, recomputable
from regraft.models.scratch_networks import LstmConfig, LstmModel
from regraft.models.scratch_picture_networks import ConvConfig, ConvModel
from regraft.models.view import view
from regraft.training.freeze import learning
from regraft.training.precision import Precision

# The others share their way through the network with one of these; `make test-all` takes every family.
ALWAYS = {"bert", "mpnet", "modernbert", "gpt2", "albert", "deberta-v2", "swin", "wav2vec2", "whisper", "patchtst"}
FAMILIES = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in EVERY]


class Kept:
    """Bytes that a forward pass keeps for the way back, the weights left out."""

    def __init__(self, net):
        self._own = {weight.untyped_storage().data_ptr() for weight in net.parameters()}
        self._seen = {}

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def size(self):
        return sum(self._seen.values())


def gradients(net, rows, trainable=None, seed=3, precision=None):
    """Return gradients of weights, buffers after the pass, and the bytes that the forward pass kept."""
    names = trainable or {name for name, _ in net.named_parameters()}
    run = (precision or Precision()).network(net)
    with learning(run, names):
        torch.manual_seed(seed)
        kept = Kept(net)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            loss = run(*rows).square().sum()
        before = torch.get_rng_state()
        loss.backward()
        assert torch.equal(torch.get_rng_state(), before), "going back leaves the random state as it was"
        found = {name: weight.grad.clone() for name, weight in run.named_parameters() if weight.grad is not None}
    return found, {name: buffer.clone() for name, buffer in net.named_buffers()}, kept.size


def assert_same(net, rows, **how):
    """Hold a network against copies with a switch that is off and on; return the bytes kept without it and with it."""
    found = []
    for switch in (None, Recompute(), Recompute(on=True)):
        twin = copy.deepcopy(net)
        run = twin if switch is None else recomputable(twin, switch)
        assert [name for name, _ in run.named_parameters()] == [name for name, _ in net.named_parameters()]
        found.append((*gradients(run, rows, **how), run is twin))
    (wanted, counted, kept, _), *others = found
    for grads, buffers, _, itself in others:
        assert not itself
        assert wanted.keys() == grads.keys()
        assert [name for name in wanted if not torch.equal(wanted[name], grads[name])] == []
        assert [name for name in counted if not torch.equal(counted[name], buffers[name])] == []
    (*_, off, _), (*_, on, _) = others
    assert off == kept
    return kept, on


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own call
@pytest.mark.parametrize("shapes", ["packed", "padded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_the_same_step(name, shapes):
    net = headed(name)
    set_dropout(net.backbone.body, 0.1, 0.2)
    net = view(net, fast_dropouts(net))
    if shapes == "padded" and name not in PACKED:
        pytest.skip("it is padded either way")
    net.backbone.shapes = Shapes(shapes)
    kept, less = assert_same(net, given(name))
    assert less < kept


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_over_batches_are_counted_once(momentum):
    body = ConvModel(ConvConfig(hidden_sizes=[8, 16], depth=2))
    for module in body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = momentum
    kept, less = assert_same(over(body, "regraft-conv"), (*given("vit"),))
    assert less < kept


def test_recurrent_layers():
    config = LstmConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, hidden_dropout_prob=0.2)
    kept, less = assert_same(over(LstmModel(config), "regraft-lstm"), given("bert"))
    assert less < kept


def over(body, name):
    backbone = Backbone(Body(body.eval(), ARCHITECTURES[name]), PoolingChoice("mean", ""))
    return Headed(backbone, LinearHead(backbone.width, 3, 0.1, torch.Generator().manual_seed(0)))


def test_the_parts_of_a_fused_row_each():
    parts = [PartEntry("a", headed("bert").backbone, 12), PartEntry("b", headed("vit").backbone, None)]
    sizes = Sizes(widths=(32, 32), width=16, layers=1, heads=4, dropout=0.1, part_dropout=0.1)
    fused = Fused(parts, "gated", sizes)
    fused.shapes = Shapes()
    net = Headed(fused, LinearHead(fused.width, 3, 0.1, torch.Generator().manual_seed(0)))
    inputs = {}
    for key, name in (("a", "bert"), ("b", "vit")):
        arrays, mask = given(name)
        inputs |= {f"{key}__{array}": value for array, value in arrays.items()} | {f"{key}__{MASK}": mask}
    kept, less = assert_same(net, (inputs, torch.ones(4, 1, dtype=torch.bool)))
    assert less < kept
    again = {path for path, module in recomputable(net, Recompute()).named_modules() if "Recomputing" in type(module).__name__}
    assert {path.split(".layer")[0] for path in again} == {"backbone.parts.0.body.encoder", "backbone.parts.1.body"}


@pytest.mark.parametrize("shapes", ["packed", "padded"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_in_layers_whose_input_learns_nothing(shapes, precision):
    net = adapted("bert")
    set_dropout(net.backbone.body, 0.1, 0.2)
    net.backbone.shapes = Shapes(shapes)
    names = {name for name, _ in net.named_parameters() if "lora" in name or name.startswith("head.")}
    kept, less = assert_same(net, given("bert"), trainable=names, precision=Precision(precision))
    assert less < kept


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_top_layers_alone_learn(precision):
    net = headed("bert")
    set_dropout(net.backbone.body, 0.1, 0.2)
    names = {name for name, _ in net.named_parameters() if ".layer.2." in name or name.startswith("head.")}
    kept, less = assert_same(net, given("bert"), trainable=names, precision=Precision(precision))
    assert less < kept


@pytest.mark.parametrize("shapes", ["packed", "padded"])
def test_the_half_above_a_cut(shapes):
    """What enters the cut is only known inside the forward pass."""
    net = headed("bert")
    set_dropout(net.backbone.body, 0.1, 0.2)
    net.backbone.shapes = Shapes(shapes)
    parts = halves(net.backbone, 1)
    inputs, mask = given("bert")
    with torch.no_grad():
        hidden = parts.prefix(inputs, mask)
    upper = view(net, {"backbone": parts.suffix})
    switched = recomputable(upper, Recompute(on=True))
    names = {name for name, _ in upper.named_parameters() if ".layer." in name or name.startswith("head.")}
    wanted, _, kept = gradients(upper, ({HIDDEN: hidden}, mask), names)
    found, _, less = gradients(switched, ({HIDDEN: hidden}, mask), names)
    assert less < kept
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


def test_gradients_can_be_asked_for_twice():
    net = headed("bert")
    set_dropout(net.backbone.body, 0.1, 0.2)
    nets = [net, recomputable(net, Recompute(on=True))]
    found = []
    for each in nets:
        with learning(each, {name for name, _ in each.named_parameters()}):
            torch.manual_seed(1)
            out = each(*given("bert"))
            shared = [weight for name, weight in each.named_parameters() if ".layer.2." in name]
            found.append([*torch.autograd.grad(out.square().sum(), shared, retain_graph=True)])
            found[-1] += torch.autograd.grad(out.sum(), shared)
    assert all(map(torch.equal, *found))


def test_hooks_run_once_a_pass():
    net, seen = headed("bert"), []
    net.backbone.get_submodule(net.backbone.blocks.layers[0]).register_forward_hook(lambda *_: seen.append(1))
    run = recomputable(net, Recompute(on=True))
    gradients(run, given("bert"))
    assert len(seen) == 1


def test_a_network_without_layers_is_left_as_it_is():
    net = headed("bert")
    net.backbone = torch.nn.Identity()
    assert recomputable(net, Recompute(on=True)) is net

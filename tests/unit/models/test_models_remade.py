"""What is made again on the way back gives the gradients of what was kept, bit for bit, in less memory."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from adapted_nets import EVERY, adapted, given, headed
from packed_families import PACKED, set_dropout
from torch import nn

import regraft.models.remade as remade_module
import regraft.models.slab as slab_module
from regraft.models.backbones import Shapes
from regraft.models.dropout import fast_dropouts
from regraft.models.recomputed import Recompute, recomputable
from regraft.models.remade import remaking
from regraft.models.slab import Slab
from regraft.models.view import view
from regraft.training.freeze import learning
from regraft.training.precision import Precision

# The others share their way through the network with one of these; `make test-all` takes every family.
ALWAYS = {"bert", "mpnet", "modernbert", "gpt2", "qwen3", "t5", "deberta-v2", "swin", "wav2vec2", "patchtst"}
FAMILIES = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in EVERY]


@pytest.fixture(autouse=True)
def _any_size_in_the_slab(monkeypatch):
    monkeypatch.setattr(slab_module, "_SMALL", 0)


@pytest.fixture
def kept(monkeypatch):
    """Storages that the hooks keep, by their address: held, so that no other one comes to lie there."""
    found = {}

    def keep(self, tensor):
        packed = pack(self, tensor)
        if isinstance(packed, remade_module._Kept):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage
        return packed

    pack = remade_module._Ledger.pack
    monkeypatch.setattr(remade_module._Ledger, "pack", keep)
    return found


def plainly_kept(found):
    def pack(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def gradients(net, rows, names, precision="fp32"):
    run = Precision(precision).network(net)
    with learning(run, names):
        torch.manual_seed(3)
        loss = run(*rows).square().sum()
        before = torch.get_rng_state()
        loss.backward()
        assert torch.equal(torch.get_rng_state(), before)
        return {name: weight.grad.clone() for name, weight in run.named_parameters() if weight.grad is not None}


def dropping(net):
    """Return a network in training mode that drops as the loop has it; adapters, as usual, do not."""
    set_dropout(net.backbone.body, 0.1, 0.2)
    for path, module in net.named_modules():
        if path.endswith("lora_dropout"):
            module.p = 0.0
    return view(net, fast_dropouts(net))


def assert_same(net, rows, names, precision="fp32", kept=None):
    whole, slab, plain = {}, Slab(), copy.deepcopy(net)
    with plainly_kept(whole):
        wanted = gradients(plain, rows, names, precision)
    run = remaking(copy.deepcopy(net), slab)
    weights = {weight.untyped_storage().data_ptr() for one in (plain, run) for weight in one.parameters()}
    assert [name for name, _ in run.named_parameters()] == [name for name, _ in net.named_parameters()]
    for _ in range(2):  # the second time in memory that was used before
        found = gradients(run, rows, names, precision)
        assert wanted.keys() == found.keys()
        assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
        run.zero_grad()
        if kept is not None:
            sizes = [sum(one.nbytes() for place, one in those.items() if place not in weights) for those in (whole, kept)]
            kept.clear()
        gc.collect()
        assert slab.used() == 0
    return sizes if kept is not None else None


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own call
@pytest.mark.parametrize("shapes", ["packed", "padded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_the_same_step(name, shapes):
    net = headed(name)
    if shapes == "padded" and name not in PACKED:
        pytest.skip("it is padded either way")
    net = dropping(net)
    net.backbone.shapes = Shapes(shapes)
    assert_same(net, given(name), {name for name, _ in net.named_parameters()})


def apart_from_linear_layers(net):
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    return {name for name, _ in net.named_parameters() if name.rpartition(".")[0] not in linear}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own call
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_layers_take_the_same_step(name, precision, monkeypatch):
    laid, apply = [], remade_module._Frozen.apply
    monkeypatch.setattr(remade_module._Frozen, "apply", lambda *args: laid.append(1) or apply(*args))
    net = dropping(headed(name))
    assert_same(net, given(name), apart_from_linear_layers(net), precision)
    if name in {"bert", "vit", "wav2vec2"}:
        assert bool(laid) == (precision == "fp32")


class Masking(nn.Module):
    def forward(self, x):
        return remade_module.masked(x, (torch.arange(x.shape[1]) < 300)[:, None]).sum(dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_masked_in_memory_of_ours_is_what_torch_masks(dtype, monkeypatch):
    x = torch.randn(8, 400, 64, dtype=dtype)
    x[0, 350] = float("nan")
    wanted = x.masked_fill(torch.arange(400)[:, None] >= 300, 0.0).sum(dim=1)
    slab, applied, apply = Slab(), [], remade_module._Masked.apply
    monkeypatch.setattr(remade_module._Masked, "apply", lambda *args: applied.append(1) or apply(*args))
    run, x = remaking(Plain(Masking()), slab), x.requires_grad_(True)
    found = run(x)
    assert (bool(applied), torch.equal(found, wanted)) == (True, True)
    (grad,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    again = torch.autograd.grad(grad.square().sum(), x)[0]
    assert [bool((part[:, 300:] == 0).all()) for part in (grad, again)] == [True, True]
    assert torch.equal(grad[:, :300], (2 * wanted)[:, None].expand(8, 300, 64))
    del found, grad, again
    assert slab.used() == 0


def test_frozen_layers_are_differentiable_twice():
    torch.manual_seed(0)
    net, x = Plain(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False))), torch.randn(3, 4)
    for weight in net.parameters():
        weight.requires_grad_(False)

    def second(run):
        given_x = x.clone().requires_grad_(True)
        (first,) = torch.autograd.grad(run(given_x).square().sum(), given_x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), given_x)[0]

    assert torch.equal(second(net), second(remaking(net, Slab())))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shapes", ["packed", "padded"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "wav2vec2"])
def test_adapters_keep_less(name, shapes, precision, kept):
    if shapes == "padded" and name not in PACKED:
        pytest.skip("it is padded either way")
    net = dropping(adapted(name))
    net.backbone.shapes = Shapes(shapes)
    names = {name for name, _ in net.named_parameters() if "lora" in name or name.startswith("head.")}
    before, after = assert_same(net, given(name), names, precision, kept)
    assert after < (0.95 if precision == "fp32" else 0.99) * before


def test_together_with_layers_that_are_computed_again():
    net = dropping(adapted("bert"))
    names = {name for name, _ in net.named_parameters() if "lora" in name or name.startswith("head.")}
    wanted = gradients(copy.deepcopy(net), given("bert"), names)
    found = gradients(remaking(recomputable(copy.deepcopy(net), Recompute(on=True)), Slab()), given("bert"), names)
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


def test_gradients_of_gradients():
    net = adapted("bert")
    names = [name for name, _ in net.named_parameters() if "lora" in name]

    def penalty(run):
        run.backbone.shapes = Shapes("padded")  # packed attention is differentiable once
        with learning(run, set(names)), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            run.eval()
            weights = [weight for name, weight in run.named_parameters() if name in names]
            first = torch.autograd.grad(run(*given("bert")).square().sum(), weights, create_graph=True)
            return torch.autograd.grad(sum(value.square().sum() for value in first), weights)

    wanted, found = penalty(copy.deepcopy(net)), penalty(remaking(copy.deepcopy(net), Slab()))
    assert max(float((one - other).abs().max() / one.abs().max()) for one, other in zip(wanted, found, strict=True)) < 1e-5


def test_two_passes_may_wait_for_the_way_back_at_once():
    net = dropping(adapted("bert"))
    names = {name for name, _ in net.named_parameters() if "lora" in name}
    found = []
    for run in (copy.deepcopy(net), remaking(copy.deepcopy(net), Slab())):
        with learning(run, names):
            torch.manual_seed(0)
            one, other = run(*given("bert", 0)), run(*given("bert", 1))
            (one - other[: len(one)]).square().sum().backward()
        found.append([weight.grad for weight in run.parameters() if weight.grad is not None])
    assert all(map(torch.equal, *found))


class Careless(nn.Module):
    """Changes what an activation was given after it gave its answer, or the answer itself."""

    def __init__(self, what):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)
        self.what = what

    def forward(self, x):
        between = self.up(x)
        active = self.act(between)
        if self.what == "answer":
            active = active.mul_(2.0)
        out = self.down(active)
        if self.what == "input":
            between.detach().mul_(2.0)
        return out


class Plain(nn.Module):
    """A backbone and no head."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x)


def test_what_was_changed_in_place_is_not_made_again_from_wrong_numbers():
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    careless = Plain(Careless("answer"))
    run = remaking(copy.deepcopy(careless), Slab())
    for each in (careless, run):
        each(x).sum().backward()
    assert torch.equal(careless.backbone.up.weight.grad, run.backbone.up.weight.grad)
    assert torch.equal(careless.backbone.down.weight.grad, run.backbone.down.weight.grad)
    with pytest.raises(RuntimeError, match="changed in place after the forward pass"):
        remaking(Plain(Careless("input")), Slab())(x).sum().backward()


def test_hooks_of_modules_are_left_alone():
    net, seen = Plain(Careless("")), []
    net.backbone.act.register_forward_hook(lambda *_: seen.append(1))
    remaking(net, Slab())(torch.randn(3, 4)).sum().backward()
    assert seen == [1]


def test_without_gradients_nothing_is_noted():
    net = Plain(Careless(""))
    slab = Slab()
    with torch.no_grad():
        remaking(net, slab)(torch.randn(3, 4))
    assert slab._pieces == []

"""A frozen layer and its adapter as one operation: the very derivatives of the plain formula, and only where it may stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from regraft.models.lora import Lora, LoraPlan
from regraft.models.lora_product import Adapted, fits


def parts(dtype=torch.float64, bias=True):
    generator = torch.Generator().manual_seed(0)
    x, w, b, a, o = (torch.randn(*size, generator=generator, dtype=dtype) for size in ((6, 5), (4, 5), (4,), (3, 5), (4, 3)))
    return x.requires_grad_(), (w, b if bias else None), a.requires_grad_(), o.requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
def test_first_and_second_derivatives_are_right(bias):
    x, base, a, b = parts(bias=bias)
    frozen = (lambda: base[0], base[1])
    compute = lambda x, a, b: Adapted.apply(x, frozen, a, b, 0.7)  # noqa: E731
    plain = F.linear(x, *base) + 0.7 * F.linear(F.linear(x, a), b)
    torch.testing.assert_close(compute(x, a, b), plain, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(compute, (x, a, b))
    assert torch.autograd.gradgradcheck(compute, (x, a, b))


def layer_of(kind, dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = kind(4, 5) if kind is Conv1D else kind(5, 4)
    layer.requires_grad_(False)
    Lora().adapt(layer, "layer", LoraPlan(rank=3, alpha=6.0, rslora=False, dropout=dropout, layers=("layer",)))
    with torch.no_grad():
        for weight in (layer.lora_A.weight, layer.lora_B.weight):
            weight.normal_(generator=torch.Generator().manual_seed(1))
    return layer.train()


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_a_layer_learns_the_same_with_it_as_without(kind, monkeypatch):
    found = []
    for allowed in (True, False):
        layer = layer_of(kind)
        if not allowed:
            monkeypatch.setattr("regraft.models.lora.fits", lambda *_: False)
        x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
        out = layer(x)
        assert type(out.grad_fn.next_functions[0][0]).__name__.startswith("Adapted") == allowed
        out.square().sum().backward()
        found.append([out.detach(), x.grad, layer.lora_A.weight.grad, layer.lora_B.weight.grad])
        assert layer.weight.grad is None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Odd(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x):
        return super().forward(x) * 2


def stands(cls, layer, x):
    return fits(cls, layer, x, (layer.lora_A.weight, layer.lora_B.weight))


def test_it_stands_only_where_the_adapter_alone_learns_in_plain_arithmetic():
    x = torch.ones(3, 5)
    assert stands(nn.Linear, layer_of(nn.Linear), x)
    unfrozen, biased = layer_of(nn.Linear), layer_of(nn.Linear)
    unfrozen.weight.requires_grad_(True)
    biased.bias.requires_grad_(True)
    frozen = layer_of(nn.Linear).requires_grad_(False)
    dropped = layer_of(nn.Linear, dropout=0.5)
    for layer, cls in ((unfrozen, nn.Linear), (biased, nn.Linear), (frozen, nn.Linear), (dropped, nn.Linear)):
        assert not stands(cls, layer, x)
    assert stands(nn.Linear, dropped.eval(), x)
    assert not stands(nn.Linear, layer_of(nn.Linear), x.double())
    with torch.no_grad():
        assert not stands(nn.Linear, layer_of(nn.Linear), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not stands(nn.Linear, layer_of(nn.Linear), x)
    odd = layer_of(Odd)
    assert not stands(Odd, odd, x)
    with torch.no_grad():
        expected = 2 * (x @ odd.weight.t() + odd.bias) + 2.0 * (x @ odd.lora_A.weight.t() @ odd.lora_B.weight.t())
    torch.testing.assert_close(odd(x), expected)

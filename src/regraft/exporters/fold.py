"""Batch norms folded into the convolutions before them, as a graph that only answers has them.

Every exporter would do it by itself, each in its own arithmetic; done here, what is in the file can be held against the source
bit for bit. In evaluation mode a batch norm is y = g (x - m) / sqrt(v + e) + b with numbers that do not depend on the row
(Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2, line 11): the scale goes into the weights of the convolution.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed
from regraft.types import Batch

_ROUNDING = 1e-4  # of the largest output; weights that are worked over are off by their whole scale


def folded(net: Headed, batch: Batch) -> dict[str, nn.Module]:
    """Return what stands in the place of convolutions and the batch norms right behind them: path -> module.

    Args:
        net: The network; not changed.
        batch: A few rows, to see what is computed from what.
    """
    made: dict[str, nn.Module] = {}
    modules = dict(net.named_modules())
    for first, (second, given) in _pairs(net, batch).items():
        convolution, norm = modules[first], modules[second]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            joined = _joined(convolution, norm)
            if _alike(joined, convolution, norm, given):
                made |= {first: joined, second: nn.Identity()}
    return made


def _alike(joined: nn.Conv2d, convolution: nn.Conv2d, norm: nn.BatchNorm2d, given: torch.Tensor) -> bool:
    """Return whether the joined convolution computes what the two do.

    A convolution of another kind may pad by itself, which holds for the joined one as well, or work its weights over before it
    uses them (BiT standardises them), and then a scale in the weights is lost.
    """
    if type(convolution) is nn.Conv2d:
        return True
    with torch.no_grad():
        expected = norm(convolution(given))
        furthest = (joined(given) - expected).abs().max()
    return bool(furthest <= _ROUNDING * expected.abs().max())


def _pairs(net: Headed, batch: Batch) -> Mapping[str, tuple[str, torch.Tensor]]:
    """Return convolution -> batch norm that is given its output as it is, where both run once, and what the first is given."""
    convolutions: dict[int, tuple[str, torch.Tensor]] = {}
    inputs: dict[str, torch.Tensor] = {}
    pairs: dict[str, str] = {}
    runs: dict[str, int] = {}
    hooks = []
    for path, module in net.named_modules():

        def note(_m: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor, path: str = path) -> None:
            inputs[path] = given[0]
            convolutions[id(out)] = (path, out)  # held, so that no other tensor is given its number
            runs[path] = runs.get(path, 0) + 1

        def match(_m: nn.Module, given: tuple[torch.Tensor, ...], path: str = path) -> None:
            runs[path] = runs.get(path, 0) + 1
            if id(given[0]) in convolutions:
                pairs[convolutions[id(given[0])][0]] = path

        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(match))
    try:
        if hooks:
            with without_gradients(net):
                net(*net.tensors(batch))
    finally:
        for hook in hooks:
            hook.remove()
    return {first: (second, inputs[first]) for first, second in pairs.items() if runs[first] == runs[second] == 1}


def _joined(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that computes both, its weights worked out in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without statistics cannot be folded")
    with torch.no_grad():
        mean_C, variance_C = norm.running_mean.double(), norm.running_var.double()
        scale_C = (variance_C + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
        shift_C = torch.zeros_like(mean_C) if norm.bias is None else norm.bias.double()
        before_C = torch.zeros_like(mean_C) if convolution.bias is None else convolution.bias.double()
        made = copy.deepcopy(convolution)
        made.weight.copy_(convolution.weight.double() * scale_C.view(-1, 1, 1, 1))
        made.bias = nn.Parameter(((before_C - mean_C) * scale_C + shift_C).to(made.weight.dtype))
    return made

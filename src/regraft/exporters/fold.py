"""Batch norms folded into the convolutions before them, as a graph that only answers has them.

Every exporter would do it by itself, each in its own arithmetic; done here, what is in the file can be held against the source
bit for bit. In evaluation mode a batch norm is y = g (x - m) / sqrt(v + e) + b with numbers that do not depend on the row
(Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2, line 11): the scale goes into the weights of the convolution.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed
from regraft.types import Batch


def folded(net: Headed, batch: Batch) -> dict[str, nn.Module]:
    """Return what stands in the place of convolutions and the batch norms right behind them: path -> module.

    Args:
        net: The network; not changed.
        batch: A few rows, to see what is computed from what.
    """
    made: dict[str, nn.Module] = {}
    modules = dict(net.named_modules())
    for first, second in _pairs(net, batch).items():
        convolution, norm = modules[first], modules[second]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            made |= {first: _joined(convolution, norm), second: nn.Identity()}
    return made


def _pairs(net: Headed, batch: Batch) -> Mapping[str, str]:
    """Return convolution -> batch norm that is given the convolution's output as it is, where both run once."""
    convolutions: dict[int, tuple[str, torch.Tensor]] = {}
    pairs: dict[str, str] = {}
    runs: dict[str, int] = {}
    hooks = []
    for path, module in net.named_modules():

        def note(_m: nn.Module, _i: object, out: torch.Tensor, path: str = path) -> None:
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
    return {first: second for first, second in pairs.items() if runs[first] == runs[second] == 1}


def _joined(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that computes both, its weights worked out in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without statistics cannot be folded")
    with torch.no_grad():
        mean_C, variance_C = norm.running_mean.double(), norm.running_var.double()
        scale_C = (variance_C + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
        shift_C = torch.zeros_like(mean_C) if norm.bias is None else norm.bias.double()
        before_C = torch.zeros_like(mean_C) if convolution.bias is None else convolution.bias.double()
        made = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            bias=True,
            padding_mode=convolution.padding_mode,
            device="meta",
        ).to_empty(device="cpu")
        made.weight.copy_(convolution.weight.double() * scale_C.view(-1, 1, 1, 1))
        if made.bias is not None:
            made.bias.copy_((before_C - mean_C) * scale_C + shift_C)
    return made

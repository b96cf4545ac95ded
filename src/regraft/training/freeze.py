"""Let some weights learn and freeze the rest for as long as a block runs; nothing is left behind on the network."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING

from regraft.errors import OptionsError, Problem
from regraft.models.transform import running_buffers

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def learning(net: nn.Module, trainable: Set[str]) -> Iterator[None]:
    """Let exactly these parameters learn inside the block, with everything frozen in evaluation mode.

    When the block ends, whatever ends it, every parameter gets back its former `requires_grad` and has no gradient, and every
    module gets back its former mode.

    Args:
        net: The network.
        trainable: Names of the parameters that learn.

    Raises:
        OptionsError: Nothing would learn, or a name is not a parameter of the network.
    """
    parameters = dict(net.named_parameters())
    check_trainable(parameters, trainable)
    flags = [(parameter, parameter.requires_grad) for parameter in parameters.values()]
    modes = [(module, module.training) for module in net.modules()]
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trainable)
        set_modes(net)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, mode in modes:
            module.training = mode


def check_trainable(parameters: dict[str, nn.Parameter], trainable: Set[str]) -> None:
    """Raise if no parameter, or one that is not there, is to learn."""
    unknown = sorted(trainable - parameters.keys())
    if trainable and not unknown:
        return
    raise OptionsError(
        Problem(
            what="the tuning names weights that the network does not have" if unknown else "the tuning lets nothing learn",
            where="tuning",
            got=", ".join(unknown[:5]),
            expected="names of the network's parameters",
            fix="choose another tuning, or correct the one that you wrote",
        )
    )


def set_modes(net: nn.Module) -> None:
    """Set training mode where something learns and evaluation mode where all is frozen (no dropout, fixed batch statistics).

    A module learns if a weight of it or below it does; one without weights (dropout) goes with the module around it, but with
    the embeddings where it runs before the first layer: nothing random is left below what learns.
    """
    net.training = True
    for module in net.modules():
        for child in module.children():
            weights = list(child.parameters())
            child.training = any(weight.requires_grad for weight in weights) if weights else module.training
    blocks = getattr(getattr(net, "backbone", None), "blocks", None)
    paths = {f"backbone.{path}" for path in blocks.embeddings} if blocks else set()
    first = [module for path, module in net.named_modules() if path in paths]
    if not any(weight.requires_grad for module in first for weight in module.parameters()):
        for module in first:
            module.eval()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run the block with the network in evaluation mode, then put every module back into its mode."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def changing(net: nn.Module, trainable: Set[str]) -> list[tuple[str, torch.Tensor]]:
    """Return everything that training can change, by name: the weights that learn, and buffers."""
    return [*((name, value) for name, value in net.named_parameters() if name in trainable), *running_buffers(net)]


def snapshot(net: nn.Module, trainable: Set[str]) -> dict[str, torch.Tensor]:
    """Return copies, on the CPU, of everything that training can change."""
    return {name: value.detach().to("cpu", copy=True) for name, value in changing(net, trainable)}


def put_back(net: nn.Module, kept: dict[str, torch.Tensor]) -> None:
    """Write a `snapshot` back, in place."""
    import torch

    current = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    with torch.no_grad():
        for name, value in kept.items():
            current[name].copy_(value)

"""Running a network only to see what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def without_gradients(net: nn.Module) -> Iterator[None]:
    """Run the block with a network in evaluation mode and without gradients; every module gets back its own mode."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode

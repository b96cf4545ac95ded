"""The order in memory that convolutions over pictures like: channels last, where the machine gains by it.

Values, names and what is saved are the same. Measured with one thread and AVX-512 (`bench/memory_layout.py`): for eleven
networks training took 0.5 to 1.07 times as long, answers 0.3 to 1.04 times; EfficientNet-Lite0 0.58 and 0.64. With AVX2 alone
four 3 x 3 convolutions trained at 0.87 times the speed, so there they stay channels first. Kernels of GPUs spare a reordering.
"""

from __future__ import annotations

import torch
from torch import nn

_CONVOLVED = 4  # axes of the weights of a convolution over pictures


def gains(device: torch.device) -> bool:
    """Return whether convolutions on a device are faster channels last. It is a matter of its kind, so that a network answers
    the same bits in every process of a machine.
    """
    return device.type == "cuda" or (device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512")


def channels_last(net: nn.Module) -> bool:
    """Lay the weights of convolutions over pictures out channels last, in place.

    Args:
        net: The network.

    Returns:
        Whether it has such convolutions.
    """
    found = [parameter for parameter in net.parameters() if parameter.ndim == _CONVOLVED]
    if not any(isinstance(module, nn.Conv2d) for module in net.modules()):
        return False
    for parameter in found:
        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return True

"""Where a network runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.errors import OptionsError, Problem

if TYPE_CHECKING:
    import torch

    from regraft.training.options import MachineOptions


def choose_device(options: MachineOptions) -> torch.device:
    """Return the device the options ask for; "auto" takes a GPU if there is one.

    Args:
        options: What of the machine is used.

    Raises:
        OptionsError: The device that was asked for is not there.
    """
    import torch

    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        built = (
            f"torch {torch.__version__} is built {'for CUDA ' + torch.version.cuda if torch.version.cuda else 'without CUDA'}"
        )
        raise OptionsError(
            Problem(
                what="this machine has no GPU that torch can use",
                where="device",
                got=f"'{wanted}'; {built}",
                expected="'auto' or 'cpu'",
                fix="leave 'device' out, or install a driver and a build of torch for your GPU",
            )
        )
    return device

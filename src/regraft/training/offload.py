"""The state of an optimiser in files that are mapped into memory: the system writes them out where memory is short.

    offload = Offload(folder)
    offload.hold(optimizer)          what there is of its state moves into files
    offload.step(optimizer)          in the place of optimizer.step(): what comes into being does too

The numbers, and so the updates, are the same bits. A file has no name any more as soon as it is mapped: it is gone when the
process is, however that ends. Its room on the disk is taken before a number is written, so that a full disk is an error here
and not a signal in the middle of an update. On a network file system each step goes through the network.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PREFIX = ".optimizer-"
"""How the names of its files begin, in the moment in which they have one."""
MADE_BY = "state_like"
"""Attribute of an optimiser: makes an empty tensor for its state, shaped like a weight."""
_PAGE = 4096
_NO_RESERVING = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
_ZEROS = bytes(1 << 20)
_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_SPARE = 1.05


class Offload:
    """Keep the state of an optimiser of weights on the processor in files.

    Args:
        folder: Where; on a disk, and only this user's to read.

    `on` says whether it does, `size_bytes` how much lies in files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.on, self.size_bytes = folder, False, 0

    def refusal(self, need_bytes: int, mounts: Path = _MOUNTS) -> str:
        """Return why so many bytes cannot lie there, or nothing.

        Args:
            need_bytes: Of the state.
            mounts: The system's list of what is mounted where.
        """
        kind = _file_system(self.folder, mounts)
        if kind in _IN_MEMORY:
            return f"'{self.folder}' lies in memory itself ({kind})"
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return f"'{self.folder}' cannot be looked at: {error.strerror}"
        if free < need_bytes * _SPARE:
            return f"it takes {need_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free where '{self.folder}' is"
        return ""

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the state that there is into files, and have `step` do it with what comes.

        Raises:
            OSError: There is no room on the disk; what was moved by then stays moved.
        """
        self.on = True
        optimizer.__dict__[MADE_BY] = self.like
        self._move(optimizer, _weights(optimizer))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Do one update. Weights whose state begins take it one after the other, so that no more than one lies in memory.

        Gradients stand afterwards as after the optimiser's own step.

        Raises:
            OSError: There is no room on the disk.
        """
        learnt = [(weight, weight.grad) for weight in _weights(optimizer) if weight.grad is not None]
        new = [(weight, gradient) for weight, gradient in learnt if not optimizer.state.get(weight)]
        if new:
            for weight, _ in learnt:
                weight.grad = None
            for weight, gradient in new:
                weight.grad = gradient
                optimizer.step()
                weight.grad = None
                self._move(optimizer, [weight])
            taken = {id(weight) for weight, _ in new}
            for weight, gradient in learnt:
                weight.grad = None if id(weight) in taken else gradient
        if len(new) < len(learnt):
            optimizer.step()
        for weight, gradient in learnt:
            weight.grad = gradient

    def like(self, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a tensor of zeros in a file, as long, wide and laid out as another; of less than a page, in memory.

        Args:
            tensor: Dense, on the processor.
            dtype: Of the new one; that of the other if not given.

        Raises:
            OSError: There is no room on the disk.
        """
        import torch

        kind = dtype or tensor.dtype
        size = tensor.numel() * kind.itemsize
        if size < _PAGE or tensor.device.type != "cpu":
            return torch.zeros_like(tensor, dtype=kind)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=PREFIX) as file:
            _reserve(file.fileno(), size)
            storage: Any = torch.UntypedStorage.from_file(file.name, True, size)
        self.size_bytes += size
        # The order in memory of the weight: a fused optimiser goes through both side by side.
        strides = torch.empty_like(tensor, device="meta").stride()
        return torch.empty(0, dtype=kind).set_(storage, 0, tensor.shape, strides)

    def _move(self, optimizer: torch.optim.Optimizer, weights: Sequence[Any]) -> None:
        for weight in weights:
            state = optimizer.state.get(weight, {})
            for name, value in state.items():
                if getattr(value, "ndim", 0) and value.shape == weight.shape and not _mapped(value):
                    state[name] = self.like(weight, value.dtype).copy_(value)


def _weights(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _mapped(value: torch.Tensor) -> bool:
    """Return whether a tensor lies in a file already; one of less than a page may be asked again."""
    return value.untyped_storage().filename is not None


def _reserve(handle: int, size: int) -> None:
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in _NO_RESERVING:
            raise
        for start in range(0, size, len(_ZEROS)):
            os.write(handle, _ZEROS[: min(len(_ZEROS), size - start)])


def _file_system(folder: Path, mounts: Path) -> str:
    """Return the kind of file system that a folder lies in, or nothing where the system does not say."""
    place, deepest, kind = folder.resolve(), -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 4 and after:
            at = Path(fields[4].encode().decode("unicode_escape"))
            if place.is_relative_to(at) and len(at.parts) >= deepest:
                deepest, kind = len(at.parts), after.split()[0]
    return kind

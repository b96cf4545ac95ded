"""Memory for the large tensors of a training step, which is used again as often as tensors of one size come and go.

GNU's allocator cannot give an aligned block that was freed to the next that asks for the same size, and puts what stays into
the holes: of a forward pass of MiniLM, half of the memory was holes.

    slab = Slab()
    slab.empty(torch.Size((4096, 1536)))
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch

from regraft.types import Array

_ALIGNED = 64  # bytes: a line of a processor's cache
_PIECE = 1 << 26  # bytes
_SMALL = 1 << 18  # bytes; below this a block is not worth its bookkeeping
_BYTES = 4
_ASIDE: ContextVar[bool] = ContextVar("aside", default=False)


@contextmanager
def slabs_aside() -> Iterator[None]:
    """Let all tensors come from torch, whose operations can be watched."""
    token = _ASIDE.set(True)
    try:
        yield
    finally:
        _ASIDE.reset(token)


class Slab:
    """Memory that is given out in parts, float32, on the processor.

    It comes from the system in pieces, as it is needed; of these only the pages that were written to are held.
    """

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []

    def empty(self, shape: torch.Size) -> torch.Tensor:
        """Return a tensor of any numbers, which has its part until the last view of it is gone.

        Args:
            shape: Its shape.
        """
        size = -(-math.prod(shape) * _BYTES // _ALIGNED) * _ALIGNED
        if size < _SMALL or _ASIDE.get():
            return torch.empty(shape)
        piece = next((one for one in self._pieces if one.free.get(size)), None)
        piece = piece or next((one for one in self._pieces if one.next + size <= len(one.memory)), None)
        if piece is None:
            piece = _Piece(max(size, _PIECE))
            self._pieces.append(piece)
        return piece.part(size, shape)

    def release(self) -> None:
        """Give the memory back to the system, each piece as soon as nothing of it is in use any more."""
        self._pieces = []


class _Piece:
    """Memory from the system.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int) -> None:
        self.memory = _memory(size)
        self.next = 0
        self.free: defaultdict[int, list[int]] = defaultdict(list)
        self._out: dict[int, weakref.ref[Array]] = {}

    def part(self, size: int, shape: torch.Size) -> torch.Tensor:
        """Return a tensor in a part that is free; there must be one, or room behind those that were given out."""
        if self.free[size]:
            start = self.free[size].pop()
        else:
            start, self.next = self.next, self.next + size
        # A storage of its own for each part, which holds the array: when the one goes, the other does.
        part = np.ndarray(shape, np.float32, self.memory, start)
        self._out[start] = weakref.ref(part, lambda _: self._back(start, size))
        return torch.from_numpy(part)

    def _back(self, start: int, size: int) -> None:
        del self._out[start]
        if self._out:
            self.free[size].append(start)
        else:
            self.next = 0
            self.free.clear()


def _memory(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a process that is forked has its own


def room(slab: Slab | None, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    """Return a tensor of any numbers in a slab, or from torch where there is none or it cannot hold such.

    Args:
        slab: The slab.
        shape: Of the tensor.
        like: Has its number format and its device.
    """
    if slab is None or like.dtype != torch.float32 or like.device.type != "cpu":
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    return slab.empty(shape)


__all__ = ["Slab", "room", "slabs_aside"]

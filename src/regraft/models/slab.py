"""Memory for the large tensors of a training step, which is used again as tensors come and go.

GNU's allocator cannot give an aligned block that was freed to the next that asks for the same size, and puts what stays into
the holes: of a forward pass of MiniLM, half of the memory was holes.

    slab = Slab()
    slab.empty(torch.Size((4096, 1536)))
"""

from __future__ import annotations

import bisect
import math
import mmap
import threading
import weakref
from collections import deque
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
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Slab], tuple[()]]:
        """Let a copy of a network have memory of its own."""
        return Slab, ()

    def empty(self, shape: torch.Size) -> torch.Tensor:
        """Return a tensor of any numbers, which has its part until the last view of it is gone.

        Args:
            shape: Its shape.
        """
        size = -(-math.prod(shape) * _BYTES // _ALIGNED) * _ALIGNED
        if size < _SMALL or _ASIDE.get():
            return torch.empty(shape)
        with self._lock:
            for one in self._pieces:
                one.settle()
            piece = min(self._pieces, key=lambda one: one.smallest(size), default=None)
            if piece is None or piece.smallest(size) > len(piece.memory):
                piece = _Piece(max(size, _PIECE))
                self._pieces.append(piece)
            return piece.part(size, shape)

    def used(self) -> int:
        """Return how many bytes are in use."""
        with self._lock:
            for piece in self._pieces:
                piece.settle()
            return sum(piece.used() for piece in self._pieces)

    def release(self) -> None:
        """Give the memory back to the system, each piece as soon as nothing of it is in use any more."""
        self._pieces = []


class _Piece:
    """Memory from the system. A part lies in the smallest gap that can hold it; gaps that touch become one.

    Of the sizes that come and go in a step, one that has gone leaves room for others.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int) -> None:
        self.memory = _memory(size)
        self._gaps = [(0, size)]  # where no part is: start and end, in order
        self._out: dict[int, weakref.ref[Array]] = {}
        self._gone: deque[tuple[int, int]] = deque()

    def smallest(self, size: int) -> int:
        """Return the bytes of the smallest gap that can hold so many; more than the piece has where none can."""
        return min((end - start for start, end in self._gaps if end - start >= size), default=len(self.memory) + 1)

    def part(self, size: int, shape: torch.Size) -> torch.Tensor:
        """Return a tensor in a gap that can hold it; there must be one."""
        bytes_ = self.smallest(size)
        place, start = next((place, start) for place, (start, end) in enumerate(self._gaps) if end - start == bytes_)
        self._gaps[place : place + 1] = [(start + size, start + bytes_)] if size < bytes_ else []
        # A storage of its own for each part, which holds the array: when the one goes, the other does.
        part = np.ndarray(shape, np.float32, self.memory, start)
        # That it went is only taken down: garbage is collected at any time, also while a part is looked for.
        gone = self._gone
        self._out[start] = weakref.ref(part, lambda _: gone.append((start, start + size)))
        return torch.from_numpy(part)

    def used(self) -> int:
        """Return how many bytes are in use, as far as settled."""
        return len(self.memory) - sum(end - start for start, end in self._gaps)

    def settle(self) -> None:
        """Make gaps of the parts that went."""
        while self._gone:
            self._back(*self._gone.popleft())

    def _back(self, start: int, end: int) -> None:
        del self._out[start]
        place = bisect.bisect(self._gaps, (start, end))
        if place < len(self._gaps) and self._gaps[place][0] == end:
            end = self._gaps.pop(place)[1]
        if place and self._gaps[place - 1][1] == start:
            place -= 1
            start = self._gaps.pop(place)[0]
        self._gaps.insert(place, (start, end))


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

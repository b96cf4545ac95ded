"""Notice that memory is nearly used up before the kernel ends the process, which nothing can catch.

    guard = Guard()
    guard.look()                in a forward pass, where most is held: raises `NearlyOutError` where too little is free

What is free is what the machine and every control group of the process have left, pages of files counted as free. Too little
is less than 64 MB, or than a fiftieth of what was free at the first look. It is looked at as often as takes a two-thousandth of
the time, at most twice a second, and a low figure counts only if it is still low a moment later, when what this process had
freed is given back. Where the system says nothing, nothing happens.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

from regraft.training.cache.budget import free_memory_bytes

LEAST_BYTES = 64 * 2**20
SHARE = 1 / 50
EVERY_S = 0.5
_COST = 2000
_MOMENT_S = 0.2


class NearlyOutError(MemoryError):
    """Less memory is free than is kept back."""


def _free() -> int | None:
    return free_memory_bytes(at_worst=True)


class Guard:
    """Look at what memory is free, now and then.

    Args:
        free: Bytes that this process may still take; None where nobody says.
        clock: Seconds since some moment.
        sleep: Waits so many seconds.

    `armed` says whether a look counts; outside of training nobody could do anything about it.
    """

    def __init__(
        self,
        free: Callable[[], int | None] = _free,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.armed = False
        self.kept_back: float | None = None
        self._free, self._clock, self._sleep = free, clock, sleep
        self._next = -float("inf")

    def look(self) -> None:
        """Look, if it is time to.

        Raises:
            NearlyOutError: Too little is free, and was so a moment before.
        """
        began = self._clock()
        if not self.armed or began < self._next:
            return
        free = self._free()
        now = self._clock()
        self._next = now + max(EVERY_S, _COST * (now - began))
        if free is None:
            self._next = float("inf")
            return
        if self.kept_back is None:
            self.kept_back = max(LEAST_BYTES, free * SHARE)
        if free >= self.kept_back:
            return
        _trim()
        self._sleep(_MOMENT_S)
        again = self._free()
        if again is not None and again < self.kept_back:
            raise NearlyOutError(
                f"{again / 1e6:,.0f} MB of memory are free; below {self.kept_back / 1e6:,.0f} MB the system may end the process"
            )


def _trim() -> None:
    """Give what was freed in this process back to the system, where its allocator can (GNU)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return

"""Where randomness comes from: every draw of a fit is a function of its seed and of where in the fit it happens.

Nothing is carried over from step to step, so a fit that goes on at step 500 draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_ROWS, _NETWORK = 0, 1  # streams that must not share draws
_BLOCK = 256  # steps whose seeds are drawn together, because seeding costs as much as a small layer


def row_generator(seed: int, epoch: int) -> np.random.Generator:
    """Return the generator that draws the order of rows in one epoch."""
    return np.random.default_rng([seed, _ROWS, epoch])


@contextmanager
def network_randomness(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Draw dropout and the like inside the block from the seed and the step; the caller's random state is left as it was.

    Args:
        seed: Of the fit.
        step: Updates done so far.
        device: Where the network runs.
    """
    import torch

    block, place = divmod(step, _BLOCK)
    drawn = _network_seeds(seed, block)[place]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(drawn)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(drawn)
        yield


@functools.lru_cache(maxsize=8)
def _network_seeds(seed: int, block: int) -> tuple[int, ...]:
    drawn = np.random.SeedSequence([seed, _NETWORK, block]).generate_state(_BLOCK, np.uint64)
    return tuple(int(number) >> 1 for number in drawn)

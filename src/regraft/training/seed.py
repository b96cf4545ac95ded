"""Where randomness comes from: every draw of a fit is a function of its seed and of where in the fit it happens.

Nothing is carried over from step to step, so a fit that goes on at step 500 draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_ROWS, _NETWORK = 0, 1  # streams that must not share draws


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

    drawn = int(np.random.SeedSequence([seed, _NETWORK, step]).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(drawn)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(drawn)
        yield

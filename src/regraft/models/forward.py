"""A network over all rows of a split, without gradients: outputs for validation, pooled features for the ladder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from regraft.models.evaluation_mode import without_gradients
from regraft.models.net import Headed
from regraft.types import Array, BatchRows, FloatArray


def length_batches(lengths: Array, batch_size: int) -> Iterator[Array]:
    """Yield positions of rows in batches of similar length, so that little padding is computed.

    Args:
        lengths: Positions of each row (N,).
        batch_size: Rows a batch.
    """
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def outputs(net: Headed, rows: BatchRows, batch_size: int, progress: Callable[[int], None] = lambda _: None) -> FloatArray:
    """Return the head's output for every row, in row order, float32 (N, ...).

    Args:
        net: Runs in evaluation mode; its mode is put back.
        rows: The rows.
        batch_size: Rows a forward pass.
        progress: Called with the number of rows done.
    """
    return _over_rows(net, net, rows, np.arange(len(rows)), batch_size, progress)


def pooled(
    net: Headed, rows: BatchRows, positions: Array, batch_size: int, progress: Callable[[int], None] = lambda _: None
) -> FloatArray:
    """Return the backbone's pooled features for some rows, in the order of `positions`, float32 (N, D).

    Args:
        net: Runs in evaluation mode; its mode is put back.
        rows: The rows.
        positions: Which of them (N,).
        batch_size: Rows a forward pass.
        progress: Called with the number of rows done.
    """
    return _over_rows(net, lambda inputs, mask: net.features(inputs, mask).pooled_BD, rows, positions, batch_size, progress)


def _over_rows(
    net: Headed,
    function: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor],
    rows: BatchRows,
    positions: Array,
    batch_size: int,
    progress: Callable[[int], None],
) -> FloatArray:
    result: FloatArray | None = None
    done = 0
    with without_gradients(net):
        for index in length_batches(rows.lengths[positions], batch_size):
            values = function(*net.tensors(rows.batch(positions[index]))).float().cpu().numpy()
            if result is None:
                result = np.empty((len(positions), *values.shape[1:]), dtype=np.float32)
            result[index] = values
            done += len(index)
            progress(done)
    return np.empty((0, 0), dtype=np.float32) if result is None else result

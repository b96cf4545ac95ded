"""How much memory the tensors of a step hold at every moment of it, found by watching a step over a few rows.

    few, more = curve(net, loss, batch_of_2, weights), curve(net, loss, batch_of_4, weights)
    grown(few, more, positions)               bytes at every operation of a step over so many positions

Every operation of torch is watched, forward and backward, so that it holds for any network: what is saved for the backward
pass, what is only passed on, and when which gradient comes into being. What a kernel takes inside itself is not seen;
convolutions, which lay out anew what they read and write, are counted with as much again.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from regraft.models.net import Headed
from regraft.models.slab import slabs_aside
from regraft.training.precision import untouched
from regraft.types import Array, Batch

Loss = Callable[[Headed, Batch], torch.Tensor]

_LAYS_OUT_ANEW = "convolution"


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Memory during one forward and backward pass, by operation (N).

    Args:
        activations_N: Bytes of tensors that the pass made and that live, without gradients of weights.
        gradients_N: Bytes of the gradients of weights that are there already.
        made_N: Bytes of tensors that the operation made.
        largest_gradient: Bytes of the largest gradient of a weight.
        positions: Real positions of the batch.
        padded_positions: Positions of the batch, padding included.
    """

    activations_N: Array
    gradients_N: Array
    made_N: Array
    largest_gradient: int
    positions: int
    padded_positions: int

    @property
    def gradients(self) -> int:
        """Bytes of all gradients of weights."""
        return int(self.gradients_N[-1])

    def size(self, padded: bool) -> int:
        """Return the positions of the batch, with or without padding."""
        return self.padded_positions if padded else self.positions


def curve(net: Headed, loss: Loss, batch: Batch, trainable: Iterable[str], *, backward: bool = True) -> Curve:
    """Watch one forward pass, and one backward; weights, buffers, gradients and random states are as before.

    Args:
        net: The network.
        loss: Makes the loss of the batch.
        batch: A few rows.
        trainable: Names of the weights that learn.
        backward: Whether gradients are taken.
    """
    with untouched(net, set(trainable)), slabs_aside():
        watch = _Watch()
        with watch:
            total = loss(net, batch)
            if backward and total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
        del total
        found = watch.curve([weight.grad for weight in net.parameters() if weight.grad is not None], batch)
        net.zero_grad(set_to_none=True)
    return found


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of storages between the operation that makes them and their end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = 0
        self._held_N: list[int] = []
        self._made_N: list[int] = []
        self._alive: dict[int, tuple[Any, int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors([*args, *(kwargs or {}).values()])
        for tensor in given:
            self._see(tensor, made=False)  # a weight or an input that was there before
        result = func(*args, **(kwargs or {}))
        results = _tensors([result])
        made = sum(self._see(tensor, made=True) for tensor in results)
        inside = sum(tensor.nbytes for tensor in (*given, *results)) if _LAYS_OUT_ANEW in func.__name__ else 0
        self._held_N.append(self._held + inside)
        self._made_N.append(made)
        return result

    def _see(self, tensor: torch.Tensor, *, made: bool) -> int:
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):  # a kind of tensor without one
            return 0
        key = storage._cdata
        if key in self._alive:
            return 0
        size = storage.nbytes() if made else 0

        def gone(_: Any) -> None:
            self._held -= size
            del self._alive[key]

        self._held += size
        self._alive[key] = (weakref.ref(storage, gone), len(self._held_N), size)
        return size

    def curve(self, gradients: Sequence[torch.Tensor], batch: Batch) -> Curve:
        """Return what was seen; gradients are those of the weights."""
        gradients_N = np.zeros(max(1, len(self._held_N)), dtype=np.int64)
        keys = {gradient.untyped_storage()._cdata for gradient in gradients} & self._alive.keys()
        for _, moment, size in (self._alive[key] for key in keys):
            gradients_N[moment:] += size
        held_N = np.asarray(self._held_N or [0], dtype=np.int64)
        return Curve(
            activations_N=held_N - gradients_N,
            gradients_N=gradients_N,
            made_N=np.asarray(self._made_N or [0], dtype=np.int64),
            largest_gradient=max((self._alive[key][2] for key in keys), default=0),
            positions=int(np.count_nonzero(batch.mask_BT)),
            padded_positions=int(batch.mask_BT.size),
        )


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def padding_counts(few: Curve, more: Curve) -> bool:
    """Return whether memory grows with all positions of a batch, not with the real ones alone.

    What each operation makes grows by one of two factors; the bytes decide. What does not grow says nothing.
    """
    real, all_of_them = more.positions / max(1, few.positions), more.padded_positions / max(1, few.padded_positions)
    if len(few.made_N) == len(more.made_N):
        grew = (more.made_N > few.made_N) & (few.made_N > 0)
        factors, bytes_N = more.made_N[grew] / few.made_N[grew], more.made_N[grew]
    else:
        factors, bytes_N = np.array([more.activations_N.max() / max(1, few.activations_N.max())]), np.ones(1)
    if not len(factors):
        return True
    middle = math.sqrt(real * all_of_them)
    return bool(bytes_N[factors > middle].sum() * 2 >= bytes_N.sum()) if all_of_them > real else False


def grown(few: Curve, more: Curve, size: int, *, padded: bool) -> Array:
    """Return the activations of a step over so many positions, in bytes, by operation (N).

    Each moment is on a line through both curves, so that what does not grow (half-size copies of weights) is not multiplied.
    Where the passes took different operations, all of the larger grows in proportion.

    Args:
        few: A pass over a few rows.
        more: A pass over more of them, or the same.
        size: Positions, counted as `padded` says.
        padded: Whether padding counts.
    """
    from_size, to_size = few.size(padded), more.size(padded)
    if len(few.activations_N) != len(more.activations_N) or from_size == to_size:
        return np.asarray(more.activations_N * (size / max(1, to_size)))
    slope_N = (more.activations_N - few.activations_N) / (to_size - from_size)
    return np.maximum(0.0, more.activations_N + slope_N * (size - to_size))

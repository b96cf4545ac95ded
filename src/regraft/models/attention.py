"""Attention over rows that lie end to end, as a function in the hub's own registry of attention functions.

A model that uses it computes as before when it is given padded rows. Inside `packed_rows(layout)` it is given one row of all
real positions, and attention is kept inside the rows of the layout: bucket by bucket, with the mask that the model itself asks
for (none, causal, sliding window), which the hub hands over as a function of two positions.

Shapes: N real positions of all rows, R rows of a bucket, L its longest row, H heads, D width of a head.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn import functional as F

from regraft.models.attention_rows import Places, attend_with_dropout, places
from regraft.models.dropout import dropout as drop
from regraft.models.layout import Bucket, Layout

NAME = "regraft"
_BY_HAND = (torch.float32, torch.bfloat16)
_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def packed_rows(layout: Layout) -> Iterator[None]:
    """Let attention inside the block run inside the rows of a layout."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def current_layout() -> Layout | None:
    """Return the layout that attention runs in, or nothing where rows are padded."""
    return _LAYOUT.get()


@functools.cache
def register() -> None:
    """Put the attention function and its mask into the hub's registries."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)


@dataclass(frozen=True)
class Seen:
    """Which positions of a bucket see each other.

    Args:
        mask: True where a query sees a key, broadcast to (R, H, L, L); nothing where each sees all, or `causal` says it.
        causal: Whether each sees itself and those before it.
        plain: Whether each sees every real position of its row, or `causal` says it: no pattern of the model's own.
    """

    mask: torch.Tensor | None = None
    causal: bool = False
    plain: bool = True


class RowMask:
    """Which positions see each other, as the hub's function of two places; evaluated bucket by bucket, once for all layers.

    Args:
        function: (batch, head, query place, key place) -> True where the query sees the key.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self.function = function
        self.found: dict[tuple[int, int], Seen] = {}
        self.laid_out: dict[int, Places] = {}

    def of(self, bucket: Bucket, device: torch.device) -> Seen:
        """Return which positions of a bucket see each other."""
        key = (bucket.start, bucket.longest)
        if key not in self.found:
            self.found[key] = self._evaluate(bucket, device)
        return self.found[key]

    def places(self, layout: Layout, heads: int) -> Places:
        """Return where the positions of all heads lie for `attend_with_dropout`, made once for all layers."""
        if heads not in self.laid_out:
            added = [self._added(bucket, layout.index_N.device) for bucket in layout.aligned]
            self.laid_out[heads] = places(layout.aligned, added, heads)
        return self.laid_out[heads]

    def _added(self, bucket: Bucket, device: torch.device) -> torch.Tensor | None:
        seen = self.of(bucket, device)
        allowed = below(bucket.longest, device) if seen.causal else seen.mask
        return None if allowed is None else torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, float("-inf"))

    def _evaluate(self, bucket: Bucket, device: torch.device) -> Seen:
        # The hub's functions look at places in the whole packed row; inside one of our rows only their difference counts, so
        # the last row of a bucket, its longest, speaks for all.
        places_L = torch.arange(bucket.stop - bucket.last, bucket.stop, device=device)
        zero = torch.zeros((), dtype=torch.long, device=device)
        seen_LL = self.function(zero, zero, places_L[:, None], places_L[None, :])
        if seen_LL.ndim < 2 or bool(seen_LL.all()):
            return Seen(None if bucket.mask_RL is None else bucket.mask_RL[:, None, None, :])
        if torch.equal(seen_LL, seen_LL.new_ones(seen_LL.shape).tril()):
            return Seen(causal=True)  # also where rows are padded: what comes after a position is never seen
        if bucket.mask_RL is None:
            return Seen(seen_LL, plain=False)
        more = bucket.longest - bucket.last
        seen_LL = F.pad(seen_LL, (0, more, 0, more))
        # A padded place must see something, or its softmax is not a number and the gradients of all others with it.
        itself_LL = torch.eye(bucket.longest, dtype=torch.bool, device=device)
        return Seen((seen_LL & bucket.mask_RL[:, None, None, :]) | itself_LL, plain=False)


def mask(*args: Any, **kwargs: Any) -> Any:
    """Return what the attention function below takes as its mask; the hub's own mask where rows are padded."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    if _LAYOUT.get() is None:
        return sdpa_mask(*args, **kwargs)
    return RowMask(kwargs.get("mask_function", bidirectional_mask_function))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # how rows lie is decided anew for every batch
def attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Return softmax(q k' scaling) v, rows kept apart (Vaswani et al. 2017, arXiv:1706.03762, equation 1).

    Args:
        module: The hub's attention module.
        query: (1, H, N, D), or (B, H, T, D) where rows are padded.
        key: (1, H or a part of it, N, D).
        value: (1, H or a part of it, N, D).
        attention_mask: What `mask` gave.
        **kwargs: What else the hub's attention functions take; of these "dropout", the share of attention weights dropped, and
            "scaling", the factor of the products, 1 / sqrt(D) if not given.

    Returns:
        (1, N, H, D), and nothing in the place of attention weights.
    """
    layout = _LAYOUT.get()
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        padded: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return padded
    if not isinstance(attention_mask, RowMask):
        raise ValueError("attention over packed rows got a mask that was not made for them")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # Positions first, so that a bucket is a slice.
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # the gradient of [0] would be a copy
    heads = Heads(q, k, v, kwargs.get("scaling"))
    dropout = kwargs.get("dropout", 0.0)
    widest = attention_mask.of(layout.buckets[-1], query.device)
    if widest.plain and not dropout and _has_varlen(query):
        return varlen(heads, layout, causal=widest.causal).unsqueeze(0), None
    return in_rows(heads, layout, attention_mask, dropout).unsqueeze(0), None


@dataclass(frozen=True)
class Heads:
    """What attends to what.

    Args:
        q_NHD: Queries of all positions.
        k_NHD: Keys of all positions.
        v_NHD: Values of all positions.
        scaling: Factor of the products; 1 / sqrt(D) if not given.
    """

    q_NHD: torch.Tensor
    k_NHD: torch.Tensor
    v_NHD: torch.Tensor
    scaling: float | None = None


def in_rows(
    heads: Heads, layout: Layout, mask: RowMask, dropout: float = 0.0, bias_1HLL: torch.Tensor | None = None
) -> torch.Tensor:
    """Return attention inside the rows of a layout (N, H, D).

    Args:
        heads: Of all positions.
        layout: Which of them are rows, and how they become buckets.
        mask: Which positions see each other.
        dropout: Share of attention weights dropped.
        bias_1HLL: Added to the products of the longest row; shorter ones take its first positions.
    """
    tensors = (heads.q_NHD, heads.k_NHD, heads.v_NHD)
    if dropout and bias_1HLL is None and _by_hand(*tensors):
        scaling = heads.q_NHD.shape[-1] ** -0.5 if heads.scaling is None else heads.scaling
        return attend_with_dropout(tensors, mask.places(layout, heads.q_NHD.shape[1]), scaling, dropout)
    seen = [mask.of(bucket, heads.q_NHD.device) for bucket in layout.buckets]
    # Cut once: the gradient of a slice by itself is a tensor as large as what it was cut from.
    sizes = [bucket.stop - bucket.start for bucket in layout.buckets]
    parts = []
    # Not at all where there is one bucket: the gradient of that would be a copy.
    cut = zip(*(torch.split(tensor, sizes) if len(sizes) > 1 else (tensor,) for tensor in tensors), strict=True)
    for bucket, one, (q, k, v) in zip(layout.buckets, seen, cut, strict=True):
        bias = None if bias_1HLL is None else bias_1HLL[:, :, : bucket.longest, : bucket.longest]
        parts.append(_in_bucket(Heads(q, k, v, heads.scaling), bucket, one, dropout, bias))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_hand(*tensors: torch.Tensor) -> bool:
    return all(tensor.device.type == "cpu" and tensor.dtype in _BY_HAND for tensor in tensors)


def below(longest: int, device: torch.device) -> torch.Tensor:
    """Return True where a position sees itself and those before it (L, L)."""
    return torch.ones((longest, longest), dtype=torch.bool, device=device).tril()


def _in_bucket(heads: Heads, bucket: Bucket, seen: Seen, dropout: float, bias: torch.Tensor | None) -> torch.Tensor:
    """Return attention inside the rows of a bucket (positions of the bucket, H, D); `heads` are those of its positions."""
    q, k, v = (_rows(part, bucket).transpose(1, 2) for part in (heads.q_NHD, heads.k_NHD, heads.v_NHD))
    allowed, causal = seen.mask, seen.causal
    if causal and (dropout or bias is not None):
        allowed, causal = below(bucket.longest, q.device), False
    if bias is not None:
        allowed = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))
    if dropout:
        scaling = q.shape[-1] ** -0.5 if heads.scaling is None else heads.scaling
        out = _with_dropout(q * scaling, k, v, allowed, dropout)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal, scale=heads.scaling)
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat if bucket.index is None else flat.index_select(0, bucket.index)


def _has_varlen(query: torch.Tensor) -> bool:
    """Return whether there is a kernel for rows that lie end to end: on a GPU, in a half-size format, from torch 2.10 on."""
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and _varlen_kernel() is not None


@functools.cache
def _varlen_kernel() -> Callable[..., torch.Tensor] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast(Callable[..., torch.Tensor], varlen_attn)  # a pair only where more is asked for


def varlen(heads: Heads, layout: Layout, *, causal: bool) -> torch.Tensor:
    """Return attention inside all rows (N, H, D) by one call of torch's kernel for rows that lie end to end.

    Args:
        heads: Of all positions.
        layout: Where rows begin and end.
        causal: Whether each position sees only itself and those before it.
    """
    kernel = _varlen_kernel()
    if kernel is None:
        raise RuntimeError("this version of torch has no attention over rows of different lengths")
    ends = torch.tensor((0, *itertools.accumulate(layout.lengths)), dtype=torch.int32, device=heads.q_NHD.device)
    longest, window = layout.lengths[-1], (-1, 0) if causal else (-1, -1)
    q, k, v = (tensor.contiguous() for tensor in (heads.q_NHD, heads.k_NHD, heads.v_NHD))
    return kernel(q, k, v, ends, ends, longest, longest, scale=heads.scaling, window_size=window)


def _rows(part: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """Return the positions of a bucket (P, H, D) as padded rows (R, L, H, D), zero where there is padding."""
    if bucket.index is not None:
        part = part.new_zeros((bucket.rows * bucket.longest, *part.shape[1:])).index_copy(0, bucket.index, part)
    return part.view(bucket.rows, bucket.longest, *part.shape[1:])


def _with_dropout(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor | None, dropout: float
) -> torch.Tensor:
    # torch's own kernel leaves its fast path as soon as weights are dropped; these are the same steps without its detours.
    scores = torch.matmul(q, k.transpose(-1, -2))
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf")) if allowed.dtype == torch.bool else scores + allowed
    return torch.matmul(drop(scores.softmax(-1), dropout), v)

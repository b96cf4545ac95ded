"""Attention inside rows that lie end to end while a network learns with dropout: one node for autograd, gradients by hand.

Composed of torch's own operations, every bucket of rows is a chain of twenty nodes, each of which costs as much as the numbers
of a short row, and the gradient of each slice is a tensor as large as the whole batch. Here all positions of all heads are laid
out for all buckets by one lookup, and put back by another.

Shapes: N real positions of all rows, M places of all buckets (some padded), R rows of a bucket, L its places a row, H heads, D
width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from regraft.models.dropout import bits, drawn_of, draws
from regraft.models.layout import Bucket
from regraft.models.remade import making_again, slab
from regraft.models.slab import Slab

_AT_ONCE = 1 << 19
"""Weights of attention that are computed at once, or those of a row where they are more: 2 MB stay in a processor's cache."""


@dataclass(frozen=True)
class Places:
    """Where every position of every head lies when the rows of all buckets are laid out head by head.

    Args:
        source: The position and head (position * H + head) at each place (M * H,); where there is padding, the first.
        back: The place of each position and head (N * H,).
        padding: The places where there is padding.
        sizes: Places of each bucket, all heads. (Large ones are several here, of a few rows each.)
        shapes: Of each bucket: R * H and L.
        added: What is added to the products of each bucket, broadcast to (R, H, L, L): 0 where a query sees a key, minus
            infinity where it does not; nothing where each sees all.
        heads: H.
        slab: Memory for large tensors, where there is one.
        scratch: Memory for the numbers of one bucket, by what they are; layers use it one after the other.
    """

    source: torch.Tensor
    back: torch.Tensor
    padding: torch.Tensor
    sizes: list[int]
    shapes: list[tuple[int, int]]
    added: list[torch.Tensor | None]
    heads: int
    slab: Slab | None
    scratch: dict[str, torch.Tensor] = field(default_factory=dict, compare=False)

    def room(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Return memory for numbers of a bucket, float32, which the next one that asks for this name gets too.

        Allocated anew in every layer, these blocks, the largest of all, leave holes between those that stay.

        Args:
            name: What the numbers are.
            shape: Their shape.
        """
        if name not in self.scratch:
            most = max(count * length * length for count, length in self.shapes)
            self.scratch[name] = self.empty(torch.Size((most,)))
        return self.scratch[name][: shape.numel()].view(shape)

    def empty(self, shape: torch.Size) -> torch.Tensor:
        """Return memory for numbers, float32."""
        return torch.empty(shape) if self.slab is None else self.slab.empty(shape)


def places(buckets: Sequence[Bucket], added: list[torch.Tensor | None], heads: int) -> Places:
    """Return where positions lie.

    Args:
        buckets: Which positions are rows; together all of them, in order.
        added: As in `Places`.
        heads: H.
    """
    back, base = [], 0
    parts: list[tuple[int, int, torch.Tensor | None]] = []
    head_H = torch.arange(heads)
    for bucket, mask in zip(buckets, added, strict=True):
        index = torch.arange(bucket.rows * bucket.longest) if bucket.index is None else bucket.index
        row, place = index // bucket.longest, index % bucket.longest
        back.append(base + (row[:, None] * heads + head_H) * bucket.longest + place[:, None])
        base += bucket.rows * heads * bucket.longest
        parts += _parts(bucket, mask, heads)
    back_NH = torch.cat(back).flatten()
    source = torch.full((base,), -1).index_copy_(0, back_NH, torch.arange(len(back_NH)))
    padding = (source < 0).nonzero().flatten()
    shapes = [(rows * heads, longest) for rows, longest, _ in parts]
    sizes = [count * longest for count, longest in shapes]
    return Places(source.clamp_(min=0), back_NH, padding, sizes, shapes, [mask for *_, mask in parts], heads, slab())


def _parts(bucket: Bucket, mask: torch.Tensor | None, heads: int) -> Iterator[tuple[int, int, torch.Tensor | None]]:
    """Yield rows, places a row and what is added to their products, of as many rows as are computed at once."""
    most = max(1, _AT_ONCE // (heads * bucket.longest**2))
    for start in range(0, bucket.rows, most):
        rows = min(most, bucket.rows - start)
        own = mask is not None and mask.ndim == 4 and len(mask) == bucket.rows
        yield rows, bucket.longest, mask[start : start + rows] if mask is not None and own else mask


def attend_with_dropout(
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor], where: Places, scaling: float, dropout: float
) -> torch.Tensor:
    """Return dropout(softmax(q k' scaling)) v, rows kept apart (N, H, D), in the format of the queries.

    Vaswani et al. 2017, arXiv:1706.03762, equation 1. Differentiable once. Numbers in a half-size format come and go
    in it, and all between is float32: products of short rows are too small to gain, and each rounding is a pass over them.
    Of what was drawn one bit a weight is kept for the way back, and no weights where `making_again` says so.

    Args:
        tensors: Queries, keys and values (N, H, D), float32 or half-size, on a CPU.
        where: Of the rows.
        scaling: Factor of the products.
        dropout: Share of the weights dropped.
    """
    with torch.autocast("cpu", enabled=False):
        q, k, v = (tensor.float() for tensor in tensors)
        out: torch.Tensor = _Attend.apply(q, k, v, where, (scaling, dropout, making_again()))  # type: ignore[no-untyped-call]
    return out.to(tensors[0].dtype)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, where: Places, how: tuple[float, float, bool]
    ) -> torch.Tensor:
        scaling, dropout, again = how
        laid = [_laid_out(tensor, where) for tensor in (q, k, v)]
        laid[0].mul_(scaling)
        out = where.empty(laid[2].shape)
        numbers = [count * length * length for count, length in where.shapes]
        drawn, scale = draws(sum(numbers), dropout, slab())
        stays = []
        for parts in zip(
            *(_buckets(tensor, where) for tensor in (*laid, out)), where.added, torch.split(drawn, numbers), strict=True
        ):
            q_rows, k_rows, v_rows, out_rows, mask, drawn_rows = parts
            scores = _scores(q_rows, k_rows, mask, where)
            weights = torch.softmax(scores, -1, out=where.room("weights", scores.shape)) if again else scores.softmax(-1)
            factor = scores.copy_(drawn_rows.view(weights.shape))
            torch.bmm(torch.mul(weights, factor, out=scores), v_rows, out=out_rows)
            stays += [None if again else weights, bits(drawn_rows)]
        ctx.save_for_backward(*laid, *stays)
        ctx.where, ctx.scaling, ctx.scale = where, scaling, scale
        return _put_back(out.mul_(scale), where).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        where: Places = ctx.where
        q, k, v, *stays = ctx.saved_tensors
        laid = _laid_out(grad, where).index_fill_(0, where.padding, 0.0).mul_(ctx.scale)
        found = [where.empty(laid.shape) for _ in range(3)]
        rows = (_buckets(tensor, where) for tensor in (q, k, v, laid, *found))
        for (*parts,), mask, weights, packed in zip(zip(*rows, strict=True), where.added, stays[::2], stays[1::2], strict=True):
            q_rows, k_rows, v_rows, grad_rows, of_q, of_k, of_v = parts
            if weights is None:
                scores = _scores(q_rows, k_rows, mask, where)
                weights = torch.softmax(scores, -1, out=where.room("weights", scores.shape))
            factor = where.room("factor", weights.shape).copy_(drawn_of(packed, weights.numel()).view(weights.shape))
            dropped = torch.mul(weights, factor, out=where.room("scores", weights.shape))
            torch.bmm(dropped.transpose(1, 2), grad_rows, out=of_v)
            of_weights = torch.bmm(grad_rows, v_rows.transpose(1, 2), out=dropped).mul_(factor)
            of_scores = torch.ops.aten._softmax_backward_data.out(of_weights, weights, -1, weights.dtype, grad_input=factor)
            torch.bmm(of_scores, k_rows, out=of_q)
            torch.bmm(of_scores.transpose(1, 2), q_rows, out=of_k)
        found[0].mul_(ctx.scaling)
        return (*(_put_back(tensor, where).view(grad.shape) for tensor in found), None, None)


def _scores(q_rows: torch.Tensor, k_rows: torch.Tensor, mask: torch.Tensor | None, where: Places) -> torch.Tensor:
    """Return what the softmax of a bucket is taken of (R * H, L, L), in memory that is used again."""
    shape = torch.Size((*q_rows.shape[:2], k_rows.shape[1]))
    scores = torch.bmm(q_rows, k_rows.transpose(1, 2), out=where.room("scores", shape))
    if mask is not None:
        scores.view(-1, where.heads, *shape[1:]).add_(mask)
    return scores


def _laid_out(values_NHD: torch.Tensor, where: Places) -> torch.Tensor:
    """Return the positions of all heads as they lie in the buckets (M * H, D)."""
    shape = where.source.shape + values_NHD.shape[-1:]
    return torch.index_select(values_NHD.reshape(-1, shape[-1]), 0, where.source, out=where.empty(shape))


def _put_back(laid: torch.Tensor, where: Places) -> torch.Tensor:
    """Return what lies in the buckets as positions of all heads (N * H, D)."""
    return torch.index_select(laid, 0, where.back, out=where.empty(where.back.shape + laid.shape[1:]))


def _buckets(laid: torch.Tensor, where: Places) -> list[torch.Tensor]:
    """Return the rows of each bucket, head by head (R * H, L, D)."""
    return [part.view(*shape, -1) for part, shape in zip(torch.split(laid, where.sizes), where.shapes, strict=True)]

"""Attention with dropout over rows that lie end to end: its answers and its gradients by hand against torch's own, row by row."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from regraft.models import attention_rows
from regraft.models.attention import Heads, RowMask, in_rows
from regraft.models.attention_rows import places
from regraft.models.dropout import draws
from regraft.models.layout import Bucket, Layout, layout_of

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
HEADS, WIDTH = 3, 4
LENGTHS = {
    "lengths 1 and 2": [1, 2],
    "all equal": [8, 8, 8],
    "all equal, not a multiple of eight": [5, 5, 5],
    "all different": [1, 3, 6, 7, 9, 12, 17],
    "one very long": [2, 2, 3, 70],
    "one row": [11],
}


def layout_for(lengths: list[int]) -> Layout:
    made = layout_of(torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    assert made is not None
    return made


def given(layout: Layout) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    shape = (sum(layout.lengths), HEADS, WIDTH)
    q, k, v = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(3))
    return q, k, v


def gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def node(tensor: torch.Tensor) -> str:
    assert tensor.grad_fn is not None
    return tensor.grad_fn.name()


def factors_of(layout: Layout, dropout: float) -> list[torch.Tensor]:
    """What the weights of each row are multiplied with (H, l, l), from the same draws as those of `attend_with_dropout`."""
    numbers = [bucket.rows * HEADS * bucket.longest**2 for bucket in layout.aligned]
    torch.manual_seed(7)
    kept, scale = draws(sum(numbers), dropout)
    found, lengths = [], list(layout.lengths)
    for bucket, part in zip(layout.aligned, torch.split(kept, numbers), strict=True):
        for row in part.view(bucket.rows, HEADS, bucket.longest, bucket.longest):
            length = lengths.pop(0)
            found.append(row[:, :length, :length].double() * scale)
    return found


def row_by_row(
    tensors: Iterable[torch.Tensor], layout: Layout, scaling: float, dropout: float, *, causal: bool
) -> torch.Tensor:
    """softmax(q k' scaling) v of one row after the other, in float64 and by autograd alone."""
    parts = []
    rows = zip(*(torch.split(tensor, list(layout.lengths)) for tensor in tensors), factors_of(layout, dropout), strict=True)
    for q, k, v, factor in rows:
        scores = torch.einsum("ihd,jhd->hij", q, k) * scaling
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
        parts.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1) * factor, v))
    return torch.cat(parts)


def sees_before(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return key <= query


def sees_all(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return batch.new_ones((), dtype=torch.bool)


@pytest.mark.parametrize("at_once", [1, 2 * HEADS * 8 * 8, 1 << 19])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_answers_and_gradients_are_those_of_every_row_by_itself(
    lengths: list[int], causal: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_rows, "_AT_ONCE", at_once)
    layout = layout_for(lengths)
    tensors = given(layout)
    mask = RowMask(sees_before if causal else sees_all)
    torch.manual_seed(7)
    got = in_rows(Heads(*tensors, scaling=0.4), layout, mask, dropout=0.25)
    direction = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    got.backward(direction)  # type: ignore[no-untyped-call]

    doubled = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = row_by_row(doubled, layout, 0.4, 0.25, causal=causal)
    expected.backward(direction.double())  # type: ignore[no-untyped-call]

    assert node(got).startswith("_Attend")
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(tensors, doubled, strict=True):
        torch.testing.assert_close(gradient(one).double(), gradient(other), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("again", [False, True])
def test_how_many_rows_are_computed_at_once_changes_no_bit(again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, found = layout_for(LENGTHS["all different"] + [9, 9, 12]), []
    monkeypatch.setattr(attention_rows, "making_again", lambda: again)
    for at_once in (1 << 19, 1):
        monkeypatch.setattr(attention_rows, "_AT_ONCE", at_once)
        tensors = given(layout)
        torch.manual_seed(7)
        got = in_rows(Heads(*tensors), layout, RowMask(sees_all), dropout=0.25)
        got.square().sum().backward()  # type: ignore[no-untyped-call]
        found.append([got, *map(gradient, tensors)])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("dropout", [0.001, 1.0])
def test_a_share_at_the_ends_of_its_range(dropout: float) -> None:
    layout = layout_for([3, 5])
    tensors = given(layout)
    torch.manual_seed(7)
    got = in_rows(Heads(*tensors), layout, RowMask(sees_all), dropout=dropout)
    got.sum().backward()  # type: ignore[no-untyped-call]

    expected = row_by_row([tensor.detach().double() for tensor in tensors], layout, WIDTH**-0.5, dropout, causal=False)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(bool(gradient(tensor).isfinite().all()) for tensor in tensors)


def test_padding_has_no_part_in_the_gradient() -> None:
    layout = layout_for([3, 6])
    tensors = given(layout)
    torch.manual_seed(7)
    in_rows(Heads(*tensors), layout, RowMask(sees_all), dropout=0.5)[:3].sum().backward()  # type: ignore[no-untyped-call]

    for tensor in tensors:  # the second row has no part in the answers of the first
        assert torch.count_nonzero(gradient(tensor)[3:]) == 0


def test_aligned_buckets_hold_every_position_once() -> None:
    layout = layout_for([1, 3, 6, 7, 8, 9, 12, 17, 33])
    where = places(layout.aligned, [None] * len(layout.aligned), HEADS)

    assert all(bucket.longest % 8 == 0 for bucket in layout.aligned)
    assert torch.equal(where.source[where.back], torch.arange(sum(layout.lengths) * HEADS))
    assert len(where.padding) == len(where.source) - len(where.back)
    assert [bucket.stop for bucket in layout.aligned][-1] == sum(layout.lengths)


@pytest.mark.parametrize("causal", [False, True])
def test_half_size_numbers_come_and_go_and_all_between_is_float32(causal: bool) -> None:
    layout = layout_for(LENGTHS["all different"])
    tensors = [tensor.detach().bfloat16().requires_grad_() for tensor in given(layout)]
    mask = RowMask(sees_before if causal else sees_all)
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # bf16 products would be off by 100 times as much as is allowed below
        got = in_rows(Heads(*tensors, scaling=0.4), layout, mask, dropout=0.25)
    assert got.dtype == torch.bfloat16
    direction = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    got.backward(direction)  # type: ignore[no-untyped-call]

    doubled = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = row_by_row(doubled, layout, 0.4, 0.25, causal=causal)
    expected.backward(direction.double())  # type: ignore[no-untyped-call]

    # The last rounding alone: half a unit in the last of 8 bits.
    torch.testing.assert_close(got.double(), expected, rtol=2**-8, atol=1e-5)
    for one, other in zip(tensors, doubled, strict=True):
        assert gradient(one).dtype == torch.bfloat16
        torch.testing.assert_close(gradient(one).double(), gradient(other), rtol=2**-8, atol=1e-5)


def test_a_bucket_knows_its_longest_row() -> None:
    layout = layout_for([3, 6])

    assert [(bucket.longest, bucket.last) for bucket in layout.aligned] == [(8, 6)]
    assert isinstance(layout.aligned[0], Bucket)

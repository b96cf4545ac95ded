"""Computing only real positions: whether a body can, and how it then runs.

The positions of all rows lie end to end in one row, from the embeddings to the last layer; attention alone looks at rows (see
`regraft.models.attention`). A body that should be able to is tried on a few short rows when it is opened; what does not give
the same as padded rows runs padded, and says why.

Shapes: B rows, T positions, N real positions of all rows, D width.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from regraft.models.attention import NAME, packed_rows, register
from regraft.models.evaluation_mode import without_gradients
from regraft.models.layout import Layout, layout_of

if TYPE_CHECKING:
    from regraft.models.architectures import Architecture

_TOLERANCE = 1e-4
_TRIED = (1, 2, 5, 5, 9)
_LONGEST_TRIED = 160
_FIXED_ROWS = 8
_AXES = 3  # of vectors of positions (B, T, D); a map of cells (B, D, height, width) has one more


@dataclass(frozen=True)
class Packing:
    """How a body runs on real positions only.

    Args:
        adapt: Gives the network that takes all positions in one row and shares its weights with the body; nothing if it cannot.
        reason: Why it cannot, as people read it.
    """

    adapt: Callable[[Any], Any] | None = None
    reason: str = ""


def packing_of(body: Any, architecture: Architecture) -> Packing:
    """Return how a body runs on real positions only, after trying it.

    Args:
        body: The hub's model; it goes on to compute padded rows as before.
        architecture: Its line in the table.
    """
    if not architecture.masked:
        return Packing()  # each row is one position: there is nothing between rows
    if not architecture.packing:
        return Packing(reason=f"{body.config.model_type} looks beyond attention at a row's neighbours")
    register()
    module, _, name = architecture.packing.partition(":")
    adapt: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    try:
        difference = _difference(body, adapt(body), architecture)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        # Another version of the hub's library may call attention in another way.
        return Packing(reason=f"tried on short rows, it failed: {type(error).__name__}: {error}"[:300])
    if not difference <= _TOLERANCE:  # also where it is not a number
        return Packing(reason=f"tried on short rows, real positions alone gave vectors {difference:.1g} away from padded rows")
    return Packing(adapt)


def through_registry(body: Any) -> Any:
    """Let a body use the attention function that knows rows which lie end to end; padded rows it computes as before."""
    if body.config._attn_implementation != NAME:
        body.set_attn_implementation(NAME)
    return body


def run_padded(
    body: Any, architecture: Architecture, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor
) -> torch.Tensor:
    """Return one vector a position (B, T, D), all positions computed."""
    taken: dict[str, Any] = {name: inputs[name] for name in architecture.inputs if name in inputs}
    if not architecture.masked:
        given: torch.Tensor = body(**taken, return_dict=True).last_hidden_state
        return given.flatten(2).transpose(1, 2) if given.ndim > _AXES else given
    if architecture.causal:
        taken["use_cache"] = False
    sequence_BTD: torch.Tensor = body(**taken, attention_mask=mask_BT.long(), return_dict=True).last_hidden_state
    return sequence_BTD


def run_packed(body: Any, architecture: Architecture, inputs: Mapping[str, torch.Tensor], layout: Layout) -> torch.Tensor:
    """Return one vector a real position, all in one row (1, N, D); nothing else is computed.

    Args:
        body: What `Packing.adapt` gave.
        architecture: Its line in the table.
        inputs: Padded (B, T).
        layout: Of the batch.
    """
    taken: dict[str, Any] = {name: layout.pack(inputs[name]) for name in architecture.inputs if name in inputs}
    taken["position_ids"] = layout.pack(_places(body, architecture, inputs["input_ids"]))
    if architecture.causal:
        taken["use_cache"] = False
    with packed_rows(layout):
        sequence_1ND: torch.Tensor = body(**taken, return_dict=True).last_hidden_state
    return sequence_1ND


def in_fixed_blocks(
    run: Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    mask_BT: torch.Tensor,
    length: int | None,
) -> torch.Tensor:
    """Return one vector a position (B, T, D), computed in blocks that always have the same shape.

    Args:
        run: Computes a padded batch.
        inputs: Padded (B, T, ...).
        mask_BT: True where a position is real.
        length: Positions of every block; at least T.
    """
    rows, positions = mask_BT.shape
    more = max(0, (length or positions) - positions)
    parts = []
    for start in range(0, rows, _FIXED_ROWS):
        # The last block is filled up with its own first row.
        taken = [start + place if start + place < rows else start for place in range(_FIXED_ROWS)]
        block = {name: lengthened(values[taken], more) for name, values in inputs.items()}
        found = run(block, lengthened(mask_BT[taken], more))[: rows - start]
        parts.append(found[:, :positions] if more else found)
    return torch.cat(parts)


def lengthened(values: torch.Tensor, more: int) -> torch.Tensor:
    """Return rows with so many more positions at their ends, zero (B, T + more, ...)."""
    return values if not more else torch.cat([values, values.new_zeros((values.shape[0], more, *values.shape[2:]))], dim=1)


def _places(body: Any, architecture: Architecture, ids_BT: torch.Tensor) -> torch.Tensor:
    """Return the number of each position as the architecture counts them (B, T)."""
    rows, positions = ids_BT.shape
    if not architecture.position_offset:
        return torch.arange(positions, device=ids_BT.device).expand(rows, -1)
    # RoBERTa's rule: a padding token has no place of its own, wherever it stands.
    pad = body.config.pad_token_id
    real_BT = (ids_BT != pad).long()
    places_BT: torch.Tensor = real_BT.cumsum(dim=1) * real_BT + pad
    return places_BT


def _difference(body: Any, adapted: Any, architecture: Architecture) -> float:
    """Return the largest difference between padded and packed vectors of a few short rows, relative to the largest vector."""
    mask_BT = _rows_to_try(body.config, architecture).to(next(body.parameters()).device)
    last = int(body.config.vocab_size) - 1
    ids_BT = (
        (torch.arange(mask_BT.numel(), device=mask_BT.device) * 7 % max(1, last - 3) + 3).clamp(max=last).view(mask_BT.shape)
    )
    inputs = {"input_ids": ids_BT, "token_type_ids": torch.zeros_like(ids_BT)}
    layout = layout_of(mask_BT)
    if layout is None:
        raise ValueError("rows that start at the first position have a layout")
    with without_gradients(body):
        padded = run_padded(body, architecture, inputs, mask_BT)[mask_BT]
        packed = layout.unpack(run_packed(adapted, architecture, inputs, layout))[mask_BT]
    return float((padded - packed).abs().max() / padded.abs().max().clamp(min=1e-6))


def _rows_to_try(config: Any, architecture: Architecture) -> torch.Tensor:
    """Return the mask (B, T) of a few short rows, and of one longer than a sliding window where there is one."""
    window = getattr(config, "sliding_window", None) or 0
    limit = int(getattr(config, "max_position_embeddings", None) or _LONGEST_TRIED) - architecture.position_offset
    longest = min(max(window + 8 if window else 0, *_TRIED), _LONGEST_TRIED, limit)
    lengths = torch.tensor([*(min(length, longest) for length in _TRIED), longest])
    return torch.arange(longest) < lengths[:, None]

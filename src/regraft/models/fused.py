"""Several backbones as one: each reads its part of a row, a joining makes one vector of what they give.

Rows that lack a part are not given to its backbone at all; only in a graph that is exported, where rows cannot be picked out,
every backbone computes every row.

Shapes: B rows, T positions of a part, P parts, D width of a part, W width of what comes out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from regraft.models.architectures import Architecture
from regraft.models.backbones import Backbone, Shapes
from regraft.models.blocks import Blocks
from regraft.models.joinings import JOININGS, HeadMaker, Joining, Sizes
from regraft.models.packing import Packing
from regraft.options import JSON
from regraft.types import Features

MASK = "attention_mask"
PACKED = Shapes().kind


@dataclass(frozen=True)
class PartEntry:
    """One part of a fused backbone.

    Args:
        key: Its name in names of arrays and folders.
        backbone: Reads it.
        longest: Most positions of it; None where there is no limit.
        new: Whether its weights are untrained, so that they learn whatever the tuning freezes.
    """

    key: str
    backbone: Backbone
    longest: int | None = None
    new: bool = False


@dataclass(frozen=True)
class FusedBlocks(Blocks):
    """The blocks of all parts. Layers are counted from the last of each: the top two are the top two of every part.

    Args:
        parts: Path of each part, and its blocks.
    """

    parts: tuple[tuple[str, Blocks], ...] = ()

    def layer_of(self, parameter: str) -> int:
        """Return the layer that a parameter belongs to; `len(layers)` after them all."""
        for path, blocks in self.parts:
            if parameter.startswith(f"{path}."):
                inside = blocks.layer_of(parameter.removeprefix(f"{path}."))
                return inside if inside < 0 else inside + len(self.layers) - len(blocks.layers)
        return len(self.layers)


class Fused(nn.Module):
    """Give one vector a row, of several parts.

    Args:
        parts: In the order of the modality's parts.
        style: How they are joined, a name of `joinings.JOININGS`.
        sizes: What the joining is built from.
        seed: Draws its weights; torch's own generator is left as it was.
    """

    convex: ClassVar[bool] = False
    """What joins the parts has hidden layers, and untrained parts learn with it."""

    def __init__(self, parts: Sequence[PartEntry], style: str, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.entries = tuple(dataclasses.replace(part, backbone=None) for part in parts)  # type: ignore[arg-type]
        self.parts = nn.ModuleList(part.backbone for part in parts)
        self.style = style
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.pooling: Joining = JOININGS[style](sizes)
        self.width = self.pooling.width
        self._shapes = Shapes()

    @property
    def provides(self) -> frozenset[str]:
        """What a task may ask of it."""
        return frozenset({"pooled"}) | self.pooling.provides

    @property
    def part_widths(self) -> tuple[int, ...]:
        """Width of the features of each part."""
        return self.pooling.sizes.widths

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the parts in names of arrays."""
        return tuple(entry.key for entry in self.entries)

    @property
    def backbones(self) -> list[Any]:
        """The backbones of the parts."""
        return list(self.parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was found when the parts were opened."""
        return tuple(note for part in self.backbones for note in part.notes)

    @property
    def new(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that are untrained."""
        return ("pooling.", *(f"parts.{place}." for place, entry in enumerate(self.entries) if entry.new))

    @property
    def saved(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that lie in the hub's folders."""
        return tuple(f"parts.{place}.{path}" for place, part in enumerate(self.backbones) for path in part.saved)

    @property
    def blocks(self) -> FusedBlocks:
        """Where the parts can be cut."""
        parts = tuple((f"parts.{place}", part.blocks) for place, part in enumerate(self.backbones))
        deepest = max(parts, key=lambda part: len(part[1].layers))

        def inside(name: str) -> tuple[str, ...]:
            return tuple(f"{path}.{module}" for path, blocks in parts for module in getattr(blocks, name))

        layers = tuple(f"{deepest[0]}.{layer}" for layer in deepest[1].layers)
        return FusedBlocks(inside("embeddings"), layers, inside("final"), parts)

    @property
    def packing(self) -> Packing:
        """Why rows of parts are padded, where they are."""
        reasons = [(key, part.packing.reason) for key, part in zip(self.keys, self.backbones, strict=True)]
        return Packing(reason="; ".join(f"{key}: {reason}" for key, reason in reasons if reason))

    @property
    def architecture(self) -> Architecture:
        """What the network takes, as the line of a table: the arrays of all parts, no mask beside them."""
        inputs = tuple(
            f"{key}__{name}"
            for key, part in zip(self.keys, self.backbones, strict=True)
            for name in (*part.architecture.inputs, MASK)
        )
        return Architecture((), "", inputs=inputs, reads="fusion", masked=False, unused=())

    @property
    def shapes(self) -> Shapes:
        """In what shapes rows are computed."""
        return self._shapes

    @shapes.setter
    def shapes(self, shapes: Shapes) -> None:
        self._shapes = shapes
        for entry, part in zip(self.entries, self.backbones, strict=True):
            part.shapes = dataclasses.replace(shapes, length=entry.longest)

    def axes(self, name: str) -> dict[int, str]:
        """Return which axes of an array may have any length, and what they are called."""
        key, _, own = name.rpartition("__")
        axes: dict[int, str] = self.backbones[self.keys.index(key)].axes(own)
        return {axis: called if not axis else f"{key}__{called}" for axis, called in axes.items()}

    def forward(self, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor) -> Features:
        """Return the features of a batch: one position a row.

        Args:
            inputs: The arrays of all parts.
            mask_BT: Not looked at: each part has its own.
        """
        found, there = [], []
        for key, part in zip(self.keys, self.backbones, strict=True):
            own = {name.removeprefix(f"{key}__"): value for name, value in inputs.items() if name.startswith(f"{key}__")}
            own_mask_BT = own.pop(MASK).bool()
            there_B = own_mask_BT.any(dim=1)
            picks = self._shapes.kind == PACKED
            found.append(_picked(part, own, own_mask_BT, there_B) if picks else _filled(part, own, own_mask_BT, there_B))
            there.append(there_B)
        pooled_BW = self.pooling(found, torch.stack(there, dim=1))
        # The shape, not `len`: a graph that is captured would hold the number of rows fast.
        mask_B1 = torch.ones((pooled_BW.shape[0], 1), dtype=torch.bool, device=pooled_BW.device)
        return Features(sequence_BTD=pooled_BW.unsqueeze(1), mask_BT=mask_B1, pooled_BD=pooled_BW)

    def head(self, task: HeadMaker, dropout: float, seed: int = 0) -> nn.Module:
        """Return the head that a task puts on what comes out, as the joining wants it."""
        return self.pooling.head(task, dropout, seed)

    def spec(self) -> dict[str, JSON]:
        """Return what is not in the hub's folders, as JSON."""
        parts = [
            {"key": entry.key, "longest": entry.longest, "new": entry.new, **part.spec()}
            for entry, part in zip(self.entries, self.backbones, strict=True)
        ]
        sizes = {**vars(self.pooling.sizes), "widths": list(self.pooling.sizes.widths)}
        said = {"parts": parts, "style": self.style, "sizes": sizes}
        return {**said, "provides": sorted(self.provides), "width": self.width}

    def save(self, folder: Path) -> None:
        """Write each part into a folder of its own, as any tool of the hub reads it."""
        for key, part in zip(self.keys, self.backbones, strict=True):
            inside = folder / key
            inside.mkdir(exist_ok=True)
            part.save(inside)

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from a folder that `save` wrote and `spec`; the joining's own weights are not among its files.

        Raises:
            BaseError: A part is not whole, not safe, or not what `spec` names.
        """
        parts = [
            PartEntry(said["key"], Backbone.load(folder / said["key"], said), said["longest"], bool(said["new"]))
            for said in spec["parts"]
        ]
        sizes = Sizes(**{**spec["sizes"], "widths": tuple(spec["sizes"]["widths"])})
        return cls(parts, spec["style"], sizes)


def load_backbone(folder: Path, spec: Mapping[str, JSON]) -> Any:
    """Rebuild a backbone, or several as one, from a folder and what the manifest says of it.

    Raises:
        BaseError: A folder is not whole, not safe, or not of the architecture that `spec` names.
    """
    return Fused.load(folder, spec) if "parts" in spec else Backbone.load(folder, spec)


def _picked(part: Any, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor, there_B: torch.Tensor) -> Features:
    """Return the features of all rows, of which only those that have the part are computed; zeros for the others."""
    rows_N = there_B.nonzero().squeeze(1)
    if len(rows_N) == len(there_B):
        features: Features = part(inputs, mask_BT)
        return features
    rows = len(there_B)
    if not len(rows_N):
        weight = next(part.parameters(), mask_BT.new_zeros(0, dtype=torch.float32))
        nothing_BD = weight.new_zeros((rows, part.width))
        return Features(nothing_BD.unsqueeze(1), mask_BT.new_zeros((rows, 1)), nothing_BD)
    found = part({name: value[rows_N] for name, value in inputs.items()}, mask_BT[rows_N])

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros((rows, *values.shape[1:])).index_copy(0, rows_N, values)

    return Features(spread(found.sequence_BTD), spread(found.mask_BT), spread(found.pooled_BD))


def _filled(part: Any, inputs: Mapping[str, torch.Tensor], mask_BT: torch.Tensor, there_B: torch.Tensor) -> Features:
    """Return the features of all rows, all of them computed; a row that lacks the part is given one position to look at."""
    first_T = torch.arange(mask_BT.shape[1], device=mask_BT.device) == 0
    found: Features = part(inputs, mask_BT | (~there_B[:, None] & first_T))
    zero = found.pooled_BD.new_zeros(())
    return Features(
        torch.where(there_B[:, None, None], found.sequence_BTD, zero),
        found.mask_BT & there_B[:, None],
        torch.where(there_B[:, None], found.pooled_BD, zero),
    )

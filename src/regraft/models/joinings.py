"""How the features of several parts of a row become one vector.

A part that is missing in a row, or that modality dropout leaves out in training, is replaced by a learnt vector (`concat`,
`gated`) or left out of the sum, the attention or the mixture (`weighted`, `early`, `late`). `towers` joins nothing.

Shapes: B rows, P parts, T positions of a part, N positions of all parts, D width of a part, W width of what comes out, H heads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from regraft.types import Features

_LEAST = 1e-30


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a joining is built from.

    Args:
        widths: Width of each part.
        width: Width of what comes out, where the style has one of its own.
        layers: Layers of a transformer over the positions of all parts.
        heads: Its attention heads.
        dropout: Share of numbers dropped inside.
        part_dropout: Share of parts left out in training.
    """

    widths: tuple[int, ...]
    width: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    part_dropout: float = 0.1


class HeadMaker(Protocol):
    """What is needed of a task to put heads on parts."""

    def head(self, width: int, dropout: float, seed: int = 0) -> nn.Module:
        """Return a head for features of a width."""

    def mixed(self, outputs_PBC: torch.Tensor, weights_BP: torch.Tensor) -> torch.Tensor:
        """Return the output whose probabilities are the weighted mean of those of several outputs."""


class Joining(nn.Module, ABC):
    """Turn the features of the parts of a row into one vector.

    Args:
        sizes: What it is built from.
    """

    head_bias: bool = True
    reads_positions: ClassVar[bool] = False
    """Whether it reads every position of a part and not only the one vector that stands for it."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """What it gives a task beside the one vector of a row."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.width = sizes.width

    def forward(self, found: Sequence[Features], there_BP: torch.Tensor) -> torch.Tensor:
        """Return one vector a row (B, W).

        Args:
            found: Features of each part; what stands where a part is missing means nothing.
            there_BP: True where a row has a part.
        """
        return self.joined(found, self.kept(there_BP))

    @abstractmethod
    def joined(self, found: Sequence[Features], there_BP: torch.Tensor) -> torch.Tensor:
        """Return one vector a row (B, W) of the parts that are there."""

    def head(self, task: HeadMaker, dropout: float, seed: int) -> nn.Module:
        """Return the head that a task puts on what comes out."""
        return task.head(self.width, dropout, seed)

    def kept(self, there_BP: torch.Tensor) -> torch.Tensor:
        """Return which parts are used: in training each is left out with a probability, but never all that a row has.

        Modality dropout after Neverova et al. 2015 (ModDrop, arXiv:1501.00102, section 4.2), by parts of single rows; drawn
        from torch's default generator, which the training loop seeds for every step.
        """
        if not self.training or not self.sizes.part_dropout:
            return there_BP
        kept_BP = there_BP & (torch.rand(there_BP.shape, device=there_BP.device) >= self.sizes.part_dropout)
        return torch.where(kept_BP.any(dim=1, keepdim=True), kept_BP, there_BP)


class _Replacing(Joining):
    """Put a learnt vector where a part is missing, and bring all parts to one scale."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in sizes.widths)
        self.absent = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in sizes.widths)
        self.dropout = nn.Dropout(sizes.dropout)

    def vectors(self, found: Sequence[Features], there_BP: torch.Tensor) -> list[torch.Tensor]:
        """Return one vector of each part (B, D), the learnt one where it is missing."""
        return [
            torch.where(there_BP[:, place, None], norm(features.pooled_BD), absent_D)
            for place, (features, norm, absent_D) in enumerate(zip(found, self.norms, self.absent, strict=True))
        ]


class ConcatJoining(_Replacing):
    """The vectors of all parts, one after the other, through one hidden layer: h = GELU(W [x_1; ...; x_P] + b)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.mixing = nn.Linear(sum(sizes.widths), sizes.width)

    def joined(self, found: Sequence[Features], there_BP: torch.Tensor) -> torch.Tensor:
        """Return one vector a row (B, W)."""
        x_BD = torch.cat(self.vectors(found, there_BP), dim=1)
        joined_BW: torch.Tensor = self.dropout(F.gelu(self.mixing(self.dropout(x_BD))))
        return joined_BW


class GatedJoining(_Replacing):
    """A sum in which every part has a gate that sees all parts: h = sum_p sigmoid(V_p [x_1; ...; x_P]) * tanh(W_p x_p).

    The gated multimodal unit of Arevalo et al. 2017 (arXiv:1702.01992, section 3.1, the form for more than two modalities);
    gates and maps have biases here.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.maps = nn.ModuleList(nn.Linear(width, sizes.width) for width in sizes.widths)
        self.gates = nn.ModuleList(nn.Linear(sum(sizes.widths), sizes.width) for _ in sizes.widths)

    def joined(self, found: Sequence[Features], there_BP: torch.Tensor) -> torch.Tensor:
        """Return one vector a row (B, W)."""
        vectors = [self.dropout(x_BD) for x_BD in self.vectors(found, there_BP)]
        all_BD = torch.cat(vectors, dim=1)
        parts = zip(vectors, self.maps, self.gates, strict=True)
        return torch.stack([torch.sigmoid(gate(all_BD)) * torch.tanh(map_(x_BD)) for x_BD, map_, gate in parts]).sum(dim=0)


class WeightedJoining(Joining):
    """A sum with one learnt weight a part: h = sum_p w_p W_p x_p, w the softmax of P numbers over the parts that are there.

    Parts only add up: what none of them says alone (this word, if that number is large) cannot be learnt so.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in sizes.widths)
        self.maps = nn.ModuleList(nn.Linear(width, sizes.width) for width in sizes.widths)
        self.scores_P = nn.Parameter(torch.zeros(len(sizes.widths)))
        self.dropout = nn.Dropout(sizes.dropout)

    def joined(self, found: Sequence[Features], there_BP: torch.Tensor) -> torch.Tensor:
        """Return one vector a row (B, W)."""
        weights_BP = weights_of(self.scores_P, there_BP)
        parts = enumerate(zip(found, self.norms, self.maps, strict=True))
        mapped = [weights_BP[:, place, None] * map_(norm(features.pooled_BD)) for place, (features, norm, map_) in parts]
        joined_BW: torch.Tensor = self.dropout(torch.stack(mapped).sum(dim=0))
        return joined_BW


class EarlyJoining(Joining):
    """The positions of all parts, brought to one width, through a small transformer; a vector of its own gathers the row."""

    reads_positions = True

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in sizes.widths)
        self.maps = nn.ModuleList(nn.Linear(width, sizes.width) for width in sizes.widths)
        self.kind_PW = nn.Parameter(0.02 * torch.randn(len(sizes.widths), sizes.width))
        self.whole_W = nn.Parameter(0.02 * torch.randn(sizes.width))
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)

    def joined(self, found: Sequence[Features], there_BP: torch.Tensor) -> torch.Tensor:
        """Return the vector that gathered each row (B, W)."""
        rows = there_BP.shape[0]
        tokens = [self.whole_W.expand(rows, 1, -1)]
        masks = [there_BP.new_ones((rows, 1))]
        for place, (features, norm, map_) in enumerate(zip(found, self.norms, self.maps, strict=True)):
            tokens.append(map_(norm(features.sequence_BTD)) + self.kind_PW[place])
            masks.append(features.mask_BT & there_BP[:, place, None])
        x_BNW, mask_BN = torch.cat(tokens, dim=1), torch.cat(masks, dim=1)
        for layer in self.layers:
            x_BNW = layer(x_BNW, mask_BN)
        gathered_BW: torch.Tensor = self.norm(x_BNW[:, 0])
        return gathered_BW


class Layer(nn.Module):
    """Norm, attention, residual; norm, twice as wide and back, residual (Xiong et al. 2020, arXiv:2002.04745, figure 1b).

    Args:
        sizes: Width, heads, dropout.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.heads = sizes.heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.taken, self.given = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x_BNW: torch.Tensor, mask_BN: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, N, W); positions that are not real are looked at by none."""
        rows, positions, width = x_BNW.shape
        split = self.taken(self.before(x_BNW)).view(rows, positions, 3, self.heads, width // self.heads)
        query_BHNE, key_BHNE, value_BHNE = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores_BHNN = query_BHNE @ key_BHNE.transpose(2, 3) / math.sqrt(width // self.heads)
        lowest = torch.finfo(scores_BHNN.dtype).min
        shares_BHNN = scores_BHNN.masked_fill(~mask_BN[:, None, None], lowest).softmax(dim=-1)
        seen_BNW = (shares_BHNN @ value_BHNE).transpose(1, 2).reshape(rows, positions, width)
        x_BNW = x_BNW + self.dropout(self.given(seen_BNW))
        next_BNW: torch.Tensor = x_BNW + self.dropout(self.narrow(F.gelu(self.wide(self.after(x_BNW)))))
        return next_BNW


class LateJoining(Joining):
    """Nothing is joined before the heads: each part has one, and their probabilities are mixed (see `LateHead`).

    What comes out holds the vectors of all parts, one after the other, and 1 or 0 for each part that is there or not.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.width = sum(sizes.widths) + len(sizes.widths)

    def joined(self, found: Sequence[Features], there_BP: torch.Tensor) -> torch.Tensor:
        """Return one vector a row (B, W)."""
        vectors = [features.pooled_BD for features in found]
        return torch.cat([*vectors, there_BP.to(vectors[0].dtype)], dim=1)

    def head(self, task: HeadMaker, dropout: float, seed: int) -> nn.Module:
        """Return a head for each part, and what mixes them."""
        heads = [task.head(width, dropout, seed + place) for place, width in enumerate(self.sizes.widths)]
        return LateHead(heads, self.sizes.widths, task.mixed)


class TowersJoining(LateJoining):
    """Nothing is joined at all: each part has a head of its own, and what these give stands side by side (see `TowersHead`)."""

    provides = frozenset({"towers"})

    def kept(self, there_BP: torch.Tensor) -> torch.Tensor:
        """Return every part that is there: a part that is left out would have nothing to be held against."""
        return there_BP

    def head(self, task: HeadMaker, dropout: float, seed: int) -> nn.Module:
        """Return a head for each part."""
        heads = [task.head(width, dropout, seed + place) for place, width in enumerate(self.sizes.widths)]
        return TowersHead(heads, self.sizes.widths)


class TowersHead(nn.Module):
    """A head for each part; the output of a row is what they give, one after the other, zeros where a part is missing.

    Args:
        heads: One a part.
        widths: Width of each part.
    """

    def __init__(self, heads: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.widths = tuple(widths)

    def forward(self, features: Features) -> torch.Tensor:
        """Return the outputs of all parts (B, P times the width of one)."""
        found, there_BP = by_part(self.heads, self.widths, features)
        return torch.cat([output_BC * there_BP[:, place, None] for place, output_BC in enumerate(found)], dim=1)


class LateHead(nn.Module):
    """A head for each part; the probabilities of the row are the weighted mean of theirs.

    A linear opinion pool (Stone 1961, Ann. Math. Statist. 32) whose weights are learnt, over the parts that are there: stacking
    with weights that are positive and add up to one (Breiman 1996, Machine Learning 24, section 2).

    Args:
        heads: One a part.
        widths: Width of each part.
        mixed: Gives the output whose probabilities are the weighted mean of those of several outputs.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        widths: Sequence[int],
        mixed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.widths = tuple(widths)
        self.mixed = mixed
        self.scores_P = nn.Parameter(torch.zeros(len(heads)))

    def forward(self, features: Features) -> torch.Tensor:
        """Return the output (B, ...)."""
        outputs, there_BP = by_part(self.heads, self.widths, features)
        return self.mixed(torch.stack(outputs), weights_of(self.scores_P, there_BP > 0))


def by_part(heads: nn.ModuleList, widths: Sequence[int], features: Features) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what the head of each part gives, and which parts a row has (B, P), 1 or 0.

    Args:
        heads: One a part.
        widths: Width of each part.
        features: As `LateJoining` gives them.
    """
    *vectors, there_BP = torch.split(features.pooled_BD, [*widths, len(widths)], dim=1)
    outputs = []
    for head, x_BD in zip(heads, vectors, strict=True):
        own = Features(sequence_BTD=x_BD.unsqueeze(1), mask_BT=features.mask_BT[:, :1], pooled_BD=x_BD)
        outputs.append(head(own))
    return outputs, there_BP


def weights_of(scores_P: torch.Tensor, there_BP: torch.Tensor) -> torch.Tensor:
    """Return the softmax of the scores over the parts that a row has (B, P); over all where it has none.

    Args:
        scores_P: One number a part.
        there_BP: True where a row has a part.
    """
    used_BP = there_BP | ~there_BP.any(dim=1, keepdim=True)
    lowest = torch.finfo(scores_P.dtype).min
    return torch.where(used_BP, scores_P, lowest).softmax(dim=1)


def log_weights(weights_BP: torch.Tensor) -> torch.Tensor:
    """Return the logarithms of weights, of those that are zero a very small one: its gradient is zero as well."""
    return weights_BP.clamp(min=_LEAST).log()


JOININGS: Mapping[str, type[Joining]] = {
    "concat": ConcatJoining,
    "gated": GatedJoining,
    "weighted": WeightedJoining,
    "early": EarlyJoining,
    "late": LateJoining,
    "towers": TowersJoining,
}

"""Untrained encoders of rows of a table as an ordinary hub model: a residual MLP, and a transformer over columns.

Importing this module registers them with the hub's `AutoConfig` and `AutoModel`, so that a saved folder is an ordinary one.
Both are of Gorishniy et al. 2021 (arXiv:2106.11959): ResNet, section 3.2, and FT-Transformer, section 3.3. Other than there,
the MLP has layer norms in the place of batch norms, so that no row depends on the rows beside it.

Shapes: B rows, V numbers, C categorical columns, K columns, D width, E width of what becomes of one number, H heads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

_NEVER_LEARNT = 2
"""Categories of each column that stand for what training may not have: missing, and other."""
_REGLU = 4 / 3


class TableConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an untrained encoder of tables, under the hub's own names where it has any.

    `number_widths` has the numbers of each column that becomes numbers, `category_sizes` the categories of each other one.
    """

    model_type = "regraft-table"
    number_widths: tuple[int, ...] | list[int] = ()
    category_sizes: tuple[int, ...] | list[int] = ()
    hidden_size: int = 128
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    style: str = "mlp"
    category_size: int = 16
    frequencies: int = 0
    frequency_scale: float = 0.1
    hidden_dropout_prob: float = 0.1


class Waves(nn.Module):
    """Each number as sines and cosines of learnt frequencies, a linear map of its own, and ReLU.

    The embedding PLR of Gorishniy et al. 2022 (arXiv:2203.05556, equations 2 and 3 and section 3.4).

    Args:
        numbers: Numbers V of a row.
        width: Width E of what becomes of one.
        config: For the number of frequencies and their scale.
    """

    def __init__(self, numbers: int, width: int, config: TableConfig) -> None:
        super().__init__()
        self.rates_VF = nn.Parameter(torch.empty(numbers, config.frequencies))
        self.weight_VFE = nn.Parameter(torch.empty(numbers, 2 * config.frequencies, width))
        self.bias_VE = nn.Parameter(torch.empty(numbers, width))
        nn.init.normal_(self.rates_VF, std=config.frequency_scale)
        _spread(self.weight_VFE, 2 * config.frequencies)
        _spread(self.bias_VE, 2 * config.frequencies)

    def forward(self, values_BV: torch.Tensor) -> torch.Tensor:
        """Return a vector a number (B, V, E)."""
        angles_BVF = 2.0 * math.pi * self.rates_VF * values_BV.unsqueeze(2)
        waves_VBF = torch.cat([angles_BVF.cos(), angles_BVF.sin()], dim=2).transpose(0, 1)
        found: torch.Tensor = F.relu((waves_VBF @ self.weight_VFE).transpose(0, 1) + self.bias_VE)
        return found


class Lines(nn.Module):
    """Each number times a vector of its own (arXiv:2106.11959, section 3.3, feature tokenizer; its bias stands elsewhere).

    Args:
        numbers: Numbers V of a row.
        width: Width E of the vectors.
    """

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.weight_VE = nn.Parameter(torch.empty(numbers, width))
        _spread(self.weight_VE, width)

    def forward(self, values_BV: torch.Tensor) -> torch.Tensor:
        """Return a vector a number (B, V, E)."""
        return values_BV.unsqueeze(2) * self.weight_VE


class Categories(nn.Embedding):
    """A vector a category; those for the missing and for the other one are zero until training rows have them.

    Args:
        sizes: Categories of each column.
        width: Width of the vectors.
    """

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__(sum(sizes), width)
        _spread(self.weight, width)
        start = 0
        with torch.no_grad():
            for size in sizes:
                self.weight[start : start + _NEVER_LEARNT] = 0.0
                start += size


class RowEmbeddings(nn.Module):
    """All of a row as one vector.

    Args:
        config: The sizes.
    """

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        numbers, sizes = sum(config.number_widths), tuple(config.category_sizes)
        each = config.category_size if config.frequencies else 1
        self.waves = Waves(numbers, each, config) if config.frequencies and numbers else None
        self.categories = Categories(sizes, config.category_size) if sizes else None
        self.projection = nn.Linear(numbers * each + len(sizes) * config.category_size, config.hidden_size)

    def forward(self, values_BV: torch.Tensor | None, ids_BC: torch.Tensor | None) -> torch.Tensor:
        """Return a vector a row (B, 1, D)."""
        parts = []
        if values_BV is not None:
            parts.append(values_BV if self.waves is None else self.waves(values_BV).flatten(1))
        if self.categories is not None:
            parts.append(self.categories(ids_BC).flatten(1))
        joined_BV = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        x_B1D: torch.Tensor = self.projection(joined_BV).unsqueeze(1)
        return x_B1D


class ColumnEmbeddings(nn.Module):
    """A vector that stands for the whole row, and one a column (arXiv:2106.11959, section 3.3).

    A column of several numbers (a date, a number with the mark that it is missing) is the sum of their vectors.

    Args:
        config: The sizes.
    """

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        widths, sizes, width = tuple(config.number_widths), tuple(config.category_sizes), config.hidden_size
        numbers = sum(widths)
        self.widths = widths
        self.numbers: nn.Module | None = None
        if numbers:
            self.numbers = Waves(numbers, width, config) if config.frequencies else Lines(numbers, width)
        self.categories = Categories(sizes, width) if sizes else None
        self.whole_D = nn.Parameter(torch.empty(width))
        self.column_KD = nn.Parameter(torch.empty(len(widths) + len(sizes), width))
        _spread(self.whole_D, width)
        _spread(self.column_KD, width)

    def forward(self, values_BV: torch.Tensor | None, ids_BC: torch.Tensor | None) -> torch.Tensor:
        """Return vectors of the row and its columns (B, 1 + K, D)."""
        parts = []
        if values_BV is not None and self.numbers is not None:
            parts.append(self._columns(self.numbers(values_BV)))
        if self.categories is not None:
            parts.append(self.categories(ids_BC))
        columns_BKD = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)) + self.column_KD
        whole_B1D = self.whole_D.expand(columns_BKD.shape[0], 1, -1)
        return torch.cat([whole_B1D, columns_BKD], dim=1)

    def _columns(self, numbers_BVD: torch.Tensor) -> torch.Tensor:
        if all(width == 1 for width in self.widths):
            return numbers_BVD
        return torch.stack([part_BVD.sum(dim=1) for part_BVD in torch.split(numbers_BVD, list(self.widths), dim=1)], dim=1)


class ResidualLayer(nn.Module):
    """Norm, twice as wide and back, residual (arXiv:2106.11959, section 3.2, ResNetBlock).

    Args:
        config: The sizes.
    """

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D)."""
        next_BTD: torch.Tensor = x_BTD + self.dropout(self.narrow(self.dropout(F.relu(self.wide(self.norm(x_BTD))))))
        return next_BTD


class ColumnLayer(nn.Module):
    """Attention between columns and a gated MLP, norms first (arXiv:2106.11959, section 3.3 and appendix E).

    The first layer has no norm before its attention, and the MLP is ReGLU of 4/3 the width, as there.

    Args:
        config: The sizes.
        place: Number of the layer, from 0.
    """

    def __init__(self, config: TableConfig, place: int) -> None:
        super().__init__()
        width = config.hidden_size
        inner = max(1, int(width * _REGLU))
        self.heads = config.num_attention_heads
        self.norm = nn.LayerNorm(width) if place else nn.Identity()
        self.wide_norm = nn.LayerNorm(width)
        self.asked, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return the next vectors (B, T, D)."""
        x_BTD = x_BTD + self.joined(self._attended(self.norm(x_BTD)))
        value_BTF, gate_BTF = self.wide(self.wide_norm(x_BTD)).chunk(2, dim=-1)
        next_BTD: torch.Tensor = x_BTD + self.narrow(self.dropout(value_BTF * F.relu(gate_BTF)))
        return next_BTD

    def _attended(self, x_BTD: torch.Tensor) -> torch.Tensor:
        _, columns, width = x_BTD.shape
        split = self.asked(x_BTD).view(-1, columns, 3, self.heads, width // self.heads)
        query, key, value = (part.squeeze(2).transpose(1, 2) for part in split.split(1, dim=2))
        scores_BHTT = (query @ key.transpose(2, 3)) * (width // self.heads) ** -0.5
        found: torch.Tensor = (self.dropout(scores_BHTT.softmax(dim=-1)) @ value).transpose(1, 2).reshape(-1, columns, width)
        return found


def _spread(weight: torch.Tensor, fan: int) -> None:
    """Draw weights as a linear map over so many numbers draws them (arXiv:2106.11959, code)."""
    nn.init.uniform_(weight, -(fan**-0.5), fan**-0.5)


class Style(ABC):
    """How an encoder of tables is built."""

    embeddings: type[nn.Module]

    @staticmethod
    @abstractmethod
    def layer(config: TableConfig, place: int) -> nn.Module:
        """Return one layer: vectors (B, T, D) to vectors (B, T, D)."""


class MlpStyle(Style):
    """A residual MLP over one vector a row."""

    embeddings = RowEmbeddings

    @staticmethod
    def layer(config: TableConfig, place: int) -> nn.Module:
        """Return one layer."""
        return ResidualLayer(config)


class TransformerStyle(Style):
    """Attention between one vector a column."""

    embeddings = ColumnEmbeddings

    @staticmethod
    def layer(config: TableConfig, place: int) -> nn.Module:
        """Return one layer."""
        return ColumnLayer(config, place)


STYLES: Mapping[str, type[Style]] = {"mlp": MlpStyle, "ft-transformer": TransformerStyle}


class TableModel(PreTrainedModel):  # type: ignore[misc]
    """Columns as vectors, layers, a final norm and ReLU; the first vector of a row stands for the whole of it.

    Args:
        config: The sizes.
    """

    config_class = TableConfig
    base_model_prefix = "model"
    main_input_name = "values"

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        style = STYLES[config.style]
        self.embeddings = style.embeddings(config)
        self.layers = nn.ModuleList(style.layer(config, place) for place in range(config.num_hidden_layers))
        self.norm = nn.Sequential(nn.LayerNorm(config.hidden_size), nn.ReLU())
        self.post_init()

    def forward(
        self, values: torch.Tensor | None = None, ids: torch.Tensor | None = None, return_dict: bool = True, **_: Any
    ) -> Any:
        """Return vectors of rows and, where the style has them, of columns.

        Args:
            values: Numbers (B, V); none where no column becomes numbers.
            ids: Categories (B, C), counted through all columns; none where there are no such columns.
            return_dict: Whether the answer is named.
        """
        x_BTD = self.embeddings(values, ids)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        x_BTD = self.norm(x_BTD)
        return BaseModelOutput(last_hidden_state=x_BTD) if return_dict else (x_BTD,)

    def stand_in(self, mask_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return inputs without meaning for rows with this mask."""
        rows, numbers, sizes = mask_BT.shape[0], sum(self.config.number_widths), list(self.config.category_sizes)
        found = {}
        if numbers:
            values = torch.arange(rows * numbers, device=mask_BT.device, dtype=torch.float32).mul(0.7).sin()
            found["values"] = values.view(rows, numbers)
        if sizes:
            sizes_C = torch.tensor(sizes, device=mask_BT.device)
            starts_C = sizes_C.cumsum(0) - sizes_C
            found["ids"] = starts_C + torch.arange(rows, device=mask_BT.device)[:, None] % sizes_C
        return found

    def _init_weights(self, module: nn.Module) -> None:
        """Every module draws its own weights when it is made."""


AutoConfig.register(TableConfig.model_type, TableConfig, exist_ok=True)
AutoModel.register(TableConfig, TableModel, exist_ok=True)

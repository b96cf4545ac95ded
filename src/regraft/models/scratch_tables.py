"""The base `table`: an untrained network for tables by options; kinds and scales are learnt from the training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from regraft.errors import OptionsError, Problem
from regraft.modalities.table import Table, TableOptions
from regraft.models.scratch import Dropout, PoolingName, Width
from regraft.models.untrained import Untrained
from regraft.options import JSON, build, options

if TYPE_CHECKING:
    from regraft.modalities.modality import Modality


@options
class ScratchTableOptions:
    """Sizes of an untrained network for tables."""

    style: Literal["mlp", "ft-transformer"] = "mlp"
    """How a row is read: as one vector, or as one vector a column with attention between them."""

    numbers: Literal["linear", "periodic"] = "linear"
    """How a number enters: as it is, or as sines and cosines of learnt frequencies (slower, often better)."""

    width: Width = 128
    """Width of the vectors; an even number."""

    layers: Annotated[int, Field(ge=1, le=16)] = 3
    """Number of layers."""

    heads: Annotated[int, Field(ge=1, le=64)] = 8
    """Attention heads of a transformer; must divide the width."""

    embedding: Annotated[int, Field(ge=1, le=1024)] = 16
    """Width of the vector of a category, and of a periodic number, in an MLP; a transformer gives them its own."""

    frequencies: Annotated[int, Field(ge=1, le=512)] = 24
    """Learnt frequencies of a periodic number."""

    frequency_scale: Annotated[float, Field(gt=0.0)] = 0.1
    """Deviation of the frequencies at the start, in turns for one deviation of the number."""

    dropout: Dropout = 0.1
    """Share of values dropped inside the network in training."""

    pooling: PoolingName = "cls"
    """Registered name of the pooling; the first vector stands for the whole row."""


class TableBase(Untrained):
    """A network for tables, untrained: a residual MLP or a transformer over columns."""

    Options: ClassVar[type[Any]] = ScratchTableOptions
    modality_name = "table"
    model_type: ClassVar[str] = "regraft-table"
    what: ClassVar[str] = "residual MLP or a transformer over columns (FT-Transformer) for tables, untrained"
    reads_type = Table

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Check the options against each other; there is nothing to fetch.

        Raises:
            OptionsError: The heads do not divide the width.
        """
        sizes = self.options
        if sizes.width % sizes.heads:
            what, expected = "the option 'heads' has a value it cannot take", f"a divisor of the width {sizes.width}"
            raise OptionsError(
                Problem(what=what, where="base.heads", got=str(sizes.heads), expected=expected, fix="change 'heads'")
            )

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return preprocessing with the columns, scales and categories of the training rows."""
        return Table.learn(build(TableOptions, options, owner=Table.name), raws)

    def config(self, modality: Table) -> dict[str, JSON]:
        """Return the hub's configuration as JSON."""
        sizes, layout = self.options, modality.layout
        return {
            "model_type": self.model_type,
            "number_widths": list(layout.widths),
            "category_sizes": list(layout.sizes),
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "style": sizes.style,
            "category_size": sizes.embedding,
            "frequencies": sizes.frequencies if sizes.numbers == "periodic" else 0,
            "frequency_scale": sizes.frequency_scale,
            "hidden_dropout_prob": sizes.dropout,
        }

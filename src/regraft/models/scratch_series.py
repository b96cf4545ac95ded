"""The base `series`: an untrained network for series by options; channels and scale are learnt from the training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from regraft.errors import OptionsError, Problem
from regraft.modalities.series import Series, SeriesOptions, learnt
from regraft.models.scratch import Dropout, PoolingName, Width
from regraft.models.untrained import Untrained
from regraft.options import JSON, build, options

if TYPE_CHECKING:
    from regraft.modalities.modality import Modality


@options
class ScratchSeriesOptions:
    """Sizes of an untrained network for series."""

    style: Literal["mlp", "cnn", "inception", "lstm", "gru", "transformer"] = "cnn"
    """How a layer is built."""

    width: Width = 64
    """Width of the vectors; an even number."""

    layers: Annotated[int, Field(ge=1, le=12)] = 3
    """Number of layers."""

    kernel: Annotated[int | None, Field(ge=1, le=101)] = None
    """Steps that a convolution covers; an odd number. 7 if not given, and from layer to layer the gaps between them double; in
    the style `inception` 39, beside windows of a half and a quarter of it."""

    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Attention heads of a transformer; must divide the width."""

    patch: Annotated[int, Field(ge=1, le=1024)] = 8
    """Steps that a transformer takes together."""

    dropout: Dropout = 0.1
    """Share of values dropped inside the network in training."""

    pooling: PoolingName = "mean"
    """Registered name of the pooling over the steps."""


class SeriesBase(Untrained):
    """A network for series, untrained: MLP, dilated convolutions, InceptionTime, LSTM, GRU or a transformer of patches."""

    Options: ClassVar[type[Any]] = ScratchSeriesOptions
    modality_name = "series"
    model_type: ClassVar[str] = "regraft-series"
    what: ClassVar[str] = (
        "MLP, dilated convolutions, InceptionTime, LSTM, GRU or a transformer of patches over series, untrained"
    )
    reads_type = Series

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Check the options against each other; there is nothing to fetch.

        Raises:
            OptionsError: The kernel is even, or the heads do not divide the width.
        """
        sizes, problems = self.options, []
        if sizes.kernel is not None and sizes.kernel % 2 == 0:
            problems.append(_misfit("kernel", sizes.kernel, "an odd number"))
        if sizes.width % sizes.heads:
            problems.append(_misfit("heads", sizes.heads, f"a divisor of the width {sizes.width}"))
        if problems:
            raise OptionsError(problems)

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return preprocessing with the channels, the distance of times and the scale of the training rows."""
        wanted = build(SeriesOptions, options, owner=Series.name)
        return Series(wanted, learnt(wanted, raws()))

    def config(self, modality: Series) -> dict[str, JSON]:
        """Return the hub's configuration as JSON."""
        sizes = self.options
        return {
            "model_type": self.model_type,
            "num_channels": modality.channels,
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "style": sizes.style,
            "kernel_size": sizes.kernel or 0,
            "patch_size": sizes.patch,
            "num_patches": -(-modality.longest // sizes.patch),
            "hidden_dropout_prob": sizes.dropout,
        }


def _misfit(name: str, value: int, expected: str) -> Problem:
    what = f"the option '{name}' has a value it cannot take"
    return Problem(what=what, where=f"base.{name}", got=str(value), expected=expected, fix=f"change '{name}'")

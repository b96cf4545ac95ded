"""The base `conv`: an untrained network for pictures by options; sizes and colours are learnt from the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from regraft.errors import DataError, OptionsError, Problem
from regraft.modalities import pictures
from regraft.modalities.image import PIXELS, Image, ImageOptions
from regraft.models.scratch import Dropout, PoolingName
from regraft.models.untrained import Untrained
from regraft.options import JSON, build, options

if TYPE_CHECKING:
    from regraft.modalities.modality import Modality

_SAMPLE = 512
_LARGEST_GUESSED = 96
_SMALLEST_STD = 0.01
_PROCESSOR = {"image_processor_type": "ViTImageProcessor"}


@options
class ConvOptions:
    """Sizes of an untrained convolutional network for pictures."""

    style: Literal["plain", "vgg", "resnet", "inception"] = "resnet"
    """How a block is built."""

    widths: Annotated[list[Annotated[int, Field(ge=4, le=4096)]], Field(min_length=1, max_length=7)] = Field(
        default_factory=lambda: [32, 64, 128]
    )
    """Channels of the blocks; from one to the next the map is halved."""

    depth: Annotated[int, Field(ge=1, le=64)] = 1
    """Blocks of each width."""

    norm: Literal["batch", "group"] = "batch"
    """Whether values are normalised over the batch or over groups of channels of one picture."""

    dropout: Dropout = 0.0
    """Share of values dropped after each block in training."""

    pooling: PoolingName = "mean"
    """Registered name of the pooling over the cells of the last map."""


class ConvBase(Untrained):
    """Convolutions over pictures, untrained: plain, VGG-, ResNet- or Inception-like."""

    Options: ClassVar[type[Any]] = ConvOptions
    modality_name = "image"
    model_type: ClassVar[str] = "regraft-conv"
    what: ClassVar[str] = "convolutions over pictures, untrained: plain, VGG-, ResNet- or Inception-like"
    reads_type = Image

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return preprocessing with the size, the channels and the colours of the training pictures."""
        wanted = build(ImageOptions, options, owner=Image.name)
        sample = _sampled(raws())
        if not sample:
            raise DataError(Problem(what="there is no picture to learn from", fix="give training rows with pictures"))
        channels = wanted.channels or (1 if all(map(pictures.is_grey, sample)) else 3)
        side = wanted.size or _side(sample)
        fewest = 2 ** len(self.options.widths)
        if side < fewest:
            what, got = "the pictures are too small for so many widths", f"{side} x {side} pixels"
            expected = f"at least {fewest} x {fewest} for {len(self.options.widths)} widths"
            raise OptionsError(
                Problem(what=what, got=got, expected=expected, fix=f"--set modality.size={fewest}, or fewer widths")
            )
        processor: dict[str, JSON] = {**_PROCESSOR, "size": {"height": side, "width": side}}
        return Image({**processor, **_colours(sample, processor, wanted, channels)}, wanted, channels=channels)

    def config(self, modality: Image) -> dict[str, JSON]:
        """Return the hub's configuration as JSON."""
        return {
            "model_type": self.model_type,
            "num_channels": modality.channels,
            "image_size": modality.steps.height,
            "hidden_sizes": list(self.options.widths),
            "depth": self.options.depth,
            "style": self.options.style,
            "norm": self.options.norm,
            "hidden_dropout_prob": self.options.dropout,
        }


def _sampled(chunks: Iterator[Sequence[Any]]) -> list[Any]:
    """Return at most a few hundred values at equal distances over all of them: rows are often sorted."""
    kept: list[Any] = []
    every, number = 1, 0
    for chunk in chunks:
        for raw in chunk:
            if number % every == 0:
                kept.append(raw)
            number += 1
            if len(kept) > 2 * _SAMPLE:
                kept, every = kept[::2], 2 * every
    return kept


def _side(sample: Sequence[Any]) -> int:
    """Return the shorter side that most pictures have, within what a small network is quick with."""
    counts = Counter(min(pictures.open_picture(raw).size) for raw in sample)
    return min(counts.most_common(1)[0][0], _LARGEST_GUESSED)


def _colours(
    sample: Sequence[Any], processor: Mapping[str, JSON], wanted: ImageOptions, channels: int
) -> dict[str, list[float]]:
    """Return mean and deviation of each channel over the training pictures, 0 to 1."""
    plain = Image(processor, build(ImageOptions, {"size": wanted.size, "resize": wanted.resize}), channels=channels)
    total_C, squares_C, count = np.zeros(channels), np.zeros(channels), 0
    for row in plain.encode(sample):
        values_PC = row.inputs[PIXELS].reshape(-1, channels) / 255.0
        total_C += values_PC.sum(axis=0)
        squares_C += (values_PC**2).sum(axis=0)
        count += len(values_PC)
    mean_C = total_C / count
    std_C = np.sqrt(np.maximum(squares_C / count - mean_C**2, _SMALLEST_STD**2))
    return {"image_mean": np.round(mean_C, 6).tolist(), "image_std": np.round(std_C, 6).tolist()}

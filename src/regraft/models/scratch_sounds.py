"""The base `sound-conv`: an untrained network for recordings by options, over log-mel frames or cepstral coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from regraft.errors import OptionsError, Problem
from regraft.modalities.audio import Audio, AudioOptions
from regraft.models.scratch import Dropout, PoolingName
from regraft.models.untrained import Untrained
from regraft.options import JSON, build, options

if TYPE_CHECKING:
    from regraft.modalities.modality import Modality

_FRAMES = "input_features"


@options
class SoundConvOptions:
    """Sizes of an untrained convolutional network for recordings."""

    width: Annotated[int, Field(ge=8, le=2048)] = 96
    """Width of the vectors."""

    layers: Annotated[int, Field(ge=1, le=64)] = 2
    """Residual convolutions."""

    kernel: Annotated[int, Field(ge=1, le=63)] = 5
    """Positions, of 40 ms each, that a convolution sees; odd."""

    dropout: Dropout = 0.1
    """Share of values dropped after each layer in training."""

    pooling: PoolingName = "mean"
    """Registered name of the pooling over time."""


class SoundConvBase(Untrained):
    """Residual convolutions over frames of the spectrum, untrained."""

    Options: ClassVar[type[Any]] = SoundConvOptions
    modality_name = "audio"
    model_type: ClassVar[str] = "regraft-sound-conv"
    what: ClassVar[str] = "convolutions over frames of recordings, untrained"
    reads_type = Audio

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return preprocessing by the options; nothing is learnt from the training recordings."""
        made = Audio(build(AudioOptions, options, owner=Audio.name))
        if made.front.input != _FRAMES:
            fix = "leave modality.features out, or take log-mel or mfcc"
            raise OptionsError(Problem(what=f"the base '{self.name}' hears frames, not waves", got="wave", fix=fix))
        return made

    def config(self, modality: Audio) -> dict[str, JSON]:
        """Return the hub's configuration as JSON."""
        if not self.options.kernel % 2:
            problem = Problem(what="the kernel is even", where="base.kernel", got=str(self.options.kernel), expected="odd")
            raise OptionsError(problem)
        return {
            "model_type": self.model_type,
            "num_mel_bins": modality.width,
            "hidden_size": self.options.width,
            "num_hidden_layers": self.options.layers,
            "kernel_size": self.options.kernel,
            "hidden_dropout_prob": self.options.dropout,
        }

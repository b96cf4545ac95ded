"""The base `sound-conv`: an untrained network for recordings by options, over log-mel frames or cepstral coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from regraft.errors import OptionsError, Problem
from regraft.modalities.audio import Audio, AudioOptions
from regraft.models.base import Base, BaseCard
from regraft.models.scratch import Dropout, PoolingName
from regraft.options import JSON, build, options, to_json

if TYPE_CHECKING:
    from regraft.modalities.modality import Modality
    from regraft.models.backbones import Backbone

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


class SoundConvBase(Base):
    """Residual convolutions over frames of the spectrum, untrained."""

    Options: ClassVar[type[Any]] = SoundConvOptions
    modality_name = "audio"
    pretrained = False
    model_type: ClassVar[str] = "regraft-sound-conv"

    def card(self) -> BaseCard:
        """Describe the base without importing anything heavy."""
        return BaseCard(
            name=self.name,
            modality=self.modality_name,
            what="convolutions over frames of recordings, untrained",
            parameters=0,
            size_bytes=0,
            licence="Apache-2.0",
            source="made here from options",
            fetched=True,
        )

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """There is nothing to fetch."""

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return preprocessing by the options; nothing is learnt from the training recordings."""
        made = Audio(build(AudioOptions, options, owner=Audio.name))
        if made.front.input != _FRAMES:
            fix = "leave modality.features out, or take log-mel or mfcc"
            raise OptionsError(Problem(what=f"the base '{self.name}' hears frames, not waves", got="wave", fix=fix))
        return made

    def backbone(self, modality: Modality, seed: int) -> Backbone:
        """Return the network with weights drawn from `seed`; torch's own generator is left as it was."""
        import torch

        from regraft.models.architectures import ARCHITECTURES
        from regraft.models.backbones import Backbone, Body, PoolingChoice, make_config

        if not isinstance(modality, Audio):
            raise TypeError(f"'{self.name}' reads recordings, not {type(modality).__name__}")
        config = make_config(self.config(modality), self.name)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            from transformers import AutoModel

            model = AutoModel.from_config(config)
        body = Body(model, ARCHITECTURES[self.model_type])
        return Backbone(body, PoolingChoice(self.options.pooling, "chosen by option", seed))

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

    def origin(self) -> dict[str, JSON]:
        """Return what the manifest records."""
        return {"name": self.name, "source": "from scratch", "options": to_json(self.options), "licence": "Apache-2.0"}

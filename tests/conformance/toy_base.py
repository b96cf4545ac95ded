"""A base in one file: what describes it imports no torch, its network is made when it is first asked for."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from regraft.modalities.series import Series, SeriesOptions, learnt
from regraft.models.architectures import Architecture
from regraft.models.untrained import Untrained
from regraft.options import build, options


@options
class StepsOptions:
    """Sizes of the toy."""

    width: int = 8
    """Width of the vectors."""

    pooling: str = "mean"
    """Registered name of the pooling over the steps."""


class Steps(Untrained):
    """One linear map of each step."""

    Options: ClassVar[type[Any]] = StepsOptions
    modality_name = "series"
    model_type = "toy-steps"
    what = "each step by itself"
    reads_type = Series
    families: ClassVar = {
        "toy-steps": Architecture(
            (), "layers", inputs=("values",), reads="series", unused=(), model=f"{__name__}:network", stacked=False
        )
    }

    def modality(self, options, raws):
        wanted = build(SeriesOptions, options)
        return Series(wanted, learnt(wanted, raws()))

    def config(self, modality):
        return {"model_type": "toy-steps", "hidden_size": self.options.width, "num_channels": modality.channels}


@functools.cache
def network():
    from torch import nn
    from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput

    class StepsConfig(PreTrainedConfig):
        model_type = "toy-steps"
        hidden_size: int = 8
        num_channels: int = 1

    class StepsModel(PreTrainedModel):
        config_class = StepsConfig
        main_input_name = "values"

        def __init__(self, config):
            super().__init__(config)
            self.layers = nn.ModuleList([nn.Linear(config.num_channels, config.hidden_size)])
            self.post_init()

        def forward(self, values, attention_mask=None, return_dict=True, **_):
            return BaseModelOutput(last_hidden_state=self.layers[0](values))

        def _init_weights(self, module):
            pass

    AutoConfig.register("toy-steps", StepsConfig, exist_ok=True)
    AutoModel.register(StepsConfig, StepsModel, exist_ok=True)
    return StepsModel

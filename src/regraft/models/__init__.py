"""Networks: bases and where they come from, backbones, pooling, heads, cuts. Importing this file imports no torch."""

from typing import TYPE_CHECKING

from regraft.models.base import Base, BaseCard
from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.models.pooling import Pooling
    from regraft.models.transform import Transform

BASES: Registry[type[Base]] = Registry(
    "bases",
    {
        "minilm": "regraft.models.catalogue:MiniLM",
        "whisper-tiny-en": "regraft.models.catalogue:WhisperTinyEn",
        "ge2e": "regraft.models.catalogue:Ge2e",
        "efficientnet-lite0": "regraft.models.catalogue:EfficientNetLite0",
        "hub": "regraft.models.hub:HubBase",
        "transformer": "regraft.models.scratch:TransformerBase",
        "lstm": "regraft.models.scratch:LstmBase",
        "gru": "regraft.models.scratch:GruBase",
        "cnn": "regraft.models.scratch:CnnBase",
        "mlp": "regraft.models.scratch:MlpBase",
        "conv": "regraft.models.scratch_pictures:ConvBase",
        "sound-conv": "regraft.models.scratch_sounds:SoundConvBase",
        "series": "regraft.models.scratch_series:SeriesBase",
        "rocket": "regraft.models.rocket:RocketBase",
        "table": "regraft.models.scratch_tables:TableBase",
        "fusion": "regraft.models.fusion:FusionBase",
    },
)

JOINING = "fusion"
"""The base that reads columns of several kinds, where the user names such columns and no base that does."""

POOLINGS: "Registry[type[Pooling]]" = Registry(
    "poolings",
    {
        "cls": "regraft.models.pooling:ClsPooling",
        "mean": "regraft.models.pooling:MeanPooling",
        "last": "regraft.models.pooling:LastPooling",
        "attention": "regraft.models.pooling:AttentionPooling",
        "layer-weighted": "regraft.models.pooling_layers:LayerWeightedPooling",
        "hub-head": "regraft.models.pooling_hub:HubHeadPooling",
        "mean-norm": "regraft.models.pooling_norm:MeanNormPooling",
        "cls-norm": "regraft.models.pooling_norm:ClsNormPooling",
    },
)

TRANSFORMS: "Registry[type[Transform]]" = Registry(
    "transforms",
    {
        "lora": "regraft.models.lora:Lora",
        "dora": "regraft.models.dora:Dora",
        "pissa": "regraft.models.pissa:Pissa",
        "adalora": "regraft.models.adalora:AdaLora",
        "ia3": "regraft.models.ia3:Ia3",
        "prompt": "regraft.models.prompt:Prompt",
        "nf4": "regraft.models.nf4:Nf4",
        "prefix": "regraft.models.prefix:Prefix",
    },
)

__all__ = ["BASES", "JOINING", "POOLINGS", "TRANSFORMS", "Base", "BaseCard"]

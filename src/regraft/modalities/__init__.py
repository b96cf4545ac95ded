"""How raw values become arrays and the way back. Numpy only: the same code prepares rows for training and for inference."""

from regraft.modalities.modality import Modality
from regraft.registry import Registry

MODALITIES: Registry[type[Modality]] = Registry(
    "modalities",
    {
        "dialogue": "regraft.modalities.dialogue:Dialogue",  # before text: as JSON it looks like one
        "text": "regraft.modalities.text:Text",
        "image": "regraft.modalities.image:Image",
        "audio": "regraft.modalities.audio:Audio",
        "series": "regraft.modalities.series:Series",
        "table": "regraft.modalities.table:Table",
        "text-pair": "regraft.modalities.text_pair:TextPair",
        "fusion": "regraft.modalities.fusion:Fusion",
    },
)

__all__ = ["MODALITIES", "Modality"]

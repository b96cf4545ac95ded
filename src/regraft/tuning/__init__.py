"""Which weights learn. One file a tuning."""

from regraft.registry import Registry
from regraft.tuning.tuning import Tuning

TUNINGS: Registry[type[Tuning]] = Registry(
    "tunings",
    {
        "full": "regraft.tuning.full:Full",
        "head": "regraft.tuning.head:Head",
        "top-k": "regraft.tuning.top_k:TopK",
        "gradual": "regraft.tuning.gradual:Gradual",
        "by-part": "regraft.tuning.by_part:ByPart",
        "bitfit": "regraft.tuning.bitfit:BitFit",
        "lora": "regraft.tuning.lora:Lora",
        "rslora": "regraft.tuning.rslora:RsLora",
        "qlora": "regraft.tuning.qlora:Qlora",
        "dora": "regraft.tuning.dora:Dora",
        "pissa": "regraft.tuning.pissa:Pissa",
        "adalora": "regraft.tuning.adalora:AdaLora",
        "ia3": "regraft.tuning.ia3:Ia3",
        "prompt": "regraft.tuning.prompt:Prompt",
        "prefix": "regraft.tuning.prefix:Prefix",
    },
)

__all__ = ["TUNINGS", "Tuning"]

"""What every tuning can be asked for, whichever weights it lets learn."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Field, options

Factor = Annotated[float, Field(gt=0.0)]


@options
class TuningOptions:
    """How fast the parts of a network learn, and which layers begin anew."""

    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each layer learns at so many times the rate of the layer above it, the embeddings as a layer below the first (ULMFiT,
    arXiv:1801.06146; ELECTRA and BEiT take 0.65 to 0.9); 1 for one rate."""

    rates: dict[str, Factor] = Field(default_factory=dict)
    """Part of the network -> by what its learning rate is multiplied: embeddings, layers, final, pooling, adapters, head; of a
    row of several parts also the name of a part."""

    reinit: Annotated[int, Field(ge=0)] = 0
    """Layers, counted from the last, that are drawn anew before they learn: their pretrained weights can be too special for a
    small data set (arXiv:2006.05987 takes 1 to 6)."""

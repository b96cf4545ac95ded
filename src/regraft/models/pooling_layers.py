"""Pooling over the layers of a body in the place of its last one.

Shapes: B rows, L outputs (of the embeddings and of every layer), D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import nn

from regraft.errors import OptionsError, Problem
from regraft.models.architectures import ARCHITECTURES, width_of
from regraft.models.pooling import Pooling


class LayerWeightedPooling(Pooling):
    """A weighted sum over the outputs of the embeddings and of all layers, each averaged over real positions: sum_l w_l h_l.

    w = softmax(s) and s is learnt, as SUPERB probes bodies for sound (Yang et al. 2021, arXiv:2105.01051, section 3) and ELMo
    bodies for text (Peters et al. 2018, arXiv:1802.05365, eq. 1; its factor gamma is left to the head). s starts at zero, where
    all outputs weigh the same. The output of the last layer is what the body gives, after its last norm. The sum and the mean
    over positions are linear: which comes first plays no part.

    Args:
        width: Width D of the vectors.
        outputs: How many there are (L): layers and one.
    """

    over_layers: ClassVar[bool] = True

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width)
        self.scores_L = nn.Parameter(torch.zeros(outputs))

    @classmethod
    def for_body(cls, body: Any, unused: Mapping[str, torch.Tensor], seed: int = 0) -> Self:
        """Return the pooling for the layers of a body.

        Raises:
            OptionsError: The outputs of its layers cannot be summed.
        """
        kind = str(body.config.model_type)
        architecture = ARCHITECTURES[kind]
        if not architecture.stacked:
            problem = Problem(
                what=f"the outputs of the layers of '{kind}' are not vectors of one width at the same positions, one output a "
                "layer: they have no sum",
                where="base.pooling",
                expected="a base all of whose layers are as wide as the last, such as whisper-tiny-en, wav2vec2, bert or vit",
                fix="choose another pooling (regraft list poolings), or such a base",
            )
            raise OptionsError(problem)
        return cls(width_of(body.config), len(body.get_submodule(architecture.layers)._modules) + 1)

    @property
    def weights(self) -> torch.Tensor:
        """What each output weighs (L,), positive; they add up to 1."""
        return self.scores_L.softmax(dim=0)

    def forward(self, sequence_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of each row (B, D).

        Args:
            sequence_BTD: One mean over positions an output (B, L, D), the embeddings first.
            mask_BT: True where a mean is of something (B, L); it counts as zero elsewhere.
        """
        real_BLD = sequence_BTD.masked_fill(~mask_BT.unsqueeze(-1), 0.0)
        return (self.weights.unsqueeze(-1) * real_BLD).sum(dim=1)

"""How the pairs of a batch are told apart: by a softmax over all that could be found, or by a sigmoid of each pair alone.

A part of a row is C numbers: its vector (W), and whatever else a loss learns. Who has the outputs of two parts has their logit.

Shapes: B rows, Q rows that ask, N rows that can be found, W width of the shared space, C numbers of a part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regraft.types import FloatArray

if TYPE_CHECKING:
    import torch


class Pairing(ABC):
    """What follows from the loss that two towers are trained with."""

    temperature: ClassVar[float]
    """What cosines are divided by at the start of training, where it is not said."""
    bias: ClassVar[float | None]
    """What is added to inner products at the start of training, where it is not said; None where nothing ever is."""

    @abstractmethod
    def vectors(self, outputs_XC: FloatArray) -> FloatArray:
        """Return the vectors (..., W) in outputs (..., C) of parts."""

    @abstractmethod
    def total(self, first_BC: torch.Tensor, second_BC: torch.Tensor, same_BB: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch, summed over its rows.

        Args:
            first_BC: Outputs of the first part.
            second_BC: Outputs of the second part.
            same_BB: 1 where two rows belong together, else 0.
        """

    @abstractmethod
    def probabilities(self, asking_QC: FloatArray, found_NC: FloatArray) -> FloatArray:
        """Return how probably each row that asks and each that can be found belong together (Q, N).

        Args:
            asking_QC: Outputs of the part that asks.
            found_NC: Outputs of the other part.
        """

    def cosines(self, asking_QC: FloatArray, found_NC: FloatArray) -> FloatArray:
        """Return the cosines of the vectors of two parts (Q, N); 0 where a vector is all zeros.

        Args:
            asking_QC: Outputs of the part that asks.
            found_NC: Outputs of the other part.
        """
        asking_QW, found_NW = self.vectors(asking_QC), self.vectors(found_NC)
        scales_QN = np.linalg.norm(asking_QW, axis=1)[:, None] * np.linalg.norm(found_NW, axis=1)
        cosines_QN: FloatArray = (asking_QW @ found_NW.T) / np.maximum(scales_QN, np.finfo(np.float64).tiny)
        return cosines_QN


class SoftmaxPairing(Pairing):
    """Each row is to find its own among all rows of the batch, both ways: symmetric InfoNCE.

    -1/2 sum_i [sum_j p_ij log softmax_j(x_i y_j) + sum_j p_ij log softmax_j(x_j y_i)] with p_ij = 1 / |P_i| for the rows
    P_i with the target of row i, else 0. With one row a target this is CLIP's loss (Radford et al. 2021, arXiv:2103.00020,
    figure 3, there a mean over rows); with several it is the bidirectional loss of UniCL (Yang et al. 2022,
    arXiv:2204.03610, equations 3 to 5).

    Example:
        >>> SoftmaxPairing().probabilities(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 3.0]])).tolist()
        [[0.5, 0.5]]
    """

    temperature: ClassVar[float] = 0.07
    bias: ClassVar[float | None] = None

    def vectors(self, outputs_XC: FloatArray) -> FloatArray:
        """Return the outputs: they are the vectors."""
        return outputs_XC

    def total(self, first_BC: torch.Tensor, second_BC: torch.Tensor, same_BB: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch, summed over its rows; see `Pairing.total`."""
        wanted_BB = same_BB / same_BB.sum(dim=1, keepdim=True)
        logits_BB = first_BC @ second_BC.T
        there_B = -(wanted_BB * logits_BB.log_softmax(dim=1)).sum(dim=1)
        back_B = -(wanted_BB * logits_BB.T.log_softmax(dim=1)).sum(dim=1)
        return 0.5 * (there_B + back_B).sum()

    def probabilities(self, asking_QC: FloatArray, found_NC: FloatArray) -> FloatArray:
        """Return how probably each row is the right one and no other of all that can be found (Q, N): rows add up to 1."""
        logits_QN = asking_QC @ found_NC.T
        shifted_QN = np.exp(logits_QN - logits_QN.max(axis=1, keepdims=True))
        shares_QN: FloatArray = shifted_QN / shifted_QN.sum(axis=1, keepdims=True)
        return shares_QN


class SigmoidPairing(Pairing):
    """Each pair of the batch is told to be one or not, by itself: SigLIP's loss.

    -sum_i sum_j log sigmoid(z_ij (x_i y_j + b)) with z_ij = 1 for rows of one target, else -1, and x_i y_j the cosine times t
    (Zhai et al. 2023, arXiv:2303.15343, algorithm 1, there a mean over rows and one row a target; t = 10 and b = -10 at the
    start, both learnt). Each part carries its own share of b as its last number: b is the sum of both.

    Example:
        >>> SigmoidPairing().probabilities(np.array([[2.0, -3.0]]), np.array([[3.0, -3.0], [-1.0, -3.0]])).round(4).tolist()
        [[0.5, 0.0003]]
    """

    temperature: ClassVar[float] = 0.1
    bias: ClassVar[float | None] = -10.0

    def vectors(self, outputs_XC: FloatArray) -> FloatArray:
        """Return the outputs without the shares of the bias."""
        return outputs_XC[..., :-1]

    def total(self, first_BC: torch.Tensor, second_BC: torch.Tensor, same_BB: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch, summed over its rows; see `Pairing.total`."""
        from torch.nn import functional

        logits_BB = first_BC[:, :-1] @ second_BC[:, :-1].T + (first_BC[:, -1:] + second_BC[:, -1])
        return -functional.logsigmoid((2.0 * same_BB - 1.0) * logits_BB).sum()

    def probabilities(self, asking_QC: FloatArray, found_NC: FloatArray) -> FloatArray:
        """Return how probably each pair belongs together (Q, N), whatever else can be found."""
        logits_QN = asking_QC[:, :-1] @ found_NC[:, :-1].T + (asking_QC[:, -1:] + found_NC[:, -1])
        probabilities_QN: FloatArray = np.exp(-np.logaddexp(0.0, -logits_QN))
        return probabilities_QN


PAIRINGS: Mapping[str, type[Pairing]] = {"softmax": SoftmaxPairing, "sigmoid": SigmoidPairing}

__all__ = ["PAIRINGS", "Pairing", "SigmoidPairing", "SoftmaxPairing"]

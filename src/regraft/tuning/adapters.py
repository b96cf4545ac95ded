"""What all tunings with adapters share: the base is frozen, what a transform adds to its linear layers learns.

The base stays as it came, or its linear layers keep their weights in 4 bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.registry import require
from regraft.tuning.options import TuningOptions
from regraft.tuning.parts import new_parameters
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.types import Batch

_LINEAR = "linear"
_FOUR_BITS, _WHOLE_BITS = "nf4", 32


@options
class AdapterOptions(TuningOptions):
    """Where adapters stand."""

    targets: tuple[str, ...] = ()
    """Linear layers to adapt, each by the end of its path ([query, value], or output.dense); all inside the layers of the base
    if none is named."""

    layers: Annotated[int, Field(ge=1)] | None = None
    """Layers of the base with adapters, counted from the last; all if not given. What lies below is computed once a row."""


@options
class LowRankOptions(AdapterOptions):
    """Where adapters stand and how large they are."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """Width of the bottleneck: an adapter of a layer with I inputs and O outputs has rank * (I + O) weights."""

    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """What the adapters add is multiplied with alpha / rank."""

    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of what enters an adapter that is dropped in training."""

    bits: Literal[4, 32] = 32
    """Bits in which the linear layers of the base keep each weight: 4 needs about an eighth of their memory and rounds them
    (NF4 of bitsandbytes, arXiv:2305.14314); adapters of any kind learn beside them."""

    double_quantization: bool = True
    """With 4 bits: keep the scale of each 64 weights in 8 bits too (4.1 instead of 4.5 bits a weight)."""


class AdapterTuning(Tuning):
    """Let what a transform adds to the linear layers of the base learn, and the head; the base itself is frozen.

    Args:
        options: An instance of `Options`.
    """

    transform: ClassVar[str]
    """Registered name of the transform."""

    needs = frozenset({_LINEAR})

    def prepare(self, net: Headed, batches: Iterable[Batch], seed: int) -> None:
        """Put adapters on the linear layers.

        Raises:
            OptionsError: The layers of the base have no linear layers, or not those that were named.
        """
        from regraft.models.adapters import linear_layers
        from regraft.models.transform import apply

        first = list(itertools.islice(batches, 1))
        if _LINEAR not in net.backbone.provides or not linear_layers(net, first):
            raise OptionsError(_nothing_to_adapt(net))
        if self._rounds:
            apply(net, _FOUR_BITS, self.options, first, seed)
        apply(net, self.transform, self.asked(), first, seed)

    def require(self) -> None:
        """Refuse 4 bits where bitsandbytes is not installed.

        Raises:
            MissingExtraError: It is not.
        """
        if self._rounds:
            require("bitsandbytes", needed_by="a base in 4 bits (tuning.bits)", extra="bitsandbytes")

    @property
    def _rounds(self) -> bool:
        return isinstance(self.options, LowRankOptions) and self.options.bits < _WHOLE_BITS

    def asked(self) -> Any:
        """Return what the transform is asked for."""
        return self.options

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of the parameters that did not come with the base."""
        return new_parameters(net)


def _nothing_to_adapt(net: Headed) -> Problem:
    from regraft.tuning import TUNINGS

    able = [name for name in TUNINGS if _LINEAR not in TUNINGS.get(name).needs]
    return Problem(
        what="the layers of the base have no linear layers that adapters could stand beside",
        where="tuning",
        got=f"a base that provides {', '.join(sorted(net.backbone.provides))}",
        expected="a base with linear layers, such as a transformer",
        fix=f"choose another tuning ({', '.join(able)}) or another base",
    )

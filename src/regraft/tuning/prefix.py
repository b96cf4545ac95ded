"""Prefix tuning: keys and values in front of every text learn in every layer, and the head; nothing of the base does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.tuning.options import TuningOptions
from regraft.tuning.parts import new_parameters
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.types import Batch

_KEYS, _LINEAR = "keys", "linear"


@options
class PrefixOptions(TuningOptions):
    """How long the prefix is."""

    tokens: Annotated[int, Field(ge=1, le=4096)] = 20
    """Keys and values in front of every text, in each layer. They take positions of the base: its longest text is so much
    shorter."""


class Prefix(Tuning):
    """Let keys and values in front of every text learn in all layers, and the head; the base is frozen, all of it computed.

    Li and Liang 2021, arXiv:2101.00190; for encoders P-tuning v2, arXiv:2110.07602. More weights than a prompt and a gradient
    that reaches each layer. A prefix cannot be merged. The artifact keeps it as a PEFT folder (`adapter/`) beside the untouched
    base.

    Args:
        options: An instance of `Options`.
    """

    Options = PrefixOptions
    needs = frozenset({_KEYS, _LINEAR})
    neutral = False

    def prepare(self, net: Headed, batches: Iterable[Batch], seed: int) -> None:
        """Put a prefix in front of every text.

        Raises:
            OptionsError: The base reads no text or keeps its keys and values otherwise, or has no room for the prefix.
        """
        from regraft.models.architectures import ARCHITECTURES
        from regraft.models.transform import apply

        if _KEYS not in net.backbone.provides:
            what = (
                "the layers of the base have no keys and values that a prefix could stand in front of, or turn them into others"
            )
            able = ", ".join(sorted(name for name, line in ARCHITECTURES.items() if line.keys_values))
            expected, fix = f"a base of one of the families {able}", "choose another tuning or another base"
            got = f"a base that provides {', '.join(sorted(net.backbone.provides))}"
            raise OptionsError(Problem(what=what, where="tuning", got=got, expected=expected, fix=fix))
        apply(net, "prefix", self.options, batches, seed)

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of the parameters that did not come with the base."""
        return new_parameters(net)

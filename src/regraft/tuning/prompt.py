"""Prompt tuning: vectors in front of every text learn, and the head; nothing of the base does."""

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

_TOKENS = "tokens"


@options
class PromptOptions(TuningOptions):
    """How long the prompt is."""

    tokens: Annotated[int, Field(ge=1, le=4096)] = 20
    """Vectors in front of every text. They take positions of the base: its longest text is so much shorter."""


class Prompt(Tuning):
    """Let vectors in front of every text learn, and the head; the base is frozen, and nothing of it is computed once only.

    Lester et al. 2021, arXiv:2104.08691: it takes a large base and a large rate (--learning-rate 0.03) to come near the other
    tunings. A prompt cannot be merged. The artifact keeps it as a PEFT folder (`adapter/`) beside the untouched base.

    Args:
        options: An instance of `Options`.
    """

    Options = PromptOptions
    needs = frozenset({_TOKENS})
    neutral = False

    def prepare(self, net: Headed, batches: Iterable[Batch], seed: int) -> None:
        """Put a prompt in front of every text.

        Raises:
            OptionsError: The base reads no tokens, or has no room for the prompt.
        """
        from regraft.models.transform import apply

        if _TOKENS not in net.backbone.provides:
            what, fix = (
                "the base reads no tokens that a prompt could stand in front of",
                "choose another tuning or another base",
            )
            got = f"a base that provides {', '.join(sorted(net.backbone.provides))}"
            raise OptionsError(Problem(what=what, where="tuning", got=got, expected="a base that reads text", fix=fix))
        apply(net, "prompt", self.options, batches, seed)

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of the parameters that did not come with the base."""
        return new_parameters(net)

"""Dropout by part: rates of the base that are set anew for a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from regraft.errors import OptionsError, Problem
from regraft.options import Field, options
from regraft.regularizers.regularizer import Regularizer, Scene

if TYPE_CHECKING:
    from regraft.models.net import Headed

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


@options
class DropoutOptions:
    """Rates by part of the backbone; that of the head is `train.dropout`."""

    embeddings: Rate | None = None
    """Of what enters the first layer; as the base has it if not given."""

    attention: Rate | None = None
    """Of the weights of attention; as the base has it if not given."""

    layers: Rate | None = None
    """Of what layers add, and inside their feed-forward parts; as the base has it if not given."""


class Dropout(Regularizer):
    """Set the rates of dropout in the parts of the backbone where the base has dropout, also where its rate is 0.

    Srivastava et al. 2014 (JMLR 15, 1929); in transformers as in Vaswani et al. 2017, arXiv:1706.03762, section 5.4. The base
    itself keeps its rates: they hold for the fit alone.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]] = DropoutOptions

    def check(self, scene: Scene) -> None:
        """Refuse a rate for a part in which the base has no place for dropout.

        Raises:
            OptionsError: There is none, or no rate was given.
        """
        from regraft.regularizers.dropout_places import places

        rates, where = self._rates(), "train.regularize.dropout"
        if not rates:
            what, fix = "no rate was given", "give one, such as --set train.regularize.dropout.layers=0.2"
            raise OptionsError(Problem(what=what, where=where, expected="embeddings, attention or layers", fix=fix))
        found = places(scene.net)
        lacking = [part for part in rates if not found[part]]
        there = [part for part in found if found[part]]
        fix = f"set it where there is one ({', '.join(there)}), or leave it out" if there else "leave it out"
        problems = [
            Problem(what=f"the base has no dropout in its {part} that could be set", where=f"{where}.{part}", fix=fix)
            for part in lacking
        ]
        if problems:
            raise OptionsError(problems)

    def prepared(self, net: Headed) -> Headed:
        """Return a view of the network with these rates."""
        from regraft.regularizers.dropout_places import with_rates

        return with_rates(net, self._rates())

    def _rates(self) -> dict[str, float]:
        """Return the rates that were given, by part."""
        said = self.options
        given = {"embeddings": said.embeddings, "attention": said.attention, "layers": said.layers}
        return {part: rate for part, rate in given.items() if rate is not None}

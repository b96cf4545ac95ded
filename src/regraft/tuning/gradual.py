"""Gradual tuning: the head learns first, on features that are computed once; then more and more of the base learns with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from regraft.errors import OptionsError, Problem
from regraft.models.transform import added_names
from regraft.options import Among, Field, Pick, build, options
from regraft.tuning.head import Head, HeadOptions
from regraft.tuning.options import TuningOptions
from regraft.tuning.top_k import TopK, TopKOptions
from regraft.tuning.tuning import Phase, Tuning

if TYPE_CHECKING:
    from regraft.models.net import Headed
    from regraft.regularizers.regularizer import Regularizer
    from regraft.types import Batch


@options
class GradualOptions(TuningOptions):
    """What learns when."""

    head_epochs: Annotated[int, Field(ge=1)] = 20
    """Epochs in which the head learns alone; cheap, for what lies below it is computed once a row."""

    layers: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Top layers that learn in the phases between the head and the last one, an epoch each: [1, 2, 4]."""

    then: Any = "full"
    """How the base learns in the last phase, for `train.epochs`: the name of a tuning, or a name with options."""


@options
class _Then:
    """A tuning by name."""

    tuning: Annotated[Pick, Among("regraft.tuning:TUNINGS")]
    """The name, or a name with options."""


class Gradual(Tuning):
    """Let the head learn on the frozen base first, then the base from there (LP-FT).

    Kumar et al. 2022, arXiv:2202.10054: a head that is still random pulls the features of the base out of place where training
    rows lie, and nowhere else. Layers in between are unfrozen from the top as in Howard and Ruder 2018, arXiv:1801.06146,
    section 3.3.

    Args:
        options: An instance of `Options`.
    """

    Options = GradualOptions

    def __init__(self, options: GradualOptions) -> None:
        super().__init__(options)
        from regraft.tuning import TUNINGS

        pick = build(_Then, {"tuning": options.then}, owner="tuning.then").tuning
        cls, chosen = pick.resolve(TUNINGS)
        if cls.phases is not Tuning.phases:
            what = f"'{pick.name}' has phases of its own, so that it cannot be the last phase of another"
            fix = "name one that has not, such as full, top-k or lora"
            raise OptionsError(Problem(what=what, where="tuning.then", got=pick.name, fix=fix))
        if sorted(set(options.layers)) != list(options.layers):
            what, fix = "more and more layers learn from phase to phase", "write them in rising order: [1, 2, 4]"
            raise OptionsError(Problem(what=what, where="tuning.layers", got=str(list(options.layers)), fix=fix))
        if options.layers and (options.reinit or getattr(chosen, "reinit", 0)):
            what = "layers that have learnt in a phase in between would be drawn anew for the last one"
            fix = "leave out tuning.layers, or what is drawn anew"
            raise OptionsError(Problem(what=what, where="tuning.reinit", got=str(list(options.layers)), fix=fix))
        self._last: Tuning = cls(chosen)
        self._last_name = pick.name

    def prepare(self, net: Headed, batches: Iterable[Batch], seed: int) -> None:
        """Let the last phase change the structure, where it does; until then nothing of it learns.

        Raises:
            OptionsError: The base has not what the last phase needs.
        """
        self._last.prepare(net, batches, seed)

    def phases(self) -> tuple[Phase, ...]:
        """Return the head, the layers in between, and the last phase."""
        head = Phase(name="head", tuning=_Step(self, Head(HeadOptions())), epochs=self.options.head_epochs)
        between = (self._top(layers) for layers in self.options.layers)
        return (head, *between, Phase(name=self._last_name, tuning=_Step(self, self._last, last=True)))

    def _top(self, layers: int) -> Phase:
        return Phase(name=f"top {layers}", tuning=_Step(self, TopK(TopKOptions(layers=layers))), epochs=1)

    def check(self, net: Headed) -> None:
        """Refuse options that do not fit this network, those of the last phase included.

        Raises:
            OptionsError: One problem each.
        """
        self._last.check(net)
        super().check(net)

    def shares(self, net: Headed) -> dict[str, float]:
        """Return by what peak rates are multiplied: by what is said for all phases, and for the last."""
        found = super().shares(net)
        for name, share in self._last.shares(net).items():
            found[name] = found.get(name, 1.0) * share
        return found

    def follows(self) -> tuple[tuple[str, Regularizer], ...]:
        """Return what follows the training of the last phase."""
        return self._last.follows()

    def begin(self, net: Headed, seed: int) -> None:
        """Draw the layers anew that shall be, before the last phase."""
        super().begin(net, seed)
        self._last.begin(net, seed)

    def trainable(self, net: Headed) -> set[str]:
        """Return what learns in the last phase, which holds all that learns before it.

        Raises:
            OptionsError: The base has fewer layers than a phase wants, or a phase lets something learn that the last does not.
        """
        last = self._last.trainable(net)
        for phase in self.phases()[:-1]:
            if phase.tuning.trainable(net) - last:
                what = f"what learns in the phase '{phase.name}' stands still in the last one, '{self._last_name}'"
                fix = "leave out the layers in between, or let more learn in the last phase (tuning.then)"
                raise OptionsError(Problem(what=what, where="tuning", got=str(list(self.options.layers)), fix=fix))
        return last


class _Step(Tuning):
    """One phase: before the last one nothing that a transform has added learns, and no layer is drawn anew.

    Args:
        whole: What all phases are of.
        own: Says what learns in this one.
        last: Whether it is the last.
    """

    def __init__(self, whole: Gradual, own: Tuning, *, last: bool = False) -> None:
        super().__init__(own.options)
        self._whole, self._own, self._is_last = whole, own, last

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of its weights."""
        names = self._own.trainable(net)
        return names if self._is_last else names - added_names(net)

    def shares(self, net: Headed) -> dict[str, float]:
        """Return by what peak rates are multiplied, in every phase alike."""
        return self._whole.shares(net)

    def follows(self) -> tuple[tuple[str, Regularizer], ...]:
        """Return what follows the training, in the last phase."""
        return self._own.follows() if self._is_last else ()

    def begin(self, net: Headed, seed: int) -> None:
        """Draw layers anew, before the last phase."""
        if self._is_last:
            self._whole.begin(net, seed)

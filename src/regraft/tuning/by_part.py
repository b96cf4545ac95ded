"""By-part tuning: of a row of several parts, each learns in its own way: a text whole, the pictures beside it not at all."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from regraft.errors import OptionsError, Problem, did_you_mean
from regraft.options import Among, Field, Pick, build, options
from regraft.tuning.options import TuningOptions
from regraft.tuning.parts import new_parameters
from regraft.tuning.tuning import Tuning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from regraft.models.net import Headed
    from regraft.types import Batch


@options
class ByPartOptions(TuningOptions):
    """How each part learns."""

    parts: dict[str, Any] = Field(default_factory=dict)
    """Part -> how it learns: the name of a tuning, or a name with options ({name: top-k, layers: 2})."""

    others: Any = "head"
    """How parts learn that are not named, and a base whose rows have no parts."""


@options
class _Chosen:
    """A tuning by name."""

    tuning: Annotated[Pick, Among("regraft.tuning:TUNINGS")]
    """The name, or a name with options."""


class ByPart(Tuning):
    """Let each part of a row learn by a tuning of its own; the head and what joins the parts always learn.

    Args:
        options: An instance of `Options`.
    """

    Options = ByPartOptions

    def __init__(self, options: ByPartOptions) -> None:
        super().__init__(options)
        self._parts = {name: _chosen(said, f"tuning.parts.{name}") for name, said in options.parts.items()}
        self._others = _chosen(options.others, "tuning.others")

    def prepare(self, net: Headed, batches: Iterable[Batch], seed: int) -> None:
        """Look whether the parts that were named are there; nothing is changed.

        Raises:
            OptionsError: A part is not there.
        """
        keys = _keys(net)
        strange = [name for name in self._parts if name not in keys]
        if strange:
            what, expected = f"the base has no part '{strange[0]}'", ", ".join(keys) or "a base of several parts"
            fix = did_you_mean(strange[0], keys) if keys else "leave tuning.parts out"
            raise OptionsError(Problem(what=what, where="tuning.parts", expected=expected, fix=fix))

    def trainable(self, net: Headed) -> set[str]:
        """Return the names of what each part lets learn, of the head, and of what joins the parts.

        Raises:
            OptionsError: A part has fewer layers than its tuning wants.
        """
        if not _keys(net):
            return self._others.trainable(net)
        names = new_parameters(net)
        for place, (_, tuning, alone) in enumerate(self._alone(net)):
            own = tuning.trainable(alone)
            inside = (name.removeprefix("backbone.") for name in own if name.startswith("backbone."))
            names |= {f"backbone.parts.{place}.{name}" for name in inside}
        return names

    def check(self, net: Headed) -> None:
        """Refuse options that do not fit this network, those of the parts' own tunings included.

        Raises:
            OptionsError: One problem each, said of the part.
        """
        problems: list[Problem] = []
        for said, tuning, part in self._alone(net):
            try:
                tuning.check(part)
            except OptionsError as error:
                where = f"tuning.parts.{said}" if said in self._parts else "tuning.others"
                problems += [dataclasses.replace(one, where=f"{where}, {one.where}") for one in error.problems]
        if problems:
            raise OptionsError(problems)
        super().check(net)

    def shares(self, net: Headed) -> dict[str, float]:
        """Return by what peak rates are multiplied: by what is said for all, and for the part alone."""
        found = super().shares(net)
        for place, (_, tuning, part) in enumerate(self._alone(net)):
            for name, share in tuning.shares(part).items():
                path = name.replace("backbone.", f"backbone.parts.{place}.", 1) if _keys(net) else name
                found[path] = found.get(path, 1.0) * share
        return {name: share for name, share in found.items() if share != 1.0}

    def begin(self, net: Headed, seed: int) -> None:
        """Draw the layers anew that shall be, of all parts and of each by itself."""
        super().begin(net, seed)
        for place, (_, tuning, part) in enumerate(self._alone(net)):
            tuning.begin(part, seed + place)

    def _alone(self, net: Headed) -> Iterator[tuple[str, Tuning, Headed]]:
        """Yield the key of each part, its tuning, and a network of it alone, without a head.

        A base without parts is one of the others.
        """
        from torch import nn

        from regraft.models.net import Headed

        if not _keys(net):
            yield "", self._others, net
        fused: Any = net.backbone
        for place, key in enumerate(_keys(net)):
            yield key, self._parts.get(key, self._others), Headed(fused.parts[place], nn.Identity())


def _keys(net: Headed) -> tuple[str, ...]:
    return tuple(getattr(net.backbone, "keys", ()))


def _chosen(said: Any, where: str) -> Tuning:
    from regraft.tuning import TUNINGS

    pick = build(_Chosen, {"tuning": said}, owner=where).tuning
    cls, chosen = pick.resolve(TUNINGS)
    if not _alone_able(cls):
        able = " or ".join(name for name in TUNINGS if _alone_able(TUNINGS.get(name)))
        does = "follows the training" if cls.prepare is Tuning.prepare else "changes the network"
        what = f"'{pick.name}' {does}, which it cannot do for one part alone"
        raise OptionsError(Problem(what=what, where=where, got=pick.name, expected=able, fix="choose one of these"))
    made: Tuning = cls(chosen)
    return made


def _alone_able(cls: type[Tuning]) -> bool:
    return cls.prepare is Tuning.prepare and cls.follows is Tuning.follows

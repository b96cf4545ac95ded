"""What a base is: a pretrained model (or a recipe for an untrained one) before it is fitted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.modalities.modality import Modality
from regraft.options import JSON
from regraft.typed import record

if TYPE_CHECKING:
    from regraft.models.architectures import Architecture
    from regraft.models.backbones import Backbone


@record
class BaseCard:
    """Say what a base is and where it comes from.

    Args:
        name: Registered name, folder or hub id.
        modality: What it reads ("text").
        what: One sentence.
        parameters: Number of weights; 0 where the options decide.
        size_bytes: Bytes on disk once fetched; 0 where nothing is fetched.
        licence: SPDX name, or "unknown".
        source: Where it is fetched from, as a person would look it up.
        fetched: Whether it can be used now without a network.
    """

    name: str
    modality: str
    what: str
    parameters: int
    size_bytes: int
    licence: str
    source: str
    fetched: bool


class Base(ABC):
    """Find, fetch, verify and open one base.

    Args:
        name: The name it was picked by.
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    modality_name: ClassVar[str] = "text"
    pretrained: bool = True
    """Whether the weights come from somewhere; untrained ones learn at another rate."""
    joins: ClassVar[bool] = False
    """Whether it reads columns of several kinds, each by a base of its own."""
    families: ClassVar[Mapping[str, Architecture]] = MappingProxyType({})
    """Lines for the table of architectures (`regraft.models.architectures`) that come with it: name in config.json -> line."""

    def __init__(self, name: str, options: Any) -> None:
        self.name = name
        self.options = options

    @property
    def reads(self) -> str:
        """Registered name of the modality that it reads; known for certain once it is fetched."""
        return self.modality_name

    @abstractmethod
    def card(self) -> BaseCard:
        """Describe the base without fetching or importing anything heavy."""

    @abstractmethod
    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Make sure that everything needed is on this machine, verified; does nothing when it is.

        Raises:
            BaseError: It cannot be fetched (no network), is not what was promised (digest), or is not safe to load.
        """

    def verify(self) -> None:
        """Check every byte of what was fetched; most bases are checked whenever they are opened and have nothing more to do.

        Raises:
            BaseError: A file is missing or is not the one that was fetched.
        """
        self.fetch()

    @abstractmethod
    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return the preprocessing this base was trained with, or one learnt from the training rows.

        Args:
            options: Plain values for the modality's `Options`, laid over what the base itself prescribes.
            raws: Gives the training values again from the start, in chunks; used only by bases without a vocabulary.
        """

    def prepared(
        self, kind: type[Modality], options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]
    ) -> Modality:
        """Return the preprocessing of a modality that the base reads, or of one that is made of it (a pair of texts).

        Args:
            kind: The modality.
            options: As for `modality`; of one that is made of another, `columns` names those that are read together.
            raws: Gives the training values again from the start, in chunks.
        """
        if not kind.over:
            return self.modality(options, raws)
        columns = [str(name) for name in options.get("columns", ())]
        plain = {name: value for name, value in options.items() if name != "columns"}
        return kind.around(self.modality(plain, lambda: (kind.inner(chunk, columns) for chunk in raws())), columns)

    @abstractmethod
    def backbone(self, modality: Modality, seed: int) -> Backbone:
        """Return the network; untrained parts are drawn from `seed`."""

    @abstractmethod
    def origin(self) -> dict[str, JSON]:
        """Return what the manifest records: name, source, revision, digests, licence."""

"""What an exporter is: it writes the network of an artifact in another form. Judging what it wrote is not its business.

Around it, the same for every form (`regraft.exporting`): preprocessing, report, golden rows, card and lineage travel along,
a fresh process without the training stack answers rows from the written folder, and a difference removes it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from regraft.artifact.manifest import FORM_OF_FIT, Manifest
from regraft.artifact.store import Artifact
from regraft.errors import Problem
from regraft.modalities import Modality
from regraft.options import JSON
from regraft.tasks import Task

if TYPE_CHECKING:
    from regraft.models.net import Headed

NETWORK_FOLDER = "network"
"""Where an exported network lies in its folder, unless a format wants its files at the top."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What another machine needs to answer with an artifact as it is.

    Args:
        extra: The extra of regraft that brings the runtime it was judged with.
        packages: Distribution -> version, of everything that decides what it answers.
    """

    extra: str = "train"
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The artifact that is exported, opened.

    Args:
        artifact: On disk, verified.
        modality: Its preprocessing.
        task: Its task, restored.
        net: Its network in evaluation mode on the CPU; None where the artifact is not of the form that `fit` writes.
        name: What the result is called: the last part of the name of its folder.
        needs: What another machine needs to answer with it as it is.
        calibration: Raw values of the user's data that the exporter asked to see (see `Exporter.calibration_rows`).
    """

    artifact: Artifact
    modality: Modality
    task: Task
    net: Headed | None
    name: str
    needs: Needs = field(default_factory=Needs)
    calibration: Sequence[Any] = ()

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.artifact.manifest

    def network(self) -> Headed:
        """Return the network, for exporters that read the form that `fit` writes.

        Raises:
            RuntimeError: The form was not checked before.
        """
        if self.net is None:
            raise RuntimeError(f"an artifact of the form '{self.manifest.network.form}' has no network in PyTorch")
        return self.net


@dataclass(frozen=True, kw_only=True)
class Written:
    """What an exporter wrote.

    Args:
        form: What the files of the network are now.
        runtimes: Registered names of the runtimes that compute them; the first must agree with the source, of the others
            those that do are kept.
        facts: What a runtime must know (see `NetworkEntry.facts`).
        precision: "fp32" must agree within 1e-4 on logits and 1e-5 on probabilities; "reduced" in 99 of 100 answers, with as
            many right ones as the source's interval allows; its golden rows are answered anew.
        notes: Sentences for the user.
    """

    form: str
    runtimes: tuple[str, ...]
    facts: Mapping[str, JSON] = field(default_factory=dict)
    precision: Literal["fp32", "reduced"] = "fp32"
    notes: tuple[str, ...] = ()


class Exporter(ABC):
    """Write the network of an artifact in another form.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    name: ClassVar[str]
    reads: ClassVar[frozenset[str] | None] = frozenset({FORM_OF_FIT})
    """Forms that it can read; None where it takes the network as it is."""
    keeps_transforms: ClassVar[bool] = False
    """Whether what transforms added to the network stays apart from its weights in the form that it writes."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def head_bias(self, source: Source) -> bool | None:
        """Return whether the head that other tools make probabilities with has summands; None where they are given none.

        Where it is not None, a calibrator is put into the weights of the head if it can stand there.
        """
        return None

    @property
    def calibration_rows(self) -> int:
        """How many rows of the user's data it wants to see before it writes; they are not among those it is judged with."""
        return 0

    @property
    def folds(self) -> bool:
        """Whether it is given a network whose weights hold what transforms added."""
        return self.reads is not None and not self.keeps_transforms

    def problems(self, source: Source) -> list[Problem]:
        """Return what stands in the way, before anything is written: a missing package, a network without an exact mapping."""
        return []

    @abstractmethod
    def write(self, source: Source, folder: Path) -> Written:
        """Write the network's files (and whatever else the format wants) into an empty folder.

        Preprocessing (`preprocessing/`), report, golden rows, card and manifest are written around it.

        Raises:
            UsageError: The network has an operator that the format does not know; names it, and a format that has it.
        """

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return what can be seen in the written files without answering rows: a weight that is not the source's."""
        return []

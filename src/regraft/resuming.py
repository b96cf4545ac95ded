"""Go on with a fit that was interrupted: what it was asked for, and whether this is the same one."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import MachineError, Problem, UsageError
from regraft.options import JSON, merge, respelt, to_json
from regraft.planning import Plan
from regraft.recipe import Recipe
from regraft.training.event_log import EVENTS
from regraft.training.stages import Stages
from regraft.training.threads import default_threads
from regraft.verbs import FitOptions
from regraft.version import __version__

if TYPE_CHECKING:
    from torch import nn

    from regraft.artifact.manifest import LineageEntry
    from regraft.artifact.run import RunFolder
    from regraft.artifact.run_keeper import RunKeeper
    from regraft.artifact.store import Artifact
    from regraft.training.checkpoint import Turn

_FREE = (("out",), *(("machine", name) for name in ("checkpoint", "recompute", "offload", "guard")))
"""Options that change nothing of the result."""


class Run:
    """One fit, from its first look at the place of the artifact until that stands.

    Args:
        folder: Locked by this process.
        asked: What was asked for, as JSON, to be read by whoever goes on.
        resumed: Whether going on was asked for.

    `lineage` is what the fit started from, if that was something that was fitted.
    """

    def __init__(self, folder: RunFolder, asked: Mapping[str, JSON], *, resumed: bool) -> None:
        from regraft.artifact.run import left_at

        self.folder, self.asked, self.resumed = folder, asked, resumed
        left = left_at(folder.place)
        self.was: Mapping[str, Any] = left.about if left else {}
        self.identity: Mapping[str, JSON] = {}
        self.going_on = False
        self.arithmetic: dict[str, Any] = {}
        self.lineage: tuple[LineageEntry, ...] = ()

    @property
    def events(self) -> Path:
        """Where the events of training are while it runs, and until the artifact stands."""
        return self.folder.folder / EVENTS

    def examine(self, plan: Plan, stages: Stages) -> int:
        """Find out whether checkpoints that are there are of this fit, and give up those that are not.

        Returns:
            Number of the training that the fit goes on with; those before it are over.

        Raises:
            UsageError: Going on was asked for, and this is another fit.
        """
        from regraft.artifact.run_keeper import goes_on, turn_of

        self.identity = {**identity(plan), "start": self.lineage[-1].digest if self.lineage else None}
        self.going_on = goes_on(self.was.get("identity"), self.identity, plan.wanted.out, asked=self.resumed)
        if self.folder.steps() and not self.going_on:
            stages.note("an interrupted fit of other rows or options was kept here: it is given up", "warning")
            self.folder.forget()
        if not self.going_on:
            return 0
        self.arithmetic = dict(self.was["arithmetic"])
        newest = self.folder.newest(lambda _: None)
        return 0 if newest is None else turn_of(newest)

    def computed(self, turn: Turn) -> Mapping[str, Any]:
        """Return how a training of the interrupted fit was computed (number format, micro-batch), which another measurement of
        the machine must not change; nothing where it had not begun.
        """
        found: Mapping[str, Any] = self.arithmetic.get(str(turn.number), {})
        return found

    def require_room(self, net: nn.Module, checkpoint_bytes: int = 0, files_bytes: int = 0) -> None:
        """Refuse to begin where there is no room for what the fit writes.

        Args:
            net: The whole network.
            checkpoint_bytes: Of one checkpoint.
            files_bytes: Of the state of the optimiser, where it lies in files.

        Raises:
            MachineError: There is not.
        """
        from regraft.artifact.room import require

        number = 1 if self.folder.steps() else 2  # one stands while the next is written
        parts = {"the artifact": self._artifact_bytes(net), "checkpoints": number * checkpoint_bytes}
        require(self.folder.place, {**parts, "the state of the optimiser": files_bytes})

    def _artifact_bytes(self, net: nn.Module) -> int:
        from regraft.artifact.room import with_small_files

        return with_small_files(sum(value.nbytes for value in net.state_dict().values()))

    def written(self, write: Callable[[], Artifact], net: nn.Module, plan: Plan, stages: Stages) -> Artifact:
        """Write the artifact; wait for room where the disk is full.

        Raises:
            MachineError: There was none in time; says how to go on.
        """
        from regraft.artifact.room import Waiting, patient

        out, kept = self.folder.place, bool(self.folder.steps())
        again = f"free some space, then: regraft fit --resume {out} (nothing is learnt again)"
        waiting = Waiting(
            place=out,
            need_bytes=self._artifact_bytes(net),
            wait_s=plan.wanted.machine.checkpoint.wait_s,
            resume=again if kept else "free some space, then run the same command again",
            note=stages.note,
        )
        return patient(write, waiting)

    @contextmanager
    def keeper(self, plan: Plan, turn: Turn, arithmetic: Mapping[str, JSON], stages: Stages) -> Iterator[RunKeeper]:
        """Give what keeps the state of training, and goes on from what was kept; signals stop training inside the block.

        Args:
            plan: That was examined.
            turn: Which training of the fit it is.
            arithmetic: How it is computed.
            stages: Told what a person should know.
        """
        from regraft.artifact.run_keeper import RunKeeper
        from regraft.training.checkpoint import Stop, stopping

        self.arithmetic[str(turn.number)] = dict(arithmetic)
        said = {"identity": self.identity, "arithmetic": self.arithmetic, "task": to_json(plan.task.state())}
        self.folder.describe({**self.asked, **said})
        with stopping(Stop()) as stop:
            options, going_on = plan.wanted.machine.checkpoint, self.going_on
            keeper = RunKeeper(self.folder, options, stop=stop, note=stages.note, going_on=going_on, turn=turn)
            try:
                yield keeper
            except MachineError as error:
                keeper.wait()
                raise keeper.resumable(error) from error
            finally:
                keeper.wait()


def run_of(
    place: Path, wanted: FitOptions, data: Any, recipe: Recipe | None, start_from: str | Path | None, *, resumed: bool
) -> Run:
    """Return the run of a fit; its folder is a context manager, to be entered first."""
    from regraft.artifact.run import RunFolder

    named = str(data) if isinstance(data, str | os.PathLike) else None
    asked: dict[str, JSON] = {"data": named, "folder": str(Path.cwd()), "options": to_json(wanted)}
    asked["recipe"] = to_json(recipe.content) if recipe else None
    asked["start_from"] = None if start_from is None else str(Path(start_from).expanduser().resolve())
    return Run(RunFolder(place), asked, resumed=resumed)


def as_it_was(
    out: str | Path, data: Any, options: Mapping[str, Any]
) -> tuple[Any, dict[str, Any], Recipe | None, str | Path | None]:
    """Return data, options, recipe and parent of the fit that was interrupted at a place; what is given beside it wins.

    Raises:
        UsageError: None was, it was started in another folder, or its data were an object that is not given.
    """
    from regraft.artifact.run import left_at
    from regraft.artifact.run_keeper import left_or_refused

    place = Path(out).expanduser().resolve()
    about = left_or_refused(left_at(place), str(out)).about
    if data is None:
        data = about["data"]
        if data is None:
            what, fix = "the interrupted fit was given its rows as an object", "give the same rows: fit(rows, resume=OUT)"
            raise UsageError(Problem(what=what, where=str(out), fix=fix))
        if about["folder"] != str(Path.cwd()):
            what, fix = "the interrupted fit was started in another folder", f"cd {about['folder']}, then the same command"
            raise UsageError(Problem(what=what, where=str(out), got=str(Path.cwd()), expected=about["folder"], fix=fix))
    recipe = Recipe(content=about["recipe"], data=None, options={}) if about.get("recipe") else None
    layers = [about["options"], {**options, "out": str(out)}]
    return data, merge(respelt(FitOptions, layer) for layer in layers), recipe, about.get("start_from")


def identity(plan: Plan) -> dict[str, JSON]:
    """Return everything that decides the bytes of a fit: rows, options, base, versions, machine."""
    import numpy as np
    import torch

    from regraft.training.machine import instructions

    options = to_json(plan.wanted)
    for path in _FREE:
        functools.reduce(lambda found, name: found[name], path[:-1], options).pop(path[-1], None)
    origin = plan.base.origin()
    versions = {
        "regraft": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    threads = plan.wanted.machine.threads or default_threads()
    machine = {"threads": threads, "instructions": instructions(), "byteorder": sys.byteorder}
    rows = {"fingerprint": to_json(plan.dataset.fingerprint), "preprocessing": plan.preprocessing}
    return {"options": options, "base": to_json(origin), "versions": versions, "machine": machine, "rows": rows}

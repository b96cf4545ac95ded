"""Keep checkpoints of a fit in its run folder: as often as costs little, and when somebody asks to stop.

Training waits until the files of a checkpoint are handed to the system; syncing them, which waits for the disk alone, goes on
beside it. A checkpoint that cannot be written costs no more than itself: training goes on, and the one before it stands.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from regraft.errors import InterruptedRunError, MachineError, Problem, UsageError
from regraft.options import JSON
from regraft.training.checkpoint import State, Stop, Turn
from regraft.training.event_log import EVENTS, EventLog

if TYPE_CHECKING:
    from regraft.artifact.run import RunFolder, Staged
    from regraft.training.options import CheckpointOptions

TURN = "turn"
"""Among the facts of a checkpoint: which training of the fit it is of."""
FIRST = Turn()
SHARE = 0.02
"""Share of the time of training that checkpoints may take where nobody says how often."""
FIRST_S = 20.0
"""Seconds of training that may be lost where checkpoints cost less."""
WORTH_S = 10.0
"""Seconds of training from which on it is kept what it ended with."""
ENDED = "ended"
"""Among the facts of a checkpoint: nothing is left to learn, and it holds weights alone."""
EVENTS_END = "events"
"""Among the facts of a checkpoint: how long the file of events was."""
_SAFETY = 1.1
_SHOWN = 5


class RunKeeper:
    """Keep the state of training in a run folder.

    Args:
        run: The folder, locked.
        options: How often, and how many stay; as often as `SHARE` allows if it does not say.
        stop: Whether somebody asked to stop.
        note: Told what a person should know, and how grave it is.
        going_on: Whether checkpoints that are there are of this very fit.
        turn: Which training of the fit it is; steps that it is told count from its beginning, those on disk from that of
            the fit.
        clock: Seconds since some moment.

    `log` takes the events of training, so that they lie beside the checkpoints.
    """

    def __init__(
        self,
        run: RunFolder,
        options: CheckpointOptions,
        *,
        stop: Stop,
        note: Callable[[str, str], None],
        going_on: bool,
        turn: Turn = FIRST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.every, self.number = run, options.every, options.keep
        self.stop, self.note = stop, note
        self.going_on, self.turn, self.clock = going_on, turn, clock
        self.log = EventLog(run.folder / EVENTS)
        self.last = self.first = 0
        self.cost_s = 0.0
        self._began = self._since = clock()
        self._looked = False
        self._found: State | None = None
        self._writing: threading.Thread | None = None
        self._failed: OSError | None = None
        self._log_failed = False

    def ended(self) -> State | None:
        """Return what training ended with, where nothing is left to learn; to be asked before `begin`."""
        self._looked, self._found = True, self._newest()
        return self._found if self._found is not None and ENDED in self._found.facts else None

    def begin(self) -> State | None:
        """Return the newest whole checkpoint, where those in the folder are of this fit and this training."""
        self._began = self._since = self.clock()
        state, self._found = self._found if self._looked else self._newest(), None
        self._looked = False
        return state

    def _newest(self) -> State | None:
        if not self.going_on:
            if self.turn == FIRST:
                self.run.forget()
                self.log.truncate(0)
            return None
        state = self.run.newest(lambda text: self.note(text, "warning"))
        if state is None or turn_of(state) != self.turn.number:
            # A later training whose first checkpoint is still to come: the one before it has set the log right.
            if self.turn == FIRST:
                self.log.truncate(0)
            return None
        end: Any = state.facts.get(EVENTS_END, 0)
        self.log.truncate(end)
        self.last = self.first = state.step
        said = "what it learnt is kept" if ENDED in state.facts else "where this fit was interrupted"
        self.note(f"going on after step {state.step}, {said}", "info")
        return State(state.step - self.turn.first, state.tensors, state.facts)

    def due(self, step: int) -> bool:
        """Return whether to keep the state after so many updates, or to stop."""
        if self.stop.asked:
            return True
        if self.turn.first + step <= self.last or not self.number:
            return False
        if self.every is not None:
            return (self.turn.first + step) % self.every == 0
        return self.clock() - self._since >= max(FIRST_S, self.cost_s / SHARE)

    def keep(self, state: State) -> None:
        """Write a checkpoint.

        Raises:
            InterruptedRunError: Somebody asked to stop; says after which step training can go on.
        """
        state = self._whole(state)
        if self.stop.asked or self.every is not None:
            self.wait()
        if self._writing is None or not self._writing.is_alive():
            self.wait()
            if state.step > self.last and self.number:
                self._save(state)
        if self.stop.asked:
            self.wait()
            raise self._stopped(state.step)

    def end(self, state: State) -> None:
        """Keep what training ended with, so that whatever fails after it is done again without it.

        Not where learning it again takes less than `WORTH_S` seconds, unless checkpoints were asked for.

        Raises:
            InterruptedRunError: Somebody asked to stop in the last update.
        """
        self.wait()
        worth = self.every is not None or self.clock() - self._began >= WORTH_S
        state = self._whole(state)
        if self.number and (worth or self.stop.asked):
            self._save(State(state.step, state.tensors, {**state.facts, ENDED: True}))
            self.wait()
        if self.stop.asked:
            raise self._stopped(state.step)

    def _whole(self, state: State) -> State:
        return State(self.turn.first + state.step, state.tensors, {**state.facts, TURN: self.turn.number})

    def wait(self) -> None:
        """Wait for the disk, and tell if it failed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            self._tell(failed)

    def resumable(self, error: MachineError) -> MachineError:
        """Return an error that also says how to go on, where something is kept."""
        if not self.last:
            return error
        kept = f"what was learnt in {self.last} steps is kept: go on with: regraft fit --resume {self.run.place}"
        return MachineError(
            [dataclasses.replace(each, fix=f"{each.fix}; {kept}" if each.fix else kept) for each in error.problems]
        )

    def _save(self, state: State) -> None:
        began = self._since = self.clock()
        needed = _SAFETY * sum(value.numel() * value.element_size() for value in state.tensors.values())
        try:
            free = shutil.disk_usage(self.run.folder).free
            while free < needed and self.run.make_room():
                free = shutil.disk_usage(self.run.folder).free
            if free < needed:
                self.note(
                    f"{self._none_of(state.step)}: it takes {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free", "warning"
                )
                return
            staged = self.run.stage(State(state.step, state.tensors, {**state.facts, EVENTS_END: self._events_end()}))
        except OSError as error:
            self._tell(error, state.step)
            return
        self._writing = threading.Thread(target=self._finish, args=(staged, began), name="regraft-checkpoint")
        self._writing.start()

    def _events_end(self) -> int:
        end = self.log.position
        if self.log.failure and not self._log_failed:
            self.note(f"events cannot be written to {EVENTS}, training goes on: {self.log.failure}", "warning")
        self._log_failed = bool(self.log.failure)
        return end

    def _finish(self, staged: Staged, began: float) -> None:
        try:
            if self.log.path.exists():
                self.run.files.sync(self.log.path)
            self.run.finish(staged, self.number)
        except OSError as error:
            self._failed = error
            return
        self.last, self.cost_s = staged.step, self.clock() - began

    def _none_of(self, step: int | None) -> str:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        stands = f"that of step {self.last} stands" if self.last else "there is none yet"
        return f"{what} cannot be written, {stands}, training goes on"

    def _tell(self, error: OSError, step: int | None = None) -> None:
        self.note(f"{self._none_of(step)}: {error.strerror or error}", "warning")

    def _stopped(self, step: int) -> InterruptedRunError:
        where = f"{self.stop.asked} after step {step}"
        if not self.last:
            problem = Problem(what="interrupted; no state of training could be kept", where=where, fix="run the command again")
            return InterruptedRunError(problem)
        what = f"interrupted; what was learnt in {self.last} steps is kept"
        return InterruptedRunError(Problem(what=what, where=where, fix=f"go on with: regraft fit --resume {self.run.place}"))


def turn_of(state: State) -> int:
    """Return the number of the training of a fit that a checkpoint is of."""
    number: Any = state.facts.get(TURN, 0)
    return int(number)


def differences(was: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """Return where two nested mappings differ: path, one value, the other.

    Example:
        >>> differences({"train": {"epochs": 3}, "seed": 0}, {"train": {"epochs": 5}, "seed": 0})
        [('train.epochs', 3, 5)]
    """
    found: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys([*was, *now]):
        one, other = was.get(name), now.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{path}{name}.")
        elif one != other:
            found.append((f"{path}{name}", one, other))
    return found


def goes_on(was: Mapping[str, JSON] | None, now: Mapping[str, JSON], place: str, *, asked: bool) -> bool:
    """Return whether checkpoints of one fit are those of another: the same rows, options, base, versions and machine.

    Args:
        was: What decides the bytes of the fit that was interrupted; nothing where there was none.
        now: The same of this one.
        place: Where the artifact will stand.
        asked: Whether going on was asked for.

    Raises:
        UsageError: It was asked for, and they differ; says in what.
    """
    changed = [] if was is None else differences(was, now)
    if not asked or (was is not None and not changed):
        return was is not None and not changed
    problems = [
        Problem(
            what="this is not the fit that was interrupted, so that it cannot go on",
            where=f"{place}, {name}",
            got=str(other)[:200],
            expected=str(one)[:200],
            fix=(
                "leave this as it was, or begin a new fit from what this one learnt, with other rows or options: regraft fit "
                f"DATA --start-from {place} --out OTHER; without --resume it is fitted anew, and what it learnt is given up"
            ),
        )
        for name, one, other in changed[:_SHOWN]
    ]
    raise UsageError(problems or [_nothing_left(place)])


def _nothing_left(place: str) -> Problem:
    what, fix = "no fit was interrupted here", "name the --out of a fit that was, or fit without --resume"
    return Problem(what=what, where=place, fix=fix)


def left_or_refused(left: Any, place: str) -> Any:
    """Return what an interrupted fit left.

    Raises:
        UsageError: It left nothing.
    """
    if left is None:
        raise UsageError(_nothing_left(place))
    return left

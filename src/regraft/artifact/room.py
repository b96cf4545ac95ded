"""Room on a disk: looked at before the work begins, waited for where the work is done.

    require(place, {"the artifact": 91_000_000, "two checkpoints": 540_000_000})
    artifact = patient(write, Waiting(place, 91_000_000, wait_s=600, note=note))

A checkpoint that cannot be written is not waited for: training goes on, the one before it stands, and the next one is tried
when it is due; a pause would lose as much time as the crash that it guards against. The artifact is waited for: all that is
left to do is to write it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from regraft.artifact.files import NO_ROOM, errno_of
from regraft.errors import MachineError, Problem

EVERY_S = 5.0
"""Seconds between two looks at a disk that is full."""
_SMALL = 16_000_000  # what lies beside weights: a tokenizer, reports, golden rows
FoundT = TypeVar("FoundT")


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How room is waited for.

    Args:
        place: What is written.
        need_bytes: Room that it takes.
        wait_s: Seconds after which it is given up.
        resume: What to do then.
        note: Told what is waited for.
        clock: Seconds since some moment.
        sleep: Waits so many seconds.
    """

    place: Path
    need_bytes: int
    wait_s: float
    resume: str
    note: Callable[[str, str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def with_small_files(weights_bytes: int) -> int:
    """Return the room that an artifact takes whose weights take so many bytes."""
    return weights_bytes + weights_bytes // 50 + _SMALL


def require(place: Path, parts: Mapping[str, int]) -> None:
    """Refuse to begin where there is not enough room.

    Args:
        place: Where the artifact will stand; its run folder stands beside it.
        parts: What will be written -> its bytes.

    Raises:
        MachineError: The file system has less free than that; names each part.
    """
    free, need = _free(place), sum(parts.values())
    if free is None or free >= need:
        return
    listed = ", ".join(f"{name} {_mb(size)}" for name, size in parts.items() if size)
    fix = "free some space, choose an --out on another file system, or keep fewer checkpoints (machine.checkpoint.keep)"
    what = "there is not enough free space for what this fit writes"
    got = f"{_mb(free)} free"
    raise MachineError(Problem(what=what, where=str(_above(place)), got=got, expected=f"{_mb(need)}: {listed}", fix=fix))


def patient(do: Callable[[], FoundT], waiting: Waiting) -> FoundT:
    """Write something, again and again as long as the disk or a quota is full.

    Args:
        do: Writes it whole or not at all.
        waiting: How long, and who is told.

    Returns:
        What `do` returned.

    Raises:
        MachineError: There was no room in time, or the machine refused for another reason.
    """
    until = waiting.clock() + waiting.wait_s
    told = False
    while True:
        try:
            return do()
        except MachineError as error:
            if errno_of(error) not in NO_ROOM:
                raise
            if waiting.clock() >= until:
                raise MachineError(_no_room(error, waiting)) from error
        if not told:
            waiting.note(_pausing(waiting), "warning")
            told = True
        while waiting.clock() < until:
            waiting.sleep(EVERY_S)
            free = _free(waiting.place)
            if free is None or free >= waiting.need_bytes:
                break  # a quota is not seen from here: it is tried


def _pausing(waiting: Waiting) -> str:
    free = _free(waiting.place)
    there = "" if free is None else f", {_mb(free)} are free"
    return (
        f"the disk or your quota is full: writing to '{waiting.place.parent}' takes {_mb(waiting.need_bytes)}{there}; nothing "
        f"is lost: it is tried every {EVERY_S:.0f} seconds for up to {waiting.wait_s:,.0f} seconds"
    )


def _no_room(error: MachineError, waiting: Waiting) -> Problem:
    first = error.problems[0]
    what = f"there was no room within {waiting.wait_s:,.0f} seconds: {first.what}"
    return Problem(what=what, where=first.where, got=first.got, expected=_mb(waiting.need_bytes), fix=waiting.resume)


def _above(place: Path) -> Path:
    return next((folder for folder in (place, *place.parents) if folder.is_dir()), Path(place.anchor))


def _free(place: Path) -> int | None:
    try:
        return shutil.disk_usage(_above(place)).free
    except OSError:
        return None


def _mb(size: int) -> str:
    return f"{-(-size // 10**6):,} MB"

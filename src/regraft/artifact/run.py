"""The folder of a fit that is not finished: who works on it, what was asked for, and the states that training was in.

    .NAME.run/                      beside the place of the artifact NAME; gone once that stands
        lock                        held by the process that fits, by the system's own lock: it is free again when that dies
        run.json                    what was asked for
        events.jsonl                the events of training so far (`regraft.training.event_log`)
        00000120/                   a checkpoint: state.safetensors, state.json, manifest.json (sizes and sha256), in this order

A checkpoint appears whole or not at all: files into a hidden folder -> sync each -> manifest last -> sync -> rename -> sync the
parent. It is never written over. What is read was verified: one that is damaged is passed over, with a warning, for the one
before it. Only safetensors and JSON are read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from regraft.artifact.files import FILES, Files, alive, machine_errors, owner, stage_name, sweep_stages
from regraft.errors import Problem, UsageError
from regraft.options import JSON
from regraft.training.checkpoint import State

if TYPE_CHECKING:
    import torch

LOCK, ABOUT, TENSORS, FACTS, MANIFEST = "lock", "run.json", "state.safetensors", "state.json", "manifest.json"
_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_DIGITS = 8
_STAGED = Path("checkpoint")
_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"}
_NAMES |= {"int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


@dataclass(frozen=True)
class Left:
    """What an interrupted fit left.

    Args:
        about: What was asked for.
        step: Updates of its last whole checkpoint; 0 where there is none.
    """

    about: Mapping[str, Any]
    step: int


@dataclass(frozen=True)
class Staged:
    """A checkpoint whose files are written and not yet on the disk.

    Args:
        folder: Hidden, of its own.
        step: Its updates.
        entries: File -> its bytes and their sha256.
    """

    folder: Path
    step: int
    entries: Mapping[str, tuple[int, str]]


def folder_of(place: Path) -> Path:
    """Return where the run folder of an artifact's place is."""
    return place.parent / f".{place.name}.run"


def left_at(place: Path) -> Left | None:
    """Return what an interrupted fit left at an artifact's place, or nothing; the lock is not looked at."""
    folder = folder_of(place)
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return None
    steps = _steps(folder)
    return Left(about, steps[-1] if steps else 0) if isinstance(about, dict) else None


def _steps(folder: Path) -> list[int]:
    with suppress(OSError):
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and len(path.name) == _DIGITS)
    return []


class RunFolder:
    """Hold the run folder of one artifact's place; a context manager.

    Leaving it without an error removes the folder: the artifact stands. After an error it stays if there is a checkpoint in it.

    Args:
        place: Where the artifact will stand, resolved.
        files: Changes the disk.

    Raises:
        UsageError: Another process that is alive fits into the same place.
        MachineError: The folder cannot be made or locked.
    """

    def __init__(self, place: Path, files: Files = FILES) -> None:
        self.place, self.files, self.folder = place, files, folder_of(place)
        self._lock: BinaryIO | None = None
        self._made: list[Path] = []

    def __enter__(self) -> RunFolder:
        with machine_errors("making the folder for checkpoints", self.folder):
            self._made = [path for path in (self.place.parent, *self.place.parent.parents) if not path.exists()]
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        sweep_stages(self.folder / _STAGED, self.files)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not _steps(self.folder):
            self.files.remove(self.folder)
            for path in self._made:
                with suppress(OSError):
                    path.rmdir()
        if self._lock is not None:
            self._lock.close()

    def _locked(self) -> BinaryIO:
        while True:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            path = self.folder / LOCK
            try:
                file = path.open("a+b")
            except FileNotFoundError:
                continue  # whoever held it has just removed it
            with contextlib.ExitStack() as stack:
                stack.callback(file.close)
                if self._taken(file, path):
                    stack.pop_all()
                    break
        file.truncate(0)
        file.write(owner().encode())
        file.flush()
        return file

    def _taken(self, file: BinaryIO, path: Path) -> bool:
        """Return whether the lock is ours; False where somebody removed the file meanwhile."""
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use(file) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            # A file system without locks: who stands in the file, and whether that process is alive, has to do.
            if alive(_content(file)):
                raise self._in_use(file) from None
        with suppress(OSError):
            return path.stat().st_ino == os.fstat(file.fileno()).st_ino
        return False

    def _in_use(self, file: BinaryIO) -> UsageError:
        who = _content(file).split("-")
        got = f"process {who[1]} works on it" if len(who) > 1 else "another process works on it"
        what, fix = "another fit writes to this place", "wait until it has ended, or choose another --out"
        return UsageError(Problem(what=what, where=str(self.place), got=got, fix=fix))

    def describe(self, about: Mapping[str, JSON]) -> None:
        """Write what was asked for; in one step, so that it is the old or the new."""
        staged = self.folder / stage_name(Path(ABOUT))
        with machine_errors("writing what was asked for", self.folder):
            self.files.write(staged, (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())
            self.files.replace(staged, self.folder / ABOUT)
            self.files.sync(self.folder)

    def steps(self) -> list[int]:
        """Return the updates after which there are checkpoints, damaged ones included."""
        return _steps(self.folder)

    def forget(self) -> None:
        """Remove every checkpoint."""
        for step in self.steps():
            self._discard(step)

    def stage(self, state: State) -> Staged:
        """Write the files of a checkpoint into a hidden folder, without waiting for the disk.

        Raises:
            OSError: The disk is full, broken or closed; nothing is left.
        """
        folder = self.folder / stage_name(_STAGED)
        try:
            self.files.make_folder(folder, 0o700)
            facts = json.dumps({"step": state.step, "facts": state.facts}, allow_nan=False).encode()
            entries = {
                TENSORS: self.files.pour(folder / TENSORS, safetensors_parts(state.tensors)),
                FACTS: self.files.pour(folder / FACTS, [facts]),
            }
        except BaseException:
            self.files.remove(folder)
            raise
        return Staged(folder, state.step, entries)

    def finish(self, staged: Staged, keep: int) -> None:
        """Wait until a staged checkpoint is on the disk, let it appear, and remove all but the newest.

        Args:
            staged: What `stage` returned.
            keep: How many checkpoints stay, at least 1.

        Raises:
            OSError: The disk did not keep it; the checkpoints before it are as they were.
        """
        place = self._at(staged.step)
        try:
            for name in staged.entries:
                self.files.sync(staged.folder / name)
            manifest = {name: {"size_bytes": size, "sha256": digest} for name, (size, digest) in staged.entries.items()}
            self.files.write(staged.folder / MANIFEST, json.dumps(manifest).encode())
            self.files.sync(staged.folder)
            self.files.rename(staged.folder, place)
            self.files.sync(self.folder)
        except BaseException:
            self.files.remove(staged.folder)
            raise
        for old in self.steps()[:-keep]:
            with suppress(OSError):
                self._discard(old)

    def newest(self, warn: Callable[[str], None]) -> State | None:
        """Return the newest whole checkpoint, verified, or nothing.

        Args:
            warn: Told about each that is damaged, and what is wrong with it.
        """
        for step in reversed(self.steps()):
            try:
                return self._read(step)
            except (OSError, ValueError, KeyError, TypeError) as error:
                warn(f"the checkpoint of step {step} is passed over: {error or type(error).__name__}")
                self._discard(step)
        return None

    def _discard(self, step: int) -> None:
        """Remove a checkpoint; it stops looking like one in one step, so that a process that dies here leaves no part of it."""
        hidden = self.folder / stage_name(_STAGED)
        self.files.rename(self._at(step), hidden)
        self.files.remove(hidden)

    def _at(self, step: int) -> Path:
        return self.folder / f"{step:0{_DIGITS}}"

    def _read(self, step: int) -> State:
        from safetensors.torch import load

        folder = self._at(step)
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if not isinstance(manifest, dict) or set(manifest) != {TENSORS, FACTS}:
            raise ValueError(f"{MANIFEST} does not list its files")
        found: dict[str, bytes] = {}
        for name, entry in manifest.items():
            content = (folder / name).read_bytes()
            if len(content) != entry["size_bytes"]:
                raise ValueError(f"{name} has {len(content):,} of {entry['size_bytes']:,} bytes")
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise ValueError(f"{name} is not what was written: its sha256 differs")
            found[name] = content
        facts = json.loads(found[FACTS])
        return State(int(facts["step"]), load(found[TENSORS]), facts["facts"])


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def safetensors_parts(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file piece by piece, so that no second copy of all tensors is ever in memory.

    The format: 8 bytes with the length of the header, the header in JSON (name -> type, shape, place), the numbers one
    after the other in little-endian order (https://huggingface.co/docs/safetensors, "Format").

    Example:
        >>> import torch
        >>> from safetensors.torch import load
        >>> load(b"".join(safetensors_parts({"a": torch.tensor([1.0, 2.0])})))
        {'a': tensor([1., 2.])}
    """
    import torch

    header: dict[str, Any] = {}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {
            "dtype": _NAMES[str(value.dtype).removeprefix("torch.")],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for value in tensors.values():
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data

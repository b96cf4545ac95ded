"""A whole fit's writing on a disk that fails at each write, sync and rename in turn: what was saved before is still there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from artifact_making import fill_with, mark_of

from regraft.artifact.files import Files
from regraft.artifact.run import RunFolder, left_at
from regraft.artifact.run_keeper import RunKeeper
from regraft.artifact.store import write_artifact, write_json
from regraft.errors import MachineError
from regraft.training.checkpoint import State, Stop
from regraft.training.events import ValidEvent
from regraft.training.options import CheckpointOptions

STEPS = (5, 10, 15)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    """No test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Faulty(Files):
    """A disk that fails at one operation: before it, or, of a write, when half of it is done; and from then on as long as it is full."""

    def __init__(self, at: int, code: int, *, half: bool = False, times: int = 1) -> None:
        self.at, self.code, self.half, self.times, self.done = at, code, half, times, []

    def _fails(self, name: str) -> bool:
        self.done.append(name)
        return self.at <= len(self.done) < self.at + self.times

    def _error(self, path: Path) -> OSError:
        return OSError(self.code, os.strerror(self.code), str(path))

    def write(self, path: Path, content: bytes) -> None:
        if self._fails(f"write {path.name}"):
            if self.half:
                super().write(path, content[: len(content) // 2])
            raise self._error(path)
        super().write(path, content)

    def pour(self, path: Path, parts):
        if self._fails(f"pour {path.name}"):
            if self.half:
                whole = b"".join(parts)
                super().pour(path, [whole[: len(whole) // 2]])
            raise self._error(path)
        return super().pour(path, parts)

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        if self._fails("make"):
            raise self._error(path)
        super().make_folder(path, mode)

    def sync(self, path: Path) -> None:
        if self._fails(f"sync {path.name}"):
            raise self._error(path)
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        if self._fails(f"rename {target.name}"):
            raise self._error(target)
        super().rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        if self._fails(f"replace {target.name}"):
            raise self._error(target)
        super().replace(source, target)

    def exchange(self, one: Path, other: Path) -> bool:
        if self._fails("exchange"):
            raise self._error(other)
        return super().exchange(one, other)


def state(step: int) -> State:
    return State(step, {"weights.a": torch.full((500,), float(step))}, {"best": step})


class Fit:
    """What a fit writes, in order; `kept` are the checkpoints that it believes in, `said` what it told."""

    def __init__(self, out: Path, files: Files) -> None:
        self.out, self.files, self.said, self.seen = out, files, [], []

    def __call__(self) -> None:
        with RunFolder(self.out, self.files) as run:
            run.describe({"data": "mails.csv"})
            keeper = RunKeeper(
                run,
                CheckpointOptions(every=5),
                stop=Stop(),
                note=lambda text, level: self.said.append((text, level)),
                going_on=True,
            )
            first = keeper.begin()
            for step in STEPS:
                if first is None or step > first.step:
                    keeper.log(ValidEvent(step=step, seconds=0.0))
                    keeper.keep(state(step))
                    keeper.wait()
                    self.check(run, step)
            keeper.end(state(20))
            self.check(run, 20)
            write_artifact(self.out, self.fill, files=self.files)

    def fill(self, folder: Path):
        made = fill_with("second")(folder)
        write_json(folder / "golden.json", {"rows": []}, self.files)
        return made

    def check(self, run: RunFolder, step: int) -> None:
        """After each checkpoint, written or not, the newest one that stands is whole: this one, or one before it."""
        found = run.look()
        self.seen.append(None if found is None else found.step)
        if found is not None:
            assert found.step <= step
            assert torch.equal(found.tensors["weights.a"], state(found.step).tensors["weights.a"])
        else:
            assert len(self.said) >= 1


def operations(folder: Path, code: int) -> list[str]:
    counting = Faulty(10**9, code)
    write_artifact(folder / "spam", fill_with("first"))
    Fit(folder / "spam", counting)()
    assert mark_of(folder / "spam") == "second"
    return counting.done


@pytest.mark.parametrize("half", [False, True], ids=["before", "short"])
@pytest.mark.parametrize(
    "code",
    [errno.ENOSPC, errno.EIO, pytest.param(errno.EDQUOT, marks=pytest.mark.slow)],
    ids=lambda code: errno.errorcode[code],
)
def test_at_each_write_sync_and_rename(tmp_path: Path, code: int, half: bool):
    (tmp_path / "count").mkdir()
    wanted = operations(tmp_path / "count", code)
    kinds = {name.split()[0] for name in wanted}
    assert kinds == {"make", "write", "pour", "sync", "rename", "replace", "exchange"}
    for at, name in enumerate(wanted, 1):
        if half and name.split()[0] not in {"write", "pour"}:
            continue
        folder = tmp_path / str(at)
        folder.mkdir()
        out = folder / "spam"
        write_artifact(out, fill_with("first"))
        fit = Fit(out, Faulty(at, code, half=half))
        try:
            fit()
        except MachineError as error:
            text = str(error)
            assert "the machine gave up while writing" in text, name
            assert os.strerror(code) in text
            assert str(folder) in text
            assert mark_of(out) == "first", name
            left = left_at(out)
            if "what was asked for" in text:
                assert fit.seen == []
            else:
                assert left.step == 20, "what training ended with is there for --resume"
            assert fit.said == []
            Fit(out, Files())()  # the disk is well again
        else:
            if name.startswith("rename .checkpoint.stage"):  # an old checkpoint that could not go
                assert fit.said == []
                continue
            ((said, level),) = fit.said
            assert level == "warning", name
            assert os.strerror(code) in said
            assert "cannot be written, " in said
            assert said.split(", ")[1].startswith(("that of step", "there is none yet"))
        assert mark_of(out) == "second", name
        assert sorted(path.name for path in folder.iterdir()) == ["spam"], name


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=lambda code: errno.errorcode[code])
def test_for_good(tmp_path: Path, code: int):
    """From some moment on nothing can be written: the last state before it is still loadable."""
    (tmp_path / "count").mkdir()
    wanted = operations(tmp_path / "count", code)
    for at in range(1, len(wanted) + 1, 3):
        folder = tmp_path / str(at)
        folder.mkdir()
        out = folder / "spam"
        write_artifact(out, fill_with("first"))
        fit = Fit(out, Faulty(at, code, times=10**9))
        with pytest.raises(MachineError):
            fit()
        assert mark_of(out) in ({"first"} if at < len(wanted) else {"first", "second"})
        seen = [step for step in fit.seen if step is not None]
        left = left_at(out)
        assert (left.step if left else 0) == (seen[-1] if seen else 0)
        if seen:
            found = RunFolder(out).look()
            assert torch.equal(found.tensors["weights.a"], state(seen[-1]).tensors["weights.a"])
        Fit(out, Files())()
        assert mark_of(out) == "second"

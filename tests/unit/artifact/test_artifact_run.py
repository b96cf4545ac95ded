"""Checkpoints on a disk that fails at any moment, in the hands of processes that die at any moment."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from regraft.artifact.files import Files
from regraft.artifact.run import MANIFEST, RunFolder, folder_of, left_at, safetensors_parts
from regraft.artifact.run_keeper import FIRST_S, SHARE, WORTH_S, RunKeeper, differences, goes_on
from regraft.errors import InterruptedRunError, MachineError, Problem, UsageError
from regraft.training.checkpoint import State, Stop
from regraft.training.options import CheckpointOptions


def state(step: int, size: int = 1000) -> State:
    weights = torch.full((size,), float(step))
    return State(step, {"weights.a": weights, "optimizer.0.step": torch.tensor(float(step))}, {"best": 0.1 * step, "stale": 1})


def save(run: RunFolder, step: int, keep: int = 2) -> None:
    run.finish(run.stage(state(step)), keep)


def left(place: Path, *steps: int) -> Path:
    """Leave the run folder of a fit that failed after these checkpoints."""
    run = RunFolder(place).__enter__()
    run.describe({"data": "mails.csv"})
    for step in steps:
        save(run, step)
    run.__exit__(ValueError, ValueError("torn"), None)
    return run.folder


def newest(run: RunFolder) -> tuple[State | None, list[str]]:
    warned: list[str] = []
    return run.newest(warned.append), warned


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_the_format_is_that_of_safetensors(dtype: str):
    kind = getattr(torch, dtype)
    some = torch.arange(24).reshape(2, 3, 2, 2).to(kind)
    given = {
        "some": some,
        "last": some.contiguous(memory_format=torch.channels_last),
        "none": some[:0],
        "one": some[0, 0, 0, 0],
    }
    given |= {"turned": some[0, :, :, 0].t(), "ünï": some[:1]}
    found = load(b"".join(safetensors_parts(given)))
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert found[name].dtype == kind
        assert torch.equal(found[name], value), name


def test_what_was_kept_comes_back_and_only_the_newest_stay(tmp_path: Path):
    place = tmp_path / "deep" / "spam"
    with RunFolder(place) as run:
        run.describe({"data": "mails.csv"})
        assert newest(run) == (None, [])
        for step in (5, 10, 15):
            save(run, step)
        assert run.steps() == [10, 15]
        assert left_at(place).step == 15
        found, warned = newest(run)
        assert warned == []
        assert found.step == 15
        assert dict(found.facts) == {"best": 1.5, "stale": 1}
        assert {name: value.tolist() for name, value in found.tensors.items()} == {
            name: value.tolist() for name, value in state(15).tensors.items()
        }
    assert not (tmp_path / "deep").exists(), "what was made for it goes with it"


def test_a_fit_that_failed_leaves_its_checkpoints_and_nothing_where_it_has_none(tmp_path: Path):
    place = tmp_path / "deep" / "spam"
    for step in (0, 5):
        left(place, *([step] if step else []))
        assert folder_of(place).exists() == bool(step)
    assert left_at(place).step == 5
    assert left_at(tmp_path / "other") is None


def damaged(folder: Path, how: str) -> str:
    tensors, manifest = folder / "state.safetensors", folder / MANIFEST
    content = tensors.read_bytes()
    if how == "truncated":
        tensors.write_bytes(content[:-100])
        return "bytes"
    if how == "one bit":
        tensors.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
        return "sha256 differs"
    if how == "no tensors":
        tensors.unlink()
        return "state.safetensors"
    if how == "no manifest":
        manifest.unlink()
        return MANIFEST
    manifest.write_text("{}" if how == "empty manifest" else "{")
    return "does not list its files" if how == "empty manifest" else "Expecting"


@pytest.mark.parametrize("how", ["truncated", "one bit", "no tensors", "no manifest", "empty manifest", "no json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path: Path, how: str):
    with RunFolder(tmp_path / "spam") as run:
        save(run, 5)
        save(run, 10)
        said = damaged(run.folder / "00000010", how)
        found, (warning,) = newest(run)
        assert found.step == 5
        assert warning.startswith("the checkpoint of step 10 is passed over: ")
        assert said in warning
        assert run.steps() == [5], "it is not looked at again"


class Failing(Files):
    """A disk that fails at the chosen operation, before it or when half of it is done."""

    def __init__(self, at: int, code: int, half: bool = False) -> None:
        self.at, self.code, self.half, self.done = at, code, half, []

    def _step(self, name: str, path: Path) -> bool:
        self.done.append(name)
        if len(self.done) != self.at:
            return False
        if self.half:
            return True
        raise OSError(self.code, os.strerror(self.code), str(path))

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        if self._step("make", path):
            raise OSError(self.code, os.strerror(self.code), str(path))
        super().make_folder(path, mode)

    def write(self, path: Path, content: bytes) -> None:
        if self._step("write", path):
            super().write(path, content[: len(content) // 2])
            raise OSError(self.code, os.strerror(self.code), str(path))
        super().write(path, content)

    def pour(self, path: Path, parts):
        if self._step("pour", path):
            whole = b"".join(parts)
            super().pour(path, [whole[: len(whole) // 2]])
            raise OSError(self.code, os.strerror(self.code), str(path))
        return super().pour(path, parts)

    def sync(self, path: Path) -> None:
        if self._step("sync", path):
            raise OSError(self.code, os.strerror(self.code), str(path))
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        if self._step("rename", target):
            raise OSError(self.code, os.strerror(self.code), str(target))
        super().rename(source, target)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_step_leaves_what_was_saved(tmp_path: Path, code: int, half: bool):
    counting = Failing(-1, code)
    with RunFolder(tmp_path / "count", counting) as run:
        save(run, 5)
    operations = len(counting.done)
    assert counting.done == ["make", "pour", "pour", "sync", "sync", "write", "sync", "rename", "sync"]
    for at in range(1, operations + 1):
        said: list[tuple[str, str]] = []
        failing = Failing(at + operations, code, half)
        with RunFolder(tmp_path / str(at), failing) as run:
            keeper = keeper_of(run, said, every=5)
            for step in (5, 10):
                assert keeper.due(step)
                keeper.keep(state(step))
            keeper.wait()
            ((text, level),) = said
            assert level == "warning"
            assert "cannot be written, that of step 5 stands, training goes on" in text
            assert os.strerror(code) in text
            assert [path.name for path in run.folder.iterdir() if "stage" in path.name] == [], failing.done
            found, warned = newest(run)
            # Where only the last sync failed, the new one is whole and may be gone after a power cut: then the old one is there.
            assert (found.step, warned) == (10 if at == operations else 5, [])
            keeper.keep(state(15))
            keeper.wait()
            assert newest(run)[0].step == 15, "it tries again"


def keeper_of(run: RunFolder, said: list, **options) -> RunKeeper:
    how = CheckpointOptions(**{name: options.pop(name) for name in ("every", "keep") if name in options})
    given = {"stop": Stop(), "note": lambda text, level: said.append((text, level)), "going_on": True}
    return RunKeeper(run, how, **{**given, **options})


def test_events_lie_beside_checkpoints_up_to_the_one_that_training_goes_on_from(tmp_path: Path):
    from regraft.training.event_log import read
    from regraft.training.events import ValidEvent

    place = tmp_path / "spam"
    syncs: list[str] = []

    class Told(Files):
        def sync(self, path: Path) -> None:
            syncs.append(path.name)
            super().sync(path)

    run = RunFolder(place, Told()).__enter__()
    keeper = keeper_of(run, [], every=5)
    keeper.begin()
    for step in range(1, 8):
        keeper.log(ValidEvent(step=step, seconds=0.0))
        if keeper.due(step):
            keeper.keep(state(step))
    keeper.wait()
    assert syncs[0] == "events.jsonl"
    run.__exit__(ValueError, ValueError("torn"), None)
    with RunFolder(place) as run:
        keeper = keeper_of(run, [], every=5)
        assert [event.step for event in read(keeper.log.path)] == list(range(1, 8))
        assert keeper.begin().step == 5
        assert [event.step for event in read(keeper.log.path)] == list(range(1, 6))
        keeper_of(run, [], going_on=False).begin()
        assert [*read(keeper.log.path)] == []


def test_events_that_cannot_be_written_are_told_once(tmp_path: Path):
    from regraft.training.events import ValidEvent

    said: list[tuple[str, str]] = []
    with RunFolder(tmp_path / "spam") as run:
        keeper = keeper_of(run, said, every=1)
        keeper.log.path.mkdir()
        for step in (1, 2):
            keeper.log(ValidEvent(step=step, seconds=0.0))
            keeper.keep(state(step))
        keeper.wait()
        assert run.steps() == [1, 2]
    assert said == [("events cannot be written to events.jsonl, training goes on: Is a directory", "warning")]


def test_without_an_order_checkpoints_take_a_small_share_of_the_time(tmp_path: Path):
    now = [0.0]
    with RunFolder(tmp_path / "spam") as run:
        keeper = keeper_of(run, [], clock=lambda: now[0])
        assert keeper.begin() is None
        now[0] = FIRST_S - 0.1
        assert not keeper.due(10)
        now[0] = FIRST_S
        assert keeper.due(10)
        keeper.keep(state(10))
        keeper.wait()
        keeper.cost_s = 2.0
        now[0] = FIRST_S + 2.0 / SHARE - 0.1
        assert not keeper.due(11)
        now[0] += 0.2
        assert keeper.due(11)
        assert not keeper_of(run, [], keep=0, every=1).due(11)


def test_who_asks_to_stop_gets_a_checkpoint_first(tmp_path: Path):
    import signal

    with RunFolder(tmp_path / "spam") as run:
        keeper = keeper_of(run, [])
        assert not keeper.due(7)
        keeper.stop(signal.SIGTERM, None)
        assert keeper.due(7)
        with pytest.raises(InterruptedRunError) as caught:
            keeper.keep(state(7))
        assert keeper_of(run, []).begin().step == 7
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert "SIGTERM after step 7" in text
    assert f"regraft fit --resume {tmp_path / 'spam'}" in text
    with pytest.raises(KeyboardInterrupt):
        keeper.stop(signal.SIGTERM, None)


def test_without_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil
    from collections import namedtuple

    said: list[tuple[str, str]] = []
    with RunFolder(tmp_path / "spam") as run:
        keeper = keeper_of(run, said)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Use", "total used free")(9, 9, 3000))
        keeper.keep(state(5))
        assert run.steps() == []
        assert "0 MB are free" in said[0][0]
        monkeypatch.undo()
        keeper.keep(state(6))
        keeper.wait()
        assert run.steps() == [6]


def test_a_second_fit_into_the_same_place_is_refused_while_the_first_lives(tmp_path: Path):
    place = tmp_path / "spam"
    code = f"""
    import sys
    from pathlib import Path
    from regraft.artifact.run import RunFolder
    with RunFolder(Path({str(place)!r})):
        print("held", flush=True)
        sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(UsageError, match=f"another fit writes to this place(.|\n)*process {holder.pid} works on it"):
            RunFolder(place).__enter__()
        with RunFolder(tmp_path / "ham"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(place) as run:
        save(run, 5)


@pytest.mark.parametrize("alive", [True, False])
def test_where_the_file_system_has_no_locks_the_process_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
):
    import fcntl

    from regraft.artifact import files

    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    place = tmp_path / "spam"
    folder_of(place).mkdir()
    parent = os.getppid()
    who = files.owner() if not alive else f"{files._host()}-{parent}-{files._started(parent)}"
    (folder_of(place) / "lock").write_text(who if alive else who.replace(str(os.getpid()), "4194311"))
    if alive:
        with pytest.raises(UsageError, match=f"process {parent} works on it"):
            RunFolder(place).__enter__()
    else:
        with RunFolder(place):
            pass


def test_stages_of_the_dead_are_swept(tmp_path: Path):
    from regraft.artifact import files

    dead = left(tmp_path / "spam", 5) / f".checkpoint.stage-{files._host()}-4194311-99-00000000"
    dead.mkdir()
    with RunFolder(tmp_path / "spam"):
        assert not dead.exists()


def test_a_fit_goes_on_only_if_it_is_the_same():
    was = {"rows": {"train": "abc"}, "options": {"train": {"epochs": 3}}}
    assert goes_on(was, json.loads(json.dumps(was)), "spam", asked=True)
    assert goes_on(was, was, "spam", asked=False)
    now = {"rows": {"train": "abd"}, "options": {"train": {"epochs": 5}}}
    assert not goes_on(was, now, "spam", asked=False)
    assert not goes_on(None, now, "spam", asked=False)
    with pytest.raises(UsageError) as caught:
        goes_on(was, now, "spam", asked=True)
    text = str(caught.value)
    for said in ("spam, rows.train", "spam, options.train.epochs", "got: 5", "expected: 3", "without --resume"):
        assert said in text
    with pytest.raises(UsageError, match="no fit was interrupted here"):
        goes_on(None, now, "spam", asked=True)
    assert differences({"a": 1}, {"b": None}) == [("a", 1, None)]


def test_numbers_keep_all_their_digits(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25)
    with RunFolder(tmp_path / "spam") as run:
        run.finish(run.stage(State(1, {}, {"numbers": values.tolist()})), 1)
        assert newest(run)[0].facts["numbers"] == values.tolist()


def test_a_checkpoint_is_hidden_before_it_is_taken_apart(tmp_path: Path):
    """Whoever dies while an old one is removed leaves nothing that looks like a checkpoint and is none."""
    seen: list[str] = []

    class Dying(Files):
        def remove(self, path: Path) -> None:
            seen.append(path.name)  # and dies before the first file is gone

    run = RunFolder(tmp_path / "spam", Dying()).__enter__()
    for step in (5, 10, 15):
        save(run, step)
    assert run.steps() == [10, 15]
    assert [name.startswith(".checkpoint.stage-") for name in seen] == [True]
    run.forget()
    assert run.steps() == []
    run.__exit__(None)


def test_what_training_ended_with_is_kept_where_it_is_worth_it(tmp_path: Path):
    import signal

    now = [0.0]
    for every, seconds, kept in ((None, WORTH_S - 0.1, False), (None, WORTH_S + 0.1, True), (5, 0.0, True)):
        with RunFolder(tmp_path / "spam") as run:
            keeper = keeper_of(run, [], every=every, clock=lambda: now[0])
            keeper.begin()
            now[0] += seconds
            if every:
                keeper.keep(state(10))
            keeper.end(State(10, {"weights.a": torch.ones(3)}, {"objective": {}}))
            assert run.steps() == ([10] if kept else [])
            again = keeper_of(run, [])
            ended = again.ended()
            assert (ended is not None) == kept
            if ended is not None:
                assert ended.tensors.keys() == {"weights.a"}
                assert again.begin() is ended
    with RunFolder(tmp_path / "spam") as run:
        keeper = keeper_of(run, [])
        keeper.stop(signal.SIGTERM, None)
        with pytest.raises(InterruptedRunError, match="SIGTERM after step 10"):
            keeper.end(State(10, {}, {}))
        assert run.steps() == [10]
    with RunFolder(tmp_path / "spam") as run:
        save(run, 5)
        assert keeper_of(run, []).ended() is None


def test_an_old_checkpoint_makes_room_for_a_new_one_but_never_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil
    from collections import namedtuple

    said: list[tuple[str, str]] = []
    with RunFolder(tmp_path / "spam") as run:
        for step in (5, 10):
            save(run, step)
        keeper = keeper_of(run, said)
        keeper.begin()

        def free(_):
            return namedtuple("Use", "total used free")(9, 9, 9000 if len(run.steps()) < 2 else 3000)

        monkeypatch.setattr(shutil, "disk_usage", free)
        keeper.keep(state(15))
        keeper.wait()
        assert (run.steps(), said[1:]) == ([10, 15], [])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Use", "total used free")(9, 9, 3000))
        keeper.keep(state(20))
        keeper.wait()
        assert run.steps() == [15]
        assert "the checkpoint of step 20 cannot be written, that of step 15 stands" in said[-1][0]


def test_what_died_with_a_name_is_swept(tmp_path: Path):
    folder = left(tmp_path / "spam", 5)
    (folder / ".optimizer-x1").write_bytes(b"0")
    with RunFolder(tmp_path / "spam"):
        assert not list(folder.glob(".optimizer-*"))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    def none(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", none)
    with RunFolder(tmp_path / "spam") as run:
        run.describe({"data": "mails.csv"})
        save(run, 5)
        assert newest(run)[0].step == 5


def test_a_rename_whose_answer_was_lost_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    honest = Path.rename

    def twice(self, target):
        honest(self, target)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    monkeypatch.setattr(Path, "rename", twice)
    Files().rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "file").exists()
    with pytest.raises(FileNotFoundError):
        Files().rename(tmp_path / "none", tmp_path / "c")


def test_a_machine_that_gives_up_says_how_to_go_on(tmp_path: Path):
    error = MachineError([Problem(what="no memory", fix="take a larger machine"), Problem(what="no disk")])
    with RunFolder(tmp_path / "spam") as run:
        keeper = keeper_of(run, [])
        assert keeper.resumable(error) is error
        keeper.keep(state(7))
        keeper.wait()
        first, second = keeper.resumable(error).problems
    kept = f"what was learnt in 7 steps is kept: go on with: regraft fit --resume {tmp_path / 'spam'}"
    assert (first.what, first.fix, second.fix) == ("no memory", f"take a larger machine; {kept}", kept)

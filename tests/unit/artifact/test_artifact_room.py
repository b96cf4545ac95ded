"""A disk that is too small is refused before the work, one that is full after it is waited for."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from regraft.artifact.files import machine_error, machine_errors
from regraft.artifact.room import EVERY_S, Waiting, patient, require, with_small_files
from regraft.errors import GateError, MachineError, Problem

Use = namedtuple("Use", "total used free")
MB = 10**6


def disk(monkeypatch, *free):
    """Put a disk that has so much free, look by look, in the place of the real one."""
    left = list(free)
    asked = []

    def usage(path):
        asked.append(Path(path))
        return Use(0, 0, left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


class Full:
    """A write that is refused some times."""

    def __init__(self, times, code=errno.ENOSPC, error=None):
        self.times, self.code, self.error, self.tried = times, code, error, 0

    def __call__(self):
        self.tried += 1
        if self.tried <= self.times:
            if self.error is not None:
                raise self.error
            with machine_errors("writing the artifact", Path("/spam")):
                raise OSError(self.code, os.strerror(self.code))
        return "written"


def waiting(place, said, wait_s=60.0, need=100 * MB):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    made = Waiting(
        place=place,
        need_bytes=need,
        wait_s=wait_s,
        resume="regraft fit --resume spam",
        note=lambda text, level: said.append((text, level)),
        clock=lambda: now[0],
        sleep=sleep,
    )
    return made, now


def test_what_will_be_written_is_held_against_what_is_free(tmp_path, monkeypatch):
    asked = disk(monkeypatch, 250 * MB)
    require(tmp_path / "deep" / "spam", {"the artifact": 100 * MB, "checkpoints": 150 * MB})
    assert asked == [tmp_path]
    with pytest.raises(MachineError) as caught:
        require(tmp_path / "deep" / "spam", {"the artifact": 100 * MB, "checkpoints": 151 * MB, "nothing": 0})
    text = str(caught.value)
    for part in ("not enough free space", str(tmp_path), "250 MB free", "251 MB: the artifact 100 MB, checkpoints 151 MB"):
        assert part in text
    assert "nothing" not in text
    assert "machine.checkpoint.keep" in text
    assert with_small_files(100 * MB) == 118 * MB


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_waited_for(tmp_path, monkeypatch, code):
    disk(monkeypatch, 3 * MB, 3 * MB, 50 * MB, 200 * MB)
    said, full = [], Full(1, code)
    wait, now = waiting(tmp_path / "spam", said)
    assert patient(full, wait) == "written"
    assert full.tried == 2, "it is not tried while there is less room than it takes"
    assert now[0] == 3 * EVERY_S
    ((text, level),) = said
    assert level == "warning"
    assert f"writing to '{tmp_path}' takes 100 MB, 3 MB are free; nothing is lost: it is tried every 5 seconds" in text


def test_a_quota_is_not_seen_and_tried_again(tmp_path, monkeypatch):
    disk(monkeypatch, 900 * MB)
    said, full = [], Full(4, errno.EDQUOT)
    wait, now = waiting(tmp_path / "spam", said)
    assert patient(full, wait) == "written"
    assert (full.tried, now[0], len(said)) == (5, 4 * EVERY_S, 1)


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
def test_it_is_given_up_in_the_end(tmp_path, monkeypatch, wait_s):
    disk(monkeypatch, 3 * MB)
    said, full = [], Full(99)
    wait, now = waiting(tmp_path / "spam", said, wait_s)
    with pytest.raises(MachineError) as caught:
        patient(full, wait)
    assert now[0] == wait_s
    text = str(caught.value)
    assert f"there was no room within {wait_s:.0f} seconds: the machine gave up while writing the artifact" in text
    assert "No space left on device" in text
    assert "to do: regraft fit --resume spam" in text
    assert len(said) == bool(wait_s)


@pytest.mark.parametrize(
    "error", [GateError("moved"), machine_error("writing", Path("/x"), errno.EIO, ""), MachineError(Problem(what="memory"))]
)
def test_nothing_else_is_waited_for(tmp_path, error):
    said: list = []
    with pytest.raises(type(error)) as caught:
        patient(Full(1, error=error), waiting(tmp_path / "spam", said)[0])
    assert caught.value is error
    assert said == []


def test_the_words_of_libraries_that_tell_no_number_are_understood(tmp_path):
    def rust():
        with machine_errors("writing the artifact", Path("/spam")):
            raise RuntimeError("Error while serializing: No space left on device (os error 28)")

    with pytest.raises(MachineError, match="there was no room within 0 seconds"):
        patient(rust, waiting(tmp_path / "spam", [], 0.0)[0])

"""Files kept between runs: whole or not at all, pruned by use, and nothing else is ever touched."""

import os
import resource
import time

import pytest

from regraft.data import kept
from regraft.data.kept import NewFile, file_name, free_disk_bytes, kept_files, prune, read_about, touch, write_about

KEY = "0123456789abcdef0123456789abcdef"


def put(root, kind, key, size, used, suffix=".ragged"):
    new = NewFile(root / kind / key)
    new.write(bytes(size))
    path = new.publish(file_name(suffix))
    new.file.close()
    write_about(path.parent, b'{"kind": "hidden"}\n')
    os.utime(path, (used, used))
    return path


def test_a_file_is_seen_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "features" / KEY
    new = NewFile(folder)
    new.write(b"one ")
    new.write(memoryview(b"two"))
    assert [entry.name.endswith(".part") for entry in folder.iterdir()] == [True]
    path = new.publish(file_name(".ragged"))
    assert path.read_bytes() == b"one two"
    assert list(folder.iterdir()) == [path]
    assert (folder.stat().st_mode & 0o777) == 0o700  # what is computed from private rows is private
    new.file.seek(0)
    assert new.file.read() == b"one two"
    new.file.close()
    other = NewFile(folder)
    other.discard()
    assert list(folder.iterdir()) == [path]
    path.unlink()
    NewFile(folder).discard()
    assert not folder.exists()


def test_bytes_that_the_disk_takes_only_in_part_are_an_error(tmp_path):
    new = NewFile(tmp_path / "features" / KEY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            new.write(bytes(1500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    new.discard()


def test_names_sort_by_when_they_were_made():
    names = [file_name(".ragged") for _ in range(50)]
    assert names == sorted(names)
    assert file_name(".arrow", "ab" * 16).endswith("-" + "ab" * 16 + ".arrow")


def test_the_least_recently_used_goes_first_and_its_empty_folder_too(tmp_path):
    now = time.time()
    files = [
        put(tmp_path, kind, KEY[i:] + KEY[:i], 100, now - 10 * i) for i, kind in enumerate(["features", "tokens", "features"])
    ]
    assert sum(found.size_bytes for found in kept_files(tmp_path)) == kept.total_bytes(tmp_path) == 300
    assert prune(tmp_path, max_bytes=300) == []
    assert [found.path for found in prune(tmp_path, max_bytes=200)] == [files[2]]
    assert not files[2].parent.exists()
    touch(files[1])
    assert [found.path for found in prune(tmp_path, max_bytes=199)] == [files[0]]
    assert [found.path for found in prune(tmp_path, max_bytes=0, spare={files[1]})] == []
    assert [found.path for found in prune(tmp_path, max_bytes=0)] == [files[1]]
    assert kept_files(tmp_path) == []


def test_what_was_not_used_for_long_goes_whatever_the_size(tmp_path):
    now = time.time()
    old, young = put(tmp_path, "features", KEY, 10, now - 1000), put(tmp_path, "features", KEY, 10, now - 10)
    assert prune(tmp_path, older_than_s=2000) == []
    assert [found.path for found in prune(tmp_path, older_than_s=100)] == [old]
    assert young.exists()
    assert read_about(young.parent) == {"kind": "hidden"}


def test_only_names_that_were_made_here_are_touched(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "cache"
    made = put(root, "features", KEY, 10, 1000)
    put(tmp_path / "elsewhere", "features", KEY, 10, 1000)
    mine = [
        root / "bases" / "minilm" / "model.safetensors",
        root / "features" / "my-features" / made.name,  # no key
        root / "features" / made.name,  # no folder of a key
        made.parent / "notes.txt",
        made.parent / "2026.ragged",
        root / "other" / KEY / made.name,
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    elsewhere = tmp_path / "elsewhere" / "features" / KEY
    (root / "features" / ("f" * 32)).symlink_to(elsewhere)
    (made.parent / file_name(".ragged")).symlink_to(mine[0])
    assert [found.path for found in prune(root, max_bytes=0, older_than_s=0)] == [made]
    assert all(path.read_text() == "mine" for path in mine)
    assert len(list(elsewhere.iterdir())) == 2


def test_what_a_dead_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path, monkeypatch):
    living, dead = NewFile(tmp_path / "features" / KEY), NewFile(tmp_path / "features" / KEY)
    living.write(b"x")
    dead.write(b"xy")
    dead.file.close()  # as the operating system does for a process that was killed
    assert len(kept_files(tmp_path)) == 2
    assert [found.size_bytes for found in prune(tmp_path)] == [2]
    living.publish(file_name(".ragged")).unlink()
    living.file.close()
    # A file system without locks: the age decides.
    monkeypatch.setattr(kept, "_lock", lambda file: None)
    unlocked = NewFile(tmp_path / "features" / KEY)
    unlocked.write(b"xyz")
    assert prune(tmp_path, max_bytes=0) == []
    part = kept_files(tmp_path)[0].path
    os.utime(part, (1000, 1000))
    assert [found.path for found in prune(tmp_path, max_bytes=0)] == [part]
    unlocked.discard()


def test_a_folder_that_is_taken_away_while_a_file_is_made_is_made_again(tmp_path, monkeypatch):
    folder = tmp_path / "features" / KEY
    made, times = kept.FileIO, []

    def racing(path, mode):
        times.append(path)
        if len(times) < 3:
            folder.rmdir()  # another process prunes
        return made(path, mode)

    monkeypatch.setattr(kept, "FileIO", racing)
    new = NewFile(folder)
    assert len(times) == 3
    new.discard()
    monkeypatch.setattr(kept, "_lock", lambda file: False)
    with pytest.raises(OSError, match="temporarily unavailable"):
        NewFile(folder)


def test_what_a_key_says_is_written_once_and_may_be_damaged(tmp_path):
    folder = tmp_path / "features" / KEY
    write_about(folder, b'{"a": 1}')
    write_about(folder, b'{"a": 2}')
    assert read_about(folder) == {"a": 1}
    for content in (b"{", b"[1]", b"\xff\xfe"):
        (folder / "key.json").write_bytes(content)
        assert read_about(folder) == {}
    (tmp_path / "file").write_text("")
    write_about(tmp_path / "file" / KEY, b"{}")  # cannot be written: nothing depends on it


def test_a_reserve_of_the_disk_is_left(tmp_path, monkeypatch):
    usage = kept.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda path: usage._replace(total=10**10, free=6 * 10**8))
    assert free_disk_bytes(tmp_path / "not" / "there") == 10**8
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda path: usage._replace(total=10**13, free=6 * 10**9))
    assert free_disk_bytes(tmp_path) == 5 * 10**9
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda path: usage._replace(total=10**10, free=10))
    assert free_disk_bytes(tmp_path) == 0

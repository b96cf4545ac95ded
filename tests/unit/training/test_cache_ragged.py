"""Features by row: the values that were put come back, misses and hits are exact, damage is found, budgets decide."""

import json
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from cache_rows import WIDTH, Rows, digests, features, key, some_rows

from regraft.data import kept
from regraft.errors import MachineError, OptionsError
from regraft.training.cache import CacheOptions, from_bf16, open_ragged, to_bf16
from regraft.training.cache import budget as budget_module
from regraft.training.cache import ragged as ragged_module

TIERS = pytest.mark.parametrize("memory_mb", [100, 0], ids=["memory", "disk"])


@pytest.fixture
def rows(tmp_path):
    return some_rows(tmp_path)


@TIERS
def test_values_come_back_in_any_order_now_and_in_the_next_run(rows, memory_mb):
    with rows.open(memory_mb=memory_mb) as ragged:
        assert ragged.tier == ("memory" if memory_mb else "disk")
        assert len(ragged) == 40
        np.testing.assert_array_equal(ragged.missing, np.arange(40))
        rows.fill(ragged)
        assert len(ragged.missing) == 0
        assert ragged.finish() is True
        rows.check(ragged)
    with rows.open(memory_mb=memory_mb) as again:
        assert len(again.missing) == 0
        rows.check(again)
    assert len(rows.files()) == 1
    assert rows.files(".part") == []
    told = [note.split(": ")[1] for note in rows.notes]
    assert told == [f"{there} of 40 rows are there; {where(memory_mb)}" for there in (0, 40)]


def where(memory_mb):
    return "in memory" if memory_mb else "on disk"


def test_the_notes_say_which_tier_and_why(rows):
    rows.open().close()
    rows.open(disk_mb=0).close()
    rows.open(memory_mb=0).close()
    assert rows.open(enabled=False) is None
    assert rows.open(memory_mb=0, disk_mb=0) is None
    name = "cache of hidden features (minilm, layer 4 of 6): "
    there = "0 of 40 rows are there; "
    assert rows.notes == [
        f"{name}{there}in memory: 1 MB of features, up to 100 MB of memory may be taken; kept on disk for the next run",
        f"{name}{there}in memory: 1 MB of features, up to 100 MB of memory may be taken; nothing is kept on disk",
        f"{name}{there}on disk: 1 MB of features do not fit into 0 MB of memory, up to 100 MB may lie in {rows.folder}",
        f"{name}off: switched off by machine.cache.enabled",
        f"{name}off: 1 MB of features do not fit into 0 MB of memory, and nothing may be kept on disk",
    ]
    assert rows.files() == []


def big_rows(folder, mb, first=0):
    """Rows that take so many megabytes: 100 a megabyte."""
    return Rows([f"big {first + i}" for i in range(mb * 100)], np.full(mb * 100, 10_000 // (WIDTH * 4)), folder)


def test_what_fits_nowhere_is_off_and_what_fits_memory_only_is_not_written(tmp_path):
    rows = big_rows(tmp_path, 3)
    assert rows.open(memory_mb=2, disk_mb=2) is None
    assert rows.notes[-1].endswith(
        "off: 3 MB of features do not fit into 2 MB of memory, and they do not fit into the 2 MB of the cache folder"
    )
    with rows.open(memory_mb=5, disk_mb=2) as ragged:
        rows.fill(ragged, 50)
        assert ragged.tier == "memory"
    assert rows.notes[-1].endswith(
        "up to 5 MB of memory may be taken; not kept on disk: they do not fit into the 2 MB of the cache folder"
    )
    assert rows.files() == []
    assert len(rows.open(memory_mb=5, disk_mb=2).missing) == 300


def test_a_full_disk_is_known_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(budget_module, "free_disk_bytes", lambda folder: 1_000_000)
    rows = big_rows(tmp_path, 3)
    assert rows.open(memory_mb=0) is None
    assert rows.notes[-1].endswith(f"and the disk of {tmp_path} has only 1 MB to spare")
    assert rows.open().tier == "memory"
    assert rows.notes[-1].endswith(f"not kept on disk: the disk of {tmp_path} has only 1 MB to spare")


def test_rows_that_are_the_same_are_computed_and_held_once(tmp_path):
    rows = Rows(["a", "b", "a", "c", "b", "a"], np.array([2, 3, 2, 1, 3, 2]), tmp_path)
    for memory_mb in (100, 0):
        with rows.open(key(cut=str(memory_mb)), memory_mb=memory_mb) as ragged:
            np.testing.assert_array_equal(ragged.missing, [0, 1, 3])
            # More than was asked for, twice the same, and what is there already: only the first counts.
            assert ragged.put(np.array([2, 0, 1]), rows.values([2, 0, 1]))
            assert ragged.put(np.array([4, 3]), np.concatenate([rows.values([4]) + 1, rows.values([3])]))
            ragged.finish()
            rows.check(ragged)
    assert rows.files()[0].stat().st_size == 128 + 6 * WIDTH * 4 + 3 * 24


def test_the_same_digest_with_another_length_is_another_row(tmp_path):
    first = Rows(["a"], np.array([4]), tmp_path)
    with first.open() as ragged:
        first.fill(ragged)
    second = Rows(["a", "a"], np.array([3, 4]), tmp_path)
    with second.open() as ragged:
        np.testing.assert_array_equal(ragged.missing, [0])
        second.fill(ragged)
        second.check(ragged)


@TIERS
def test_one_changed_row_misses_alone_and_others_are_added(tmp_path, memory_mb):
    rows = some_rows(tmp_path)
    with rows.open(memory_mb=memory_mb) as ragged:
        rows.fill(ragged)
    rows.names[17] = "row 17!"
    more = Rows([*rows.names[5:], "new"], np.append(rows.lengths[5:], 4), tmp_path)
    with more.open(memory_mb=memory_mb) as ragged:
        np.testing.assert_array_equal(ragged.missing, [12, 35])
        more.check(ragged, [np.arange(12)])  # what is there can be had before the rest is finished
        with pytest.raises(LookupError):
            ragged.gather(np.array([12]))
        more.fill(ragged)
        ragged.finish()
        more.check(ragged)
    assert len(more.files()) == 2
    with more.open(memory_mb=memory_mb) as ragged:
        assert len(ragged.missing) == 0
        more.check(ragged)


@pytest.mark.parametrize(
    "changes", [{"weights": "w2"}, {"preprocessing": "p2"}, {"cut": "layer 3 of 6"}, {"kind": "pooled"}, {"dtype": "bf16"}]
)
def test_everything_that_changes_the_values_misses(rows, changes):
    with rows.open() as ragged:
        rows.fill(ragged)
    with rows.open(key(**changes)) as ragged:
        assert len(ragged.missing) == 40
        rows.fill(ragged)


def test_what_the_key_says_for_people_changes_nothing_and_can_be_read(rows):
    with rows.open() as ragged:
        rows.fill(ragged)
    assert len(rows.open(key(about="the same weights by another name")).missing) == 0
    (about,) = rows.files("key.json")
    assert json.loads(about.read_text()) == {
        "kind": "hidden",
        "weights": "w",
        "preprocessing": "p",
        "cut": "layer 4 of 6",
        "dtype": "fp32",
        "about": "minilm",
        "format": 1,
    }
    about.write_text("{")
    assert len(rows.open().missing) == 0


@TIERS
def test_a_flipped_byte_is_found_and_only_its_row_is_computed_again(tmp_path, memory_mb):
    rows = some_rows(tmp_path)
    with rows.open(memory_mb=memory_mb) as ragged:
        for row in range(40):  # in their order: then the place of each in the file is known
            ragged.put(np.array([row]), rows.values([row]))
    (path,) = rows.files()
    place = 64 + int(rows.lengths[:23].sum()) * WIDTH * 4 + 5
    flip(path, place)
    with rows.open(memory_mb=memory_mb) as ragged:
        assert rows.notes[-2].startswith("cache: 1 damaged rows were found by their checksum")
        np.testing.assert_array_equal(ragged.missing, [23])
        rows.fill(ragged)
        ragged.finish()
        rows.check(ragged)
    before = len(rows.notes)
    with rows.open(memory_mb=memory_mb) as ragged:  # the row is found in the newer file
        assert len(ragged.missing) == 0
        rows.check(ragged)
    assert len(rows.notes) == before + 1


def test_a_damaged_row_is_taken_from_another_file_that_has_it(tmp_path):
    rows = some_rows(tmp_path)
    first, second = rows.open(memory_mb=0), rows.open(memory_mb=0)  # at once: both compute everything
    for ragged in (first, second):
        for row in range(40):
            ragged.put(np.array([row]), rows.values([row]))
        ragged.finish()
        ragged.close()
    flip(rows.files()[1], 64 + 3)
    with rows.open(memory_mb=0) as ragged:
        assert len(ragged.missing) == 0
        rows.check(ragged)
    assert "damaged" in rows.notes[-2]


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "why", "stays"),
    [
        (lambda c: c[:-1], "it is truncated", False),
        (lambda c: c[: len(c) // 2], "it is truncated", False),
        (lambda c: b"", "it is not a file of features", False),
        (lambda c: b"hello" * 100, "it is not a file of features", False),
        (lambda c: c[:-70] + bytes([c[-70] ^ 1]) + c[-69:], "its index is damaged", False),
        (lambda c: c[:-48] + bytes([c[-48] ^ 1]) + c[-47:], "its end is damaged", False),
        (lambda c: c[:8] + b"\x02\0\0\0" + c[12:], "its format 2 is newer than 1", True),
        (lambda c: c + b"more", "it is truncated", False),
    ],
)
def test_a_file_that_cannot_be_used_is_noted_and_its_rows_are_computed_again(rows, damage, why, stays):
    with rows.open() as ragged:
        rows.fill(ragged)
    (path,) = rows.files()
    path.write_bytes(damage(path.read_bytes()))
    with rows.open() as ragged:
        assert rows.notes[1] == f"cache: {path} is left out, {why}; its rows are computed again"
        assert len(ragged.missing) == 40
        assert path.exists() is stays
        rows.fill(ragged)
        ragged.finish()
        rows.check(ragged)


def test_foreign_files_folders_and_other_shapes_in_the_folder_are_left_alone(rows):
    with rows.open() as ragged:
        rows.fill(ragged)
    folder = rows.files()[0].parent
    (folder / "notes.txt").write_text("mine")
    (folder / "x.ragged").mkdir()
    other = open_ragged(key(), digests(rows.names), rows.lengths, (WIDTH, 2), rows.options(), rows.notes.append)
    assert len(other.missing) == 40
    assert "its positions have 24 bytes, not 48" in rows.notes[-3]
    assert "cannot be read (Is a directory)" in rows.notes[-2]
    other.close()
    assert len(rows.open().missing) == 0
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_file_that_is_edited_while_it_is_read_is_an_error_that_says_what_to_do(rows):
    with rows.open(memory_mb=0) as ragged:
        rows.fill(ragged)
        ragged.finish()
        rows.files()[0].write_bytes(b"")
        with pytest.raises(MachineError) as caught:
            ragged.gather(np.arange(3))
    assert str(caught.value) == (
        f"features on disk can no longer be read\n  where: {rows.files()[0]}\n  got: the file has become shorter\n"
        "  to do: run the same command again: what is damaged is then computed anew"
    )


def fail_inside(rows, memory_mb):
    with rows.open(memory_mb=memory_mb) as ragged:
        rows.fill(ragged)
        raise ZeroDivisionError


@TIERS
def test_closing_without_finishing_leaves_nothing(rows, memory_mb):
    ragged = rows.open(memory_mb=memory_mb)
    rows.fill(ragged)
    assert len(rows.files(".part")) == 1
    ragged.close()
    assert list(rows.folder.rglob("*.*")) == []
    with pytest.raises(ZeroDivisionError):
        fail_inside(rows, memory_mb)
    assert list(rows.folder.rglob("*.*")) == []
    ragged = rows.open(memory_mb=memory_mb)
    rows.fill(ragged)
    del ragged  # forgotten
    assert rows.files(".part") == []


@TIERS
def test_long_work_is_kept_in_files_of_bounded_size(rows, memory_mb, monkeypatch):
    monkeypatch.setattr(ragged_module, "_SEGMENT_BYTES", 1000)
    ragged = rows.open(memory_mb=memory_mb)
    rows.fill(ragged)
    ragged.close()  # killed, as it were
    assert len(rows.files()) > 2
    with rows.open(memory_mb=memory_mb) as ragged:
        assert 0 < len(ragged.missing) < 15
        rows.fill(ragged)
        ragged.finish()
        rows.check(ragged)


@contextmanager
def largest_file(size):
    """Let the operating system refuse to write more into one file, as a full disk refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_the_features_in_memory(rows):
    with rows.open() as ragged:
        with largest_file(2000):
            rows.fill(ragged)
            assert ragged.finish() is True
        assert ragged.tier == "memory"
        rows.check(ragged)
    assert rows.notes[1:] == [
        "cache: in memory only: the disk gave up (File too large); the next run computes the features again"
    ]
    assert list(rows.folder.rglob("*.*")) == []


def test_a_disk_that_fills_up_is_off_where_memory_is_too_small(rows):
    with rows.open(memory_mb=0) as ragged:
        with largest_file(2000):
            assert len(rows.fill(ragged)) == 40
        assert ragged.tier == "off"
        assert ragged.put(np.array([0]), rows.values([0])) is False
        assert ragged.finish() is False
    assert rows.notes[1:] == [
        "cache: off: the disk gave up (File too large); the features are computed whenever they are needed"
    ]
    assert list(rows.folder.rglob("*.*")) == []


@TIERS
def test_a_disk_that_fills_up_at_the_very_end(rows, memory_mb):
    with rows.open(memory_mb=memory_mb) as ragged:
        rows.fill(ragged)
        size = rows.files(".part")[0].stat().st_size
        with largest_file(size + 10):
            assert ragged.finish() is (memory_mb > 0)
    assert "the disk gave up" in rows.notes[-1]
    assert list(rows.folder.rglob("*.*")) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    rows = some_rows(tmp_path / "file")
    with rows.open() as ragged:
        rows.fill(ragged)
        ragged.finish()
        rows.check(ragged)
    assert rows.notes[-1].startswith("cache: in memory only: the disk gave up (Not a directory)")


def test_the_least_recently_used_makes_room(tmp_path, monkeypatch):
    clock = iter(range(1000, 2000))
    monkeypatch.setattr(kept, "touch", lambda path: kept.os.utime(path, (now := next(clock), now)))
    monkeypatch.setattr("regraft.training.cache.found.touch", kept.touch)
    made = [big_rows(tmp_path, 2, first=1000 * i) for i in range(4)]
    for number, rows in enumerate(made[:3]):
        with rows.open(key(cut=str(number)), disk_mb=7) as ragged:
            rows.fill(ragged, 100)
        rows.open(key(cut=str(number)), disk_mb=7).close()
    made[0].open(key(cut="0"), disk_mb=7).close()  # used last
    with made[3].open(key(cut="3"), disk_mb=7) as ragged:
        made[3].fill(ragged, 100)
    left = {json.loads(path.read_text())["cut"] for path in made[0].files("key.json")}
    assert left == {"0", "2", "3"}
    assert sum(path.stat().st_size for path in made[0].files()) <= 7_000_000


def test_pruning_while_open_is_safe(rows):
    with rows.open(memory_mb=0) as ragged:
        rows.fill(ragged)
        assert kept.prune(rows.folder, max_bytes=0) == []  # what is being written is locked
        ragged.finish()
        assert len(kept.prune(rows.folder, max_bytes=0)) == 1
        assert list((rows.folder / "features").iterdir()) == []
        rows.check(ragged)
    with rows.open(memory_mb=0) as ragged:
        assert len(ragged.missing) == 40


@TIERS
def test_halves_are_those_of_the_rounded_numbers(rows, memory_mb):
    with rows.open(key(dtype="bf16"), memory_mb=memory_mb) as ragged:
        rows.fill(ragged)
        ragged.finish()
        got = ragged.gather(np.arange(40))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, to_bf16(rows.values(range(40))))
    assert np.abs(from_bf16(got) - rows.values(range(40))).max() < 2**-8 * 4


def test_rounding_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=200_000, dtype=np.uint64).astype(np.uint32)
    special = [0, 1, 0x7F7F_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x8000_0000, 0x0000_8000]
    ties = (np.arange(0, 2**16, 7, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([bits, np.array(special, np.uint32), ties]).view(np.float32)
    tensor = torch.from_numpy(values)
    expected = tensor.to(torch.bfloat16)
    got = to_bf16(values)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(got[number], expected.view(torch.uint16).numpy()[number])
    assert np.isnan(from_bf16(got[~number])).all()
    np.testing.assert_array_equal(from_bf16(got[number]), expected.float().numpy()[number])
    assert to_bf16(values.reshape(-1, 1)).shape == (len(values), 1)


def test_dense_rows_are_a_matrix(tmp_path):
    rows = Rows([str(i) for i in range(100)], np.ones(100, int), tmp_path)
    with rows.open(key(kind="pooled")) as ragged:
        rows.fill(ragged, 32)
        ragged.finish()
        matrix = ragged.gather(np.arange(100))
        assert matrix.shape == (100, WIDTH)
        assert matrix.flags.writeable
        matrix[:] = 0  # the caller's own
        rows.check(ragged)


@TIERS
def test_nothing_and_rows_without_positions(tmp_path, memory_mb):
    none = Rows([], np.zeros(0, int), tmp_path)
    with none.open(memory_mb=memory_mb) as ragged:
        assert len(ragged.missing) == 0
        assert ragged.gather(np.zeros(0, int)).shape == (0, WIDTH)
    rows = Rows(["a", "b", "c"], np.array([0, 2, 0]), tmp_path)
    with rows.open(memory_mb=memory_mb) as ragged:
        rows.fill(ragged, 1)
        ragged.finish()
        rows.check(ragged)
    assert len(rows.open(memory_mb=memory_mb).missing) == 0


def test_wrong_use_is_said(rows):
    with rows.open() as ragged:
        with pytest.raises(ValueError, match=r"values of shape \(\d+, 6\) are wanted, got \(1, 6\)"):
            ragged.put(np.arange(3), np.zeros((1, WIDTH), np.float32))
        with pytest.raises(IndexError):
            ragged.gather(np.array([40]))
    with pytest.raises(ValueError, match=r"digests are \(2, 16\), lengths \(3,\)"):
        open_ragged(key(), digests("ab"), np.ones(3), (1,), CacheOptions(), print)
    with pytest.raises(ValueError, match="lengths are from 0"):
        open_ragged(key(), digests("ab"), np.array([1, -1]), (1,), CacheOptions(), print)
    with pytest.raises(OptionsError):
        CacheOptions(memory_mb=-1)


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "a"))
    assert CacheOptions().place == tmp_path / "a"
    assert CacheOptions(folder=str(tmp_path / "b")).place == tmp_path / "b"
    monkeypatch.delenv("REGRAFT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CacheOptions().place == tmp_path / ".cache" / "regraft"
    assert (CacheOptions().disk_bytes, CacheOptions(enabled=False).disk_bytes) == (4096 * 10**6, 0)


def test_free_memory_is_the_least_of_the_machine_and_its_groups(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    membership = tmp_path / "cgroup"

    def free(text):
        membership.write_text(text)
        return budget_module.free_memory_bytes(meminfo, membership, tmp_path / "fs")

    assert free("") == 8_192_000
    group = tmp_path / "fs" / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("5000000\n")
    (group.parent / "memory.current").write_text("4000000\n")
    (group.parent / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert free("0::/a/b\n") == 1_500_000
    old = tmp_path / "fs" / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("3000000\n")
    (old / "memory.usage_in_bytes").write_text("2900000\n")
    (old / "memory.stat").write_text("total_inactive_file 50\n")
    assert free("5:cpu:/\n4:memory:/docker/x\n0::/a/b\n") == 100_050
    (old / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert free("4:memory:/docker/x\n") == 8_192_000


def test_the_memory_budget_is_a_quarter_of_what_is_free(monkeypatch):
    for free, expected in ((400, 100), (2**40, 1024 * 10**6), (None, 1024 * 10**6)):
        monkeypatch.setattr(budget_module, "free_memory_bytes", lambda free=free: free)
        assert budget_module.memory_budget_bytes(CacheOptions()) == expected
    assert budget_module.memory_budget_bytes(CacheOptions(memory_mb=3)) == 3_000_000


def test_opening_and_gathering_take_no_python_step_a_row(tmp_path):
    # Counted, not timed: a Python step a row would be some hundred thousand events.
    import sys

    count = 20_000
    rows = Rows([], np.ones(count, int), tmp_path)
    marks = np.random.default_rng(0).integers(0, 256, (count, 16), dtype=np.uint8)
    with open_ragged(key(), marks, rows.lengths, (2,), rows.options(), rows.notes.append) as ragged:
        ragged.put(np.arange(count), np.zeros((count, 2), np.float32))
    events = 0

    def count_events(frame, event, argument):
        nonlocal events
        events += 1

    sys.setprofile(count_events)
    try:
        ragged = open_ragged(key(), marks, rows.lengths, (2,), rows.options(memory_mb=100), rows.notes.append)
        opening, events = events, 0
        ragged.gather(np.random.default_rng(1).permutation(count))
    finally:
        sys.setprofile(None)
    assert len(ragged.missing) == 0
    assert events < 200
    assert opening < 5 * count  # one checksum a row, and nothing else


def test_features_of_the_test_depend_on_the_row():
    assert not np.array_equal(features("a", 2), features("b", 2))

"""Features shared by processes: two write at once, one dies, one prunes, and how much memory one takes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cache_rows import digests, key, some_rows

import regraft
from regraft.data.kept import kept_files, prune

_PATHS = os.pathsep.join([str(Path(regraft.__file__).parent.parent), str(Path(__file__).parent)])


def start(code: str, *arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": _PATHS}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


WRITER = """
import sys
from pathlib import Path
from cache_rows import some_rows
rows = some_rows(Path(sys.argv[1]), 200)
ragged = rows.open(memory_mb=int(sys.argv[2]))
print(len(ragged.missing), flush=True)
for _ in range(2):
    missing = ragged.missing[: 100]
    for row in missing:
        ragged.put([row], rows.values([row]))
    print("half", flush=True)
    sys.stdin.readline()
print(ragged.finish(), flush=True)
rows.check(ragged)
print("right", flush=True)
sys.stdin.readline()
rows.check(ragged)
print("still right", flush=True)
"""


def step(process: subprocess.Popen, answer: str) -> None:
    assert process.stdout.readline().strip() == answer
    process.stdin.write("\n")
    process.stdin.flush()


def done(process: subprocess.Popen, answer: str) -> None:
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, answer)


@pytest.mark.parametrize("memory_mb", [100, 0], ids=["memory", "disk"])
def test_two_processes_write_the_same_key_at_once(tmp_path, memory_mb):
    both = [start(WRITER, tmp_path, memory_mb) for _ in range(2)]
    for process in both:
        assert process.stdout.readline().strip() == "200"
    for _ in range(2):
        for process in both:
            step(process, "half")
    for process in both:
        assert process.stdout.readline().strip() == "True"
        step(process, "right")
        done(process, "still right")
    rows = some_rows(tmp_path, 200)
    with rows.open(memory_mb=memory_mb) as ragged:
        assert len(ragged.missing) == 0
        rows.check(ragged)
    assert len(rows.files()) == 2
    assert rows.files(".part") == []


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_read_or_stays(tmp_path):
    killed = start(WRITER, tmp_path, 0)
    assert killed.stdout.readline().strip() == "200"
    assert killed.stdout.readline().strip() == "half"
    alive = start(WRITER, tmp_path, 0)
    assert alive.stdout.readline().strip() == "200"
    assert alive.stdout.readline().strip() == "half"
    assert len(kept_files(tmp_path)) == 2
    assert prune(tmp_path, max_bytes=0) == []  # both are at work
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    rows = some_rows(tmp_path, 200)
    with rows.open() as ragged:  # makes room, and finds what the dead one has left
        assert len(ragged.missing) == 200
        assert len(kept_files(tmp_path)) == 1
        rows.fill(ragged)
        ragged.finish()
        rows.check(ragged)
    alive.stdin.write("\n")
    alive.stdin.flush()
    step(alive, "half")
    assert alive.stdout.readline().strip() == "True"
    step(alive, "right")
    done(alive, "still right")
    assert len(rows.files()) == 2
    assert rows.files(".part") == []


READER = """
import sys
from pathlib import Path
from cache_rows import some_rows
rows = some_rows(Path(sys.argv[1]), 60)
again = 0
for turn in range(int(sys.argv[2])):
    with rows.open(memory_mb=100 * (turn % 2)) as ragged:
        missing = rows.fill(ragged, 20)
        ragged.finish()
        rows.check(ragged)
        again += len(missing) > 0
assert not [note for note in rows.notes if "damaged" in note or "left out" in note or "gave up" in note], rows.notes
print(again)
"""


def test_pruning_beside_processes_that_read_and_write(tmp_path):
    both = [start(READER, tmp_path, 25) for _ in range(2)]
    removed = 0
    while any(process.poll() is None for process in both):
        removed += len(prune(tmp_path, max_bytes=0))
    recomputed = 0
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        recomputed += int(out)
    assert removed > 0
    assert recomputed > 2


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from cache_rows import digests, key
from regraft.training.cache import CacheOptions, open_ragged

def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024

count, positions, width = 1500, 64, 384
block = np.random.default_rng(0).standard_normal((32 * positions, width)).astype(np.float32)
marks, lengths = digests(range(count)), np.full(count, positions)
options = CacheOptions(memory_mb=20, disk_mb=1000, folder=sys.argv[1])
before = high_water()
for turn in range(2):
    ragged = open_ragged(key(), marks, lengths, (width,), options, lambda text: None)
    assert ragged.tier == "disk"
    for start in range(0, count, 32):
        rows = np.arange(start, min(start + 32, count))
        if not turn:
            ragged.put(rows, block[: len(rows) * positions])
    ragged.finish()
    for rows in np.array_split(np.random.default_rng(1).permutation(count), count // 16):
        assert len(ragged.gather(rows)) == len(rows) * positions
    ragged.close()
print(high_water() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say what a process has taken")
def test_what_does_not_fit_stays_within_the_memory_budget(tmp_path):
    # 147 MB of features, 20 MB of memory; 50,000 rows of this shape grow by 29 MB with a budget of 200.
    process = start(MEMORY, tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert int(out) <= 20e6 * 1.2
    assert sum(kept.size_bytes for kept in kept_files(tmp_path)) > 140e6


def test_the_names_of_the_test_are_digests():
    assert digests("ab").shape == (2, 16)
    assert len(key().digest) == 32
    assert not np.array_equal(*digests("ab"))

"""The profile of the machine: kept, merged, damaged, raised; the peak of matrix products; what the processor has."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock

from regraft.training import machine
from regraft.training.machine import Profile, best_rate, bf16_in_hardware, peak_flops, processor

CUDA = torch.device("cuda")


def profile(folder) -> Profile:
    return Profile(folder / "machine" / "p.json", {"processor": "toy"})


def test_what_is_remembered_is_recalled_by_the_next_process(tmp_path):
    assert profile(tmp_path).recall("speed", "net") is None
    assert profile(tmp_path).remember("speed", "net", {"s": 0.5}) == {"s": 0.5}
    assert profile(tmp_path).recall("speed", "net") == {"s": 0.5}
    assert profile(tmp_path).recall("other", "net") is None
    assert json.loads((tmp_path / "machine" / "p.json").read_text())["machine"] == {"processor": "toy"}


def test_two_runs_do_not_overwrite_each_other(tmp_path):
    first, second = profile(tmp_path), profile(tmp_path)
    first.remember("speed", "a", 1.0)
    second.remember("speed", "b", 2.0)
    third = profile(tmp_path)
    assert (third.recall("speed", "a"), third.recall("speed", "b")) == (1.0, 2.0)
    assert second.recall("speed", "a") == 1.0
    assert first.remember("speed", "b", 9.0, max) == 9.0
    assert second.remember("speed", "b", 3.0, max) == 9.0
    assert second.remember("speed", "b", 3.0) == 3.0


def test_many_processes_at_once_lose_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from regraft.training.machine import Profile\n"
        "for i in range(20): Profile(Path(sys.argv[1]) / 'machine' / 'p.json', {}).remember('k', f'{sys.argv[2]}-{i}', i)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [each.wait(60) for each in running] == [0, 0]
    found = profile(tmp_path)
    assert all(found.recall("k", f"{name}-{i}") == i for name in "ab" for i in range(20))
    assert not [path for path in (tmp_path / "machine").iterdir() if path.suffix not in {".json", ".lock"}]


def test_who_cannot_get_the_lock_does_not_write(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_LOCK_S", 0.05)
    found = profile(tmp_path)
    found.remember("k", "a", 1)
    with FileLock(found.path.with_suffix(".lock")):
        assert found.remember("k", "b", 2) == 2
    assert (found.recall("k", "b"), profile(tmp_path).recall("k", "b")) == (2, None)
    found.remember("k", "c", 3)
    assert profile(tmp_path).recall("k", "b") == 2  # said to the disk as soon as it listens


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'{"format": 99, "entries": {"speed": {"net": 1}}}',
        b'{"format": 1, "entries": 3}',
        b'{"format": 1, "entries": {"speed": [1]}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_profile_is_an_empty_one_and_is_made_anew(tmp_path, content):
    path = tmp_path / "machine" / "p.json"
    path.parent.mkdir()
    path.write_bytes(content)
    found = profile(tmp_path)
    assert found.recall("speed", "net") is None
    found.remember("speed", "net", 2.0)
    assert profile(tmp_path).recall("speed", "net") == 2.0


def test_where_nothing_can_be_written_the_run_still_remembers(tmp_path):
    (tmp_path / "machine").write_text("a file stands where the folder should be")
    found = profile(tmp_path)
    assert found.remember("speed", "net", 2.0) == 2.0
    assert found.recall("speed", "net") == 2.0
    assert profile(tmp_path).recall("speed", "net") is None


def test_the_oldest_entries_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_MOST_ENTRIES", 2)
    found = profile(tmp_path)
    for key in "abac":
        found.remember("k", key, key)
    assert [profile(tmp_path).recall("k", key) for key in "abc"] == ["a", None, "c"]


def test_the_file_is_named_by_what_the_measurements_hold_for(tmp_path, monkeypatch):
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path))
    here = Profile.load()
    assert here.path.parent == tmp_path / "machine"
    assert here.facts["torch"] == torch.__version__
    assert Profile.load().path == here.path
    monkeypatch.setattr(machine, "available_cores", lambda: 77)
    assert Profile.load().path != here.path
    assert not here.path.parent.exists()  # looking leaves nothing behind


def test_the_best_rate_is_the_best_of_all_sizes_and_repeats():
    seconds = {256: [1e-2, 2e-3], 512: [5e-3, 4e-3]}
    asked = []

    def clock(size):
        asked.append(size)
        return seconds[size].pop(0) if seconds[size] else 1.0

    assert best_rate(clock, (256, 512), 0.1) == pytest.approx(2 * 512**3 / 4e-3)
    assert asked[:4] == [256, 512, 256, 512]


def test_the_budget_leaves_out_what_would_take_too_long():
    spent = []

    def clock(size):
        spent.append(2 * size**3 / 1e9)  # a machine of 1 GFLOP/s
        return spent[-1]

    assert best_rate(clock, (256, 512, 1024, 2048), 1.0) == pytest.approx(1e9)
    assert sum(spent) <= 1.0
    assert len(spent) > 4


def test_a_peak_is_measured_in_a_few_runs_and_the_highest_counts(tmp_path):
    def gives(rate):
        return lambda size: 2 * size**3 / rate

    found = [
        peak_flops("fp32", 1, profile=profile(tmp_path), clock=gives(rate)) for rate in (5e9, 9e9, 7e9, 8e9, 6e9, 99e9, 99e9)
    ]
    assert found == pytest.approx([5e9, 9e9, 9e9, 9e9, 9e9, 9e9, 9e9])
    once = profile(tmp_path / "other")
    assert [peak_flops("fp32", 1, profile=once, clock=gives(rate)) for rate in (5e9, 9e9)] == pytest.approx([5e9, 5e9])
    assert peak_flops("bf16", 1, profile=once, clock=gives(3e9)) == pytest.approx(3e9)
    assert peak_flops("fp32", 2, profile=once, clock=gives(4e9)) == pytest.approx(4e9)


@pytest.mark.parametrize(
    "entry", [3, {"flops": "fast", "measurements": 9}, {"flops": -1.0, "measurements": 9}, {"flops": 1e9, "measurements": 0}]
)
def test_a_peak_that_is_none_is_measured_again(tmp_path, entry):
    profile(tmp_path).remember("matrix product", "cpu fp32 1 threads", entry)
    assert peak_flops("fp32", 1, profile=profile(tmp_path), clock=lambda size: 2 * size**3 / 2e9) == pytest.approx(2e9)


def test_products_are_really_multiplied_and_the_random_state_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_FIRST_S", 0.02)
    shapes, mm = [], torch.mm

    def spy(left, right, out):
        shapes.append((left.shape, right.dtype, torch.get_num_threads()))
        return mm(left, right, out=out)

    monkeypatch.setattr(torch, "mm", spy)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    begin = time.perf_counter()
    found = peak_flops("fp32", 2, profile=profile(tmp_path))
    assert found > 2 * 256**3 / (time.perf_counter() - begin)
    assert shapes[0] == ((256, 256), torch.float32, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


FLAGS = "processor\t: 0\nmodel name\t: Toy 9000\nflags\t\t: fpu avx2{}\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (FLAGS.format(""), False),
        (FLAGS.format(" avx512f avx512bw"), False),
        (FLAGS.format(" avx512_bf16"), True),
        (FLAGS.format(" amx_bf16 amx_tile"), True),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
    ],
)
def test_bf16_arithmetic_is_read_off_the_processors_flags(tmp_path, cpuinfo, expected):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert bf16_in_hardware(None, tmp_path / "cpuinfo") is expected


def test_without_flags_torch_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "cores": 3}, raising=False)
    assert bf16_in_hardware(None, tmp_path / "nothing")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert not bf16_in_hardware(None, tmp_path / "nothing")


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_is_asked_without_emulation(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has and not including_emulation)
    assert bf16_in_hardware(CUDA) is has


def test_the_processor_has_a_name(tmp_path):
    (tmp_path / "cpuinfo").write_text(FLAGS.format(""))
    assert processor(tmp_path / "cpuinfo") == "Toy 9000"
    assert processor(tmp_path / "nothing")

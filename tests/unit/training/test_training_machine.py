"""Threads, device, seeds: counted right, and put back."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from regraft.errors import OptionsError
from regraft.training.device import choose_device
from regraft.training.options import MachineOptions
from regraft.training.seed import network_randomness, row_generator
from regraft.training.threads import available_cores, default_threads, with_threads

CPU = torch.device("cpu")


@pytest.fixture
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def tree(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root / "membership", root / "cgroup"


V1 = "3:cpuset:/\n2:cpu,cpuacct:/jobs/one\n1:memory:/jobs/one\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"membership": "0::/\n", "cgroup/cpu.max": "max 100000\n"}, 16),
        ({"membership": "0::/\n", "cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"membership": "0::/\n", "cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"membership": "0::/\n", "cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"membership": "0::/\n", "cgroup/cpu.max": "6400000 100000\n"}, 16),
        ({"membership": "0::/a/b\n", "cgroup/a/b/cpu.max": "max 100000\n", "cgroup/a/cpu.max": "400000 100000\n"}, 4),
        ({"membership": "0::/host/path\n", "cgroup/cpu.max": "500000 100000\n"}, 5),
        ({"membership": "0::/../sibling\n", "cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"membership": "0::/\n", "cgroup/cpu.max": "rubbish"}, 16),
        (
            {
                "membership": V1,
                "cgroup/cpu,cpuacct/jobs/one/cpu.cfs_quota_us": "200000\n",
                "cgroup/cpu,cpuacct/jobs/one/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        ({"membership": V1, "cgroup/cpu/cpu.cfs_quota_us": "700000\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 7),
        ({"membership": V1, "cgroup/cpu/cpu.cfs_quota_us": "-1\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
@pytest.mark.usefixtures("sixteen_cores")
def test_cores_are_what_the_kernel_lets_this_process_use(tmp_path, files, cores):
    assert available_cores(*tree(tmp_path, files)) == cores


def test_affinity_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert available_cores(*tree(tmp_path, {})) == 2
    assert 1 <= available_cores() <= 2


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("0", None), ("", None), ("many", None)])
def test_the_users_own_thread_count_comes_first(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == (threads or available_cores())


def test_threads_are_set_inside_the_block_and_put_back(monkeypatch):
    before = torch.get_num_threads()
    with with_threads(3) as count:
        assert count == torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(ZeroDivisionError), with_threads(None):
        1 / (torch.get_num_threads() - 2)
    assert torch.get_num_threads() == before


def test_auto_takes_what_is_there():
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device(MachineOptions()).type == wanted
    assert choose_device(MachineOptions(device="cpu")).type == "cpu"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionsError) as caught:
        choose_device(MachineOptions(device="cuda"))
    for part in (
        "no GPU that torch can use",
        f"torch {torch.__version__} is built",
        "expected: 'auto' or 'cpu'",
        "leave 'device' out",
    ):
        assert part in str(caught.value)


def test_rows_are_drawn_from_seed_and_epoch():
    def order(seed, epoch):
        return row_generator(seed, epoch).permutation(20).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2**62) for epoch in (0, 1)}) == 6


def draw(seed, step):
    with network_randomness(seed, step, CPU):
        return torch.rand(4)


def test_network_randomness_is_a_function_of_seed_and_step_alone():
    assert torch.equal(draw(3, 7), draw(3, 7))
    assert not torch.equal(draw(3, 7), draw(3, 8))
    assert not torch.equal(draw(3, 7), draw(4, 7))
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with pytest.raises(ZeroDivisionError), network_randomness(1, 1, CPU):
        1 / (len(torch.rand(5)) - 5)
    assert torch.equal(torch.rand(2), expected)


def test_steps_do_not_share_their_draws():
    draws = np.stack([draw(0, step).numpy() for step in range(500)])
    assert len(np.unique(draws[:, 0])) == 500
    assert abs(draws.mean() - 0.5) < 0.03

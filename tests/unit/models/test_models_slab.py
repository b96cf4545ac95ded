"""Memory that is given out in parts: no two at once in one place, and all of it again once it is free."""

from __future__ import annotations

import copy
import os
import random
import sys

import pytest
import torch

import regraft.models.slab as slab_module
from regraft.models.slab import Slab, room

ROWS = 1 << 10


def tensor(slab, columns, value):
    return slab.empty(torch.Size((ROWS, columns))).fill_(value)


def test_parts_in_use_never_overlap():
    slab, rng, held = Slab(), random.Random(0), []
    for number in range(500):
        held.append((tensor(slab, rng.choice([64, 96, 128, 4096]), number), number))
        while len(held) > 12:
            held.pop(rng.randrange(len(held)))
    assert all(bool((values == number).all()) for values, number in held)
    assert all(values.data_ptr() % 64 == 0 for values, _ in held)
    assert len(slab._pieces) <= 6  # 12 parts of at most 16 MiB


def test_a_part_is_used_again_when_its_last_view_is_gone():
    slab = Slab()
    first, stays = tensor(slab, 64, 1.0), tensor(slab, 64, 2.0)
    place, part = first.data_ptr(), first[3:5].t()
    del first
    assert tensor(slab, 64, 3.0).data_ptr() != place
    assert bool((part == 1.0).all())
    del part
    assert tensor(slab, 64, 4.0).data_ptr() == place
    assert bool((stays == 2.0).all())


def test_a_piece_that_is_free_takes_parts_of_other_sizes():
    slab = Slab()
    for columns in range(64, 1024, 8):
        several = [tensor(slab, columns, number) for number in range(12)]
        assert [float(one[0, 0]) for one in several] == list(range(12))
        del several
    assert len(slab._pieces) == 1


def test_gaps_that_touch_take_what_is_larger_and_leave_the_rest():
    slab = Slab()
    one, two, three, _last = (tensor(slab, columns, 1.0) for columns in (64, 128, 64, 64))
    place, used = one.data_ptr(), slab.used()
    assert used == ROWS * (64 + 128 + 64 + 64) * 4
    del one, three, two  # the last one closes the gap between the others
    assert slab.used() == ROWS * 64 * 4
    larger, rest = tensor(slab, 192, 2.0), tensor(slab, 64, 3.0)
    assert (larger.data_ptr(), rest.data_ptr()) == (place, place + ROWS * 192 * 4)
    assert (slab.used(), len(slab._pieces)) == (used, 1)


def test_the_smallest_gap_that_is_large_enough_is_taken():
    slab = Slab()
    sizes = (256, 64, 128, 64, 192, 64)
    several = [tensor(slab, columns, 1.0) for columns in sizes]
    places = [one.data_ptr() for one in several]
    for place in (0, 2, 4):
        several[place] = None
    assert [tensor(slab, columns, 1.0).data_ptr() for columns in (128, 192, 256)] == [places[2], places[4], places[0]]


def test_a_part_that_goes_while_another_is_looked_for_is_not_lost():
    """As garbage is collected at any time: here the gaps are read by something that lets a part go."""
    slab = Slab()
    held = [tensor(slab, 64, 1.0), tensor(slab, 64, 2.0)]

    class Gaps(list):
        def __iter__(self):
            held.clear()
            return super().__iter__()

    (piece,) = slab._pieces
    piece._gaps = Gaps(piece._gaps)
    other = tensor(slab, 96, 3.0)
    assert slab.used() == ROWS * 96 * 4
    assert bool((tensor(slab, 64, 4.0) == 4.0).all())
    assert bool((other == 3.0).all())


def test_a_copy_has_memory_of_its_own():
    slab = Slab()
    held = tensor(slab, 64, 1.0)
    assert copy.deepcopy(slab).used() == 0
    assert slab.used() == held.nbytes


def test_what_is_larger_than_a_piece_has_one_of_its_own(monkeypatch):
    monkeypatch.setattr(slab_module, "_PIECE", 1 << 19)
    slab = Slab()
    large, next_to_it = tensor(slab, 1024, 1.0), tensor(slab, 64, 2.0)
    assert [len(piece.memory) for piece in slab._pieces] == [1 << 22, 1 << 19]
    assert bool((large == 1.0).all())
    assert bool((next_to_it == 2.0).all())


def test_what_was_released_stays_until_it_is_free():
    slab = Slab()
    held = tensor(slab, 64, 1.0)
    slab.release()
    assert slab._pieces == []
    other = tensor(slab, 64, 2.0)
    assert bool((held == 1.0).all())
    assert bool((other == 2.0).all())
    del held, other


def test_small_other_formats_and_other_devices_come_from_torch():
    slab = Slab()
    assert slab.empty(torch.Size((3, 4))).shape == (3, 4)
    shape = torch.Size((ROWS, 512))
    assert room(slab, shape, torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert room(slab, shape, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert room(slab, shape, torch.zeros(1, device="meta")).device.type == "meta"
    assert room(None, shape, torch.zeros(1)).shape == shape
    assert slab._pieces == []
    assert room(slab, shape, torch.zeros(1)).shape == shape
    assert len(slab._pieces) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no processes are forked there")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_process_has_memory_of_its_own():
    slab = Slab()
    values = tensor(slab, 64, 1.0).numpy()
    child = os.fork()
    if not child:
        values[:] = 2.0
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert float(values.min()) == float(values.max()) == 1.0

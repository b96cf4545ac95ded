"""Encoded rows: the same batches in memory and on disk, exact counts, nothing left behind."""

import gc
import tempfile
import weakref
from types import MappingProxyType

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from regraft.errors import MachineError
from regraft.modalities import encoded as module
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.text import Text, TextOptions
from regraft.types import Encoded

RNG = np.random.default_rng(0)
RAWS = [" ".join(RNG.choice(["good", "day", "to", "you"], size=n)) for n in RNG.integers(1, 30, size=200)]


def text(max_length=20):
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["?", "good", "day", "to", "you"])}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Text(tokenizer, TextOptions(max_length=max_length), inputs=("input_ids", "token_type_ids"), pad_id=9)


def chunks(size=32):
    return (RAWS[start : start + size] for start in range(0, len(RAWS), size))


@pytest.mark.parametrize("memory_bytes", [0, 1000, 2**30])
def test_batches_are_those_of_the_modality_whatever_the_budget(memory_bytes):
    modality = text()
    rows = EncodedRows(modality, chunks(), memory_bytes)
    assert rows.on_disk is (memory_bytes < 2**20)
    one_by_one = modality.encode(RAWS)
    targets = np.arange(200) * 10
    for index in (np.array([3]), np.arange(200), RNG.permutation(200)[:50], np.array([5, 5, 7]), np.array([199, 0])):
        batch = rows.batch(index, targets)
        inputs, mask = modality.collate([one_by_one[i] for i in index])
        for name, expected in inputs.items():
            np.testing.assert_array_equal(batch.inputs[name], expected)
            assert batch.inputs[name].dtype == np.int64
            assert not isinstance(batch.inputs[name], np.memmap)
        np.testing.assert_array_equal(batch.mask_BT, mask)
        np.testing.assert_array_equal(batch.targets, index * 10)
        np.testing.assert_array_equal(batch.rows_B, index)
    assert rows.batch(np.array([0])).targets is None


@pytest.mark.parametrize("memory_bytes", [0, 2**30])
def test_counts(memory_bytes):
    rows = EncodedRows(text(), chunks(), memory_bytes)
    lengths = np.array([len(raw.split()) for raw in RAWS])
    np.testing.assert_array_equal(rows.lengths, np.minimum(lengths, 20))
    assert len(rows) == 200
    assert rows.positions == np.minimum(lengths, 20).sum()
    assert rows.dropped == np.maximum(lengths - 20, 0).sum()
    assert rows.truncated_rows == (lengths > 20).sum()


def test_whole_numbers_are_held_in_four_bytes():
    rows = EncodedRows(text(), chunks())
    assert {array.dtype for array in rows._flat.values()} == {np.dtype(np.int32)}


def test_other_shapes_and_types_and_chunks_of_nothing():
    class Waves(Text):
        padding = MappingProxyType({"waves": -1.0})

        def encode(self, raws, *, spans=True):
            zeros = [np.zeros((len(raw), 2), np.int32) for raw in raws]
            return [
                Encoded(inputs={"waves": np.asarray(raw, np.float32)}, spans_T2=z) for raw, z in zip(raws, zeros, strict=True)
            ]

    modality = Waves.__new__(Waves)
    raws = [RNG.random((n, 2, 3)) for n in (2, 0, 4)]
    for budget in (0, 2**30):
        rows = EncodedRows(modality, [[], raws[:2], [], raws[2:]], budget)
        batch = rows.batch(np.array([2, 1, 0]))
        assert batch.inputs["waves"].dtype == np.float32
        assert batch.inputs["waves"].shape == (3, 4, 2, 3)
        np.testing.assert_array_equal(batch.inputs["waves"][2, :2], raws[0].astype(np.float32))
        assert (batch.inputs["waves"][1] == -1).all()


def test_no_rows():
    rows = EncodedRows(text(), iter([]))
    assert (len(rows), rows.positions, rows.dropped) == (0, 0, 0)
    assert rows.lengths.shape == (0,)


def test_the_file_vanishes_with_the_object(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = EncodedRows(text(), chunks(), 0)
    assert rows.on_disk
    assert list(tmp_path.iterdir()) == []  # it has no name from the start
    maps = [weakref.ref(array._mmap) for array in rows._flat.values()]
    assert [made() is None for made in maps] == [False, False]
    batch = rows.batch(np.arange(3))
    del rows
    gc.collect()
    assert [made() is None for made in maps] == [True, True]  # and with the map the bytes are gone
    assert batch.inputs["input_ids"].shape[0] == 3


def test_memory_does_not_grow_with_the_rows():
    import tracemalloc

    def peak(repeats):
        modality = text()
        tracemalloc.start()
        rows = EncodedRows(modality, (RAWS for _ in range(repeats)), 2_000)
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached, rows

    small, _ = peak(2)
    large, rows = peak(12)
    assert len(rows) == 2_400
    # Lengths, offsets and digests only; the tokens are on disk.
    assert large - small < rows.lengths.nbytes * 4 + rows.digests.nbytes * 2 + 30_000


def test_a_full_disk_is_said(monkeypatch):
    class Full:
        def close(self):
            pass

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(MachineError) as caught:
        EncodedRows(text(), chunks(), 0)
    assert str(caught.value).startswith("the disk is full\n")
    assert "TMPDIR" in str(caught.value)

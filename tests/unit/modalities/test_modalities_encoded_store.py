"""Encoded rows kept between runs: equal to those encoded anew, found by content, damaged ones noticed."""

import errno

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from regraft.data import kept
from regraft.modalities import encoded_store as module
from regraft.modalities.digests import modality_digest, row_digests
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.encoded_store import EncodedStore
from regraft.modalities.modality import Modality
from regraft.modalities.text import Text, TextOptions
from regraft.types import Encoded

RNG = np.random.default_rng(0)
RAWS = [" ".join(RNG.choice(["good", "day", "to", "you"], size=n)) for n in RNG.integers(1, 30, size=200)]


class Counting(Text):
    """Text that counts what it encodes."""

    encoded = 0

    def encode(self, raws, *, spans=True):
        self.encoded += len(raws)
        return super().encode(raws, spans=spans)


def text(max_length=20):
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["?", "good", "day", "to", "you"])}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Counting(tokenizer, TextOptions(max_length=max_length), inputs=("input_ids", "token_type_ids"), pad_id=9)


def store(folder, modality, notes=None, budget=10**8, fewest_rows=1):
    note = (notes if notes is not None else []).append
    return EncodedStore(folder, budget, modality_digest(modality), note, about="text, tiny", fewest_rows=fewest_rows)


def chunked(raws, size=32):
    return lambda: (raws[start : start + size] for start in range(0, len(raws), size))


def same(one, other):
    np.testing.assert_array_equal(one.digests, other.digests)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    assert one.lengths.dtype == other.lengths.dtype == np.int64
    assert (one.dropped, one.truncated_rows) == (other.dropped, other.truncated_rows)
    assert one._flat.keys() == other._flat.keys()
    for name, values in one._flat.items():
        assert values.dtype == other._flat[name].dtype
        np.testing.assert_array_equal(values, other._flat[name])
    for index in (np.arange(len(one)), np.array([len(one) - 1, 0])):
        mine, theirs = one.batch(index), other.batch(index)
        for name, values in mine.inputs.items():
            np.testing.assert_array_equal(values, theirs.inputs[name])
            assert values.flags.writeable


@pytest.mark.parametrize("memory_bytes", [2**30, 0], ids=["memory", "spilled"])
def test_rows_are_encoded_once(tmp_path, memory_bytes):
    modality, notes = text(), []
    plain = EncodedRows(modality, chunked(RAWS)())
    first = EncodedRows(modality, chunked(RAWS), memory_bytes, store=store(tmp_path, modality, notes))
    assert modality.encoded == 400
    again = EncodedRows(modality, chunked(RAWS, 50), store=store(tmp_path, modality, notes))
    assert modality.encoded == 400
    same(first, plain)
    same(again, plain)
    assert (first.on_disk, again.on_disk) == (memory_bytes == 0, True)
    np.testing.assert_array_equal(plain.digests, row_digests(RAWS))
    assert notes == []
    assert plain.dropped > 0


def test_the_file_is_one_that_any_tool_reads(tmp_path):
    modality = text()
    rows = EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality))
    (path,) = tmp_path.rglob("*.arrow")
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.column_names == ["row_digest", "input_ids", "token_type_ids"]
    expected = rows._flat["input_ids"][: rows.lengths[0]].tolist()
    assert table["input_ids"][0].as_py() == expected
    assert table["row_digest"][3].as_py() == rows.digests[3].tobytes()


@pytest.mark.parametrize(
    ("raws", "max_length"),
    [
        ([*RAWS[:-1], RAWS[-1] + "!"], 20),
        (RAWS[::-1], 20),
        (RAWS[:-1], 20),
        ([*RAWS, "good"], 20),
        (RAWS, 21),
    ],
    ids=["one character", "another order", "one less", "one more", "another option"],
)
def test_everything_that_changes_the_rows_misses(tmp_path, raws, max_length):
    EncodedRows(text(), chunked(RAWS), store=store(tmp_path, text()))
    modality = text(max_length)
    rows = EncodedRows(modality, chunked(raws), store=store(tmp_path, modality))
    assert modality.encoded == len(raws)
    same(rows, EncodedRows(text(max_length), chunked(raws)()))


def test_a_flipped_byte_anywhere_is_found_and_the_rows_are_encoded_again(tmp_path):
    EncodedRows(text(), chunked(RAWS), store=store(tmp_path, text()))
    (path,) = tmp_path.rglob("*.arrow")
    content = path.read_bytes()
    for place in [0, len(content) // 3, len(content) // 2, len(content) - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        modality, notes = text(), []
        rows = EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality, notes))
        assert notes == [f"cache: {path} is left out, its content is not what was written; its rows are encoded again"]
        assert modality.encoded == 200
        same(rows, EncodedRows(text(), chunked(RAWS)()))
        assert not path.exists()
        (path,) = tmp_path.rglob("*.arrow")
        assert path.read_bytes() == content  # the same rows give the same bytes


def as_written(path, content):
    """Put other content there under a name that agrees with it."""
    path.write_bytes(content)
    digest = module.hashlib.sha256(content).hexdigest()[:32]
    return path.rename(path.with_name(kept.file_name(".arrow", digest)))


def test_files_that_are_not_what_their_key_says_are_left_out(tmp_path):
    modality = text()
    EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality))
    (path,) = tmp_path.rglob("*.arrow")
    content, folder = path.read_bytes(), path.parent
    EncodedRows(modality, chunked(RAWS[::-1]), store=store(tmp_path, modality))
    (other,) = set(tmp_path.rglob("*.arrow")) - {path}
    newer = content.replace(b'{"format": 1', b'{"format": 2')
    assert newer != content
    cases = {b"": "cannot be read", content[: len(content) // 2]: "cannot be read", b"hello": "cannot be read"}
    cases |= {other.read_bytes(): "it holds other rows", newer: "its format is 2"}
    for wrong, why in cases.items():
        (path,) = folder.glob("*.arrow")
        as_written(path, wrong)
        notes = []
        same(
            EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality, notes)),
            EncodedRows(modality, chunked(RAWS)()),
        )
        assert why in notes[0], notes


def test_small_splits_are_not_written_and_no_budget_means_no_store(tmp_path):
    modality = text()
    for given in (store(tmp_path, modality, fewest_rows=201), store(tmp_path, modality, budget=0)):
        same(EncodedRows(modality, chunked(RAWS), store=given), EncodedRows(modality, chunked(RAWS)()))
    assert list(tmp_path.iterdir()) == []
    assert module.FEWEST_ROWS >= 1000


def test_rows_beyond_the_budget_are_not_written_and_older_ones_make_room(tmp_path):
    modality = text()
    EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality, budget=10_000))
    assert list(tmp_path.rglob("*.arrow")) == []
    for turn in range(4):
        EncodedRows(modality, chunked([f"{turn}", *RAWS]), store=store(tmp_path, modality, budget=80_000))
    files = list(tmp_path.rglob("*.arrow"))
    assert 1 <= len(files) < 4
    assert sum(path.stat().st_size for path in files) < 80_000


def test_a_disk_that_is_full_costs_a_note_and_not_the_run(tmp_path, monkeypatch):
    modality, notes = text(), []

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kept.NewFile, "write", full)
        rows = EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality, notes))
    with monkeypatch.context() as patch:
        patch.setattr(module, "free_disk_bytes", lambda folder: 0)
        EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality, notes))
    same(rows, EncodedRows(modality, chunked(RAWS)()))
    assert notes == [
        "cache: the encoded rows are not kept: No space left on device",
        f"cache: the encoded rows are not kept: the disk of {tmp_path} has no 0 MB to spare",
    ]
    assert list(tmp_path.rglob("*.*")) == []


def test_pruning_while_rows_are_read_is_safe(tmp_path):
    modality = text()
    EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality))
    rows = EncodedRows(modality, chunked(RAWS), store=store(tmp_path, modality))
    assert len(kept.prune(tmp_path, max_bytes=0)) == 1
    assert list((tmp_path / "tokens").iterdir()) == []
    same(rows, EncodedRows(modality, chunked(RAWS)()))


class Waves(Modality):
    """Numbers of other shapes and types."""

    name = "waves"
    dtype = np.float32
    padding = {"waves": 0.0, "loud": 0.0}  # noqa: RUF012

    def problem(self, raw):
        return ""

    def encode(self, raws, *, spans=True):
        return [
            Encoded(
                inputs={"waves": np.asarray(raw, self.dtype), "loud": np.asarray(raw)[:, 0, 0] > 0.5},
                spans_T2=np.zeros((len(raw), 2), np.int32),
            )
            for raw in raws
        ]

    def spec(self):
        return {}

    def save(self, folder):
        pass

    load = recognises = example = classmethod(lambda cls, *arguments: None)


def test_other_shapes_and_types(tmp_path):
    modality, raws = Waves(), [RNG.random((n, 2, 3)) for n in (2, 0, 4)]
    plain = EncodedRows(modality, [raws])
    for _ in range(2):
        rows = EncodedRows(modality, lambda: [raws], store=store(tmp_path, modality))
        np.testing.assert_array_equal(rows._flat["waves"], plain._flat["waves"])
        assert rows._flat["waves"].shape == (6, 2, 3)
        assert rows._flat["loud"].dtype == np.bool_
        np.testing.assert_array_equal(rows._flat["loud"], plain._flat["loud"])
    assert rows.on_disk


def test_chunks_that_can_be_read_once_only_are_refused_with_a_store(tmp_path):
    with pytest.raises(TypeError, match="with a store, chunks are a function"):
        EncodedRows(text(), chunked(RAWS)(), store=store(tmp_path, text()))

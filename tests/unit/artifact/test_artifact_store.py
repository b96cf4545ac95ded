from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from artifact_making import body, fill_with, mark_of

from regraft.artifact import files as disk
from regraft.artifact.files import Files, stage_name, sweep_stages
from regraft.artifact.manifest import ManifestBody
from regraft.artifact.store import check_out, read_artifact, write_artifact, write_json
from regraft.errors import ArtifactError, GateError, MachineError, UsageError


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_an_artifact_appears_whole_with_ordinary_rights_and_nothing_beside_it(tmp_path: Path):
    made = write_artifact(tmp_path / "deep" / "er" / "spam", fill_with("first"))
    assert read_artifact(made.path) == made
    assert sorted(made.manifest.files) == ["backbone/config.json", "report.json", "weights.safetensors"]
    assert made.size_bytes == sum(p.stat().st_size for p in made.path.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert hidden(made.path.parent) == []
    plain = tmp_path / "plain"
    plain.mkdir()
    assert made.path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(("mask", "rights"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_the_rights_of_every_file_follow_the_umask_whoever_wrote_it(tmp_path: Path, mask: int, rights: int):
    def fill(folder: Path) -> ManifestBody:
        made = fill_with("x")(folder)
        (folder / "weights.safetensors").chmod(0o600)  # as the safetensors library leaves it
        (folder / "report.json").chmod(0o755)
        return made

    before = os.umask(mask)
    try:
        made = write_artifact(tmp_path / "spam", fill)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in made.path.rglob("*") if path.is_file()} == {rights}


def test_the_staging_folder_is_private_while_it_is_filled(tmp_path: Path):
    seen = []
    write_artifact(
        tmp_path / "spam", fill_with("x"), lambda staged: seen.append((staged.parent.stat().st_mode & 0o777, staged.name))
    )
    assert seen == [(0o700, "spam")]


def test_an_empty_folder_is_taken_and_an_artifact_replaced(tmp_path: Path):
    out = tmp_path / "spam"
    out.mkdir()
    write_artifact(out, fill_with("first"))
    write_artifact(out, fill_with("second"))
    assert mark_of(out) == "second"
    assert hidden(tmp_path) == []


def test_an_artifact_is_replaced_where_folders_cannot_be_swapped(tmp_path: Path):
    class NoSwap(Files):
        def exchange(self, one: Path, other: Path) -> bool:
            return False

    out = tmp_path / "spam"
    write_artifact(out, fill_with("first"), files=NoSwap())
    write_artifact(out, fill_with("second"), files=NoSwap())
    assert mark_of(out) == "second"
    assert hidden(tmp_path) == []


def test_a_replacement_in_two_steps_that_was_cut_is_put_right(tmp_path: Path):
    out = tmp_path / "spam"
    write_artifact(out, fill_with("first"))
    out.rename(tmp_path / ".spam.replaced")  # the moment between the two renames
    check_out(out)
    assert mark_of(out) == "first"
    write_artifact(tmp_path / ".spam.replaced", fill_with("older"))  # cut after the second rename
    check_out(out)
    assert mark_of(out) == "first"
    assert hidden(tmp_path) == []


def test_a_gate_that_raises_keeps_the_artifact_from_appearing(tmp_path: Path):
    def gate(staged: Path) -> None:
        assert read_artifact(staged).digest  # what the gate sees is whole
        raise GateError("moved too far")

    out = write_artifact(tmp_path / "spam", fill_with("first")).path
    with pytest.raises(GateError, match="moved too far"):
        write_artifact(out, fill_with("second"), gate)
    assert mark_of(out) == "first"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file", "strangers"])
def test_what_is_not_ours_is_refused_before_the_work_and_after_it(tmp_path: Path, kind: str):
    out = tmp_path / "out"

    def put() -> None:
        if kind == "file":
            out.write_text("precious")
        else:
            out.mkdir(exist_ok=True)
            (out / "thesis.tex").write_text("precious")

    if kind == "strangers":
        write_artifact(out, fill_with("first"))
    put()
    with pytest.raises(UsageError) as caught:
        check_out(out)
    text = str(caught.value)
    assert (
        "holds files that are not part of it" if kind == "strangers" else "something that is not a Regraft artifact stands"
    ) in text
    assert ("'thesis.tex'" in text) or kind == "file"
    assert "choose another --out, or move away what stands there" in text

    later = tmp_path / "later"
    with pytest.raises(UsageError, match="something that is not a Regraft artifact"):
        write_artifact(later, fill_with("x"), lambda staged: later.write_text("precious"))
    assert later.read_text() == "precious"
    assert hidden(tmp_path) == []


def test_what_desktops_leave_does_not_stand_in_the_way(tmp_path: Path):
    out = write_artifact(tmp_path / "spam", fill_with("first")).path
    (out / ".DS_Store").write_bytes(b"x")
    write_artifact(out, fill_with("second"))
    assert mark_of(out) == "second"


def test_a_damaged_artifact_can_be_fitted_again(tmp_path: Path):
    out = write_artifact(tmp_path / "spam", fill_with("first")).path
    manifest = out / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-40])
    write_artifact(out, fill_with("second"))
    assert read_artifact(out)


def test_a_parent_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written there\n  where: .*file\n  got: a file, not a folder"):
        check_out(tmp_path / "file" / "spam")


def test_a_parent_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Root may write anywhere, so the refusal of the system is played.
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match=r"the artifact cannot be written there(.|\n)*Permission denied(.|\n)*right to write"):
        check_out(tmp_path / "spam")


def test_too_little_room_is_found_before_the_work(tmp_path: Path):
    with pytest.raises(MachineError, match=r"not enough free space(.|\n)*MB free(.|\n)*at least 1000000000000 MB"):
        check_out(tmp_path / "spam", need_bytes=10**18)
    assert list(tmp_path.iterdir()) == []


class Failing(Files):
    """A disk that fails once, at the chosen operation."""

    def __init__(self, at: int, code: int, swap: bool = True) -> None:
        self.at, self.code, self.swap, self.count, self.done = at, code, swap, 0, []

    def _step(self, name: str, path: Path) -> None:
        self.count += 1
        self.done.append(name)
        if self.count == self.at:
            raise OSError(self.code, os.strerror(self.code), str(path))

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        self._step("make", path)
        super().make_folder(path, mode)

    def write(self, path: Path, content: bytes) -> None:
        self._step("write", path)
        super().write(path, content)

    def give_rights(self, path: Path, mode: int) -> None:
        self._step("rights", path)
        super().give_rights(path, mode)

    def sync(self, path: Path) -> None:
        self._step("sync", path)
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", target)
        super().rename(source, target)

    def exchange(self, one: Path, other: Path) -> bool:
        if not self.swap:
            return False
        self._step("exchange", other)
        return super().exchange(one, other)


@pytest.mark.parametrize("replacing", ["nothing", "swapped", "two steps"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_step_leaves_what_was_there(tmp_path: Path, replacing: str, code: int):
    swap = replacing == "swapped"
    counting = Failing(-1, code, swap)

    def fill(files: Files):
        def go(folder: Path):
            made = fill_with("second")(folder)
            write_json(folder / "golden.json", {"rows": []}, files)
            (folder / "weights.safetensors").chmod(0o600)
            return made

        return go

    if replacing != "nothing":
        write_artifact(tmp_path / "count", fill_with("first"))
    write_artifact(tmp_path / "count", fill(counting), files=counting)
    assert {"make", "write", "rights", "sync"} < set(counting.done)
    assert ("exchange" in counting.done) == swap
    for at in range(1, counting.count + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        out = folder / "spam"
        if replacing != "nothing":
            write_artifact(out, fill_with("first"))
        failing = Failing(at, code, swap)
        with pytest.raises(MachineError) as caught:
            write_artifact(out, fill(failing), files=failing)
        text = str(caught.value)
        assert "the machine gave up while writing the artifact" in text
        assert str(out) in text
        assert os.strerror(code) in text
        assert ("free some space" in text) == (code == errno.ENOSPC)
        assert mark_of(out) == "first" if replacing != "nothing" else not out.exists()
        assert hidden(folder) == [], failing.done


def test_writers_that_are_not_ours_are_understood_when_they_meet_the_limit_of_the_disk(tmp_path: Path):
    """A real limit (RLIMIT_FSIZE) under the Rust writer of safetensors and under Python's own."""
    code = """
    import resource, sys, numpy
    from pathlib import Path
    from regraft.artifact.store import write_artifact
    from regraft.errors import MachineError
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    def rust(folder):
        from safetensors.numpy import save_file
        save_file({"x": numpy.zeros(100_000)}, folder / "weights.safetensors")
    def python(folder):
        (folder / "big").write_bytes(bytes(100_000))
    for fill in (rust, python):
        try:
            write_artifact(Path(sys.argv[1]) / "out", fill)
        except MachineError as error:
            print(str(error).replace("\\n", " | "))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    assert all("File too large" in line and "write somewhere else or raise the limit" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_fill_that_are_not_the_disks_pass_and_leave_nothing(tmp_path: Path):
    def fill(folder: Path):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        write_artifact(tmp_path / "spam", fill)
    assert list(tmp_path.iterdir()) == []


def test_stages_of_dead_processes_are_swept_and_of_living_ones_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "spam"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(0.05)
        started = disk._started(child.pid)
        names = {
            "mine": stage_name(out),
            "living": f".spam.stage-{disk._host()}-{child.pid}-{started}-00000000",
            "id used again": f".spam.stage-{disk._host()}-{child.pid}-{int(started) - 5}-00000001",
            "dead": f".spam.stage-{disk._host()}-{2**22 + 7}-99-00000002",
            "another machine": f".spam.stage-ffffffff-{2**22 + 7}-99-00000003",
            "another artifact": f".ham.stage-{disk._host()}-{2**22 + 7}-99-00000004",
            "a user's": ".spam.stage-notes",
        }
        for name in names.values():
            (tmp_path / name).mkdir()
        swept = {path.name for path in sweep_stages(out)}
        assert swept == {names["id used again"], names["dead"]}
        assert not any((tmp_path / name).exists() for name in swept)
        assert (tmp_path / names["living"]).exists()
    finally:
        child.kill()
        child.wait()
    assert names["living"] in {path.name for path in sweep_stages(out)}


# One process that has imported everything starts the writers by fork: a kill costs milliseconds, not a start of Python.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
sys.path[:0] = [sys.argv[2]]
from artifact_making import fill_with, mark_of
from test_artifact_store import Killing
from regraft.artifact.files import sweep_stages
from regraft.artifact.store import check_out, read_artifact, write_artifact

def forked(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

def hidden(out):
    return [path.name for path in out.parent.iterdir() if path.name.startswith(".")]

seen = {"absent": 0, "old": 0, "new": 0, "left": 0}

def look(out, old):
    check_out(out)
    now = "absent" if not out.exists() else "old" if mark_of(out) == old else "new"
    if now != "absent":
        read_artifact(out)
    seen[now] += 1

# Before every single step, over nothing and over an older artifact, swapped and in two steps.
for replacing in (False, True):
    for swap in (True, False):
        at = 0
        while True:
            at += 1
            out = folder / f"{replacing}{swap}{at}" / "spam"
            out.parent.mkdir()
            if replacing:
                write_artifact(out, fill_with("old"))
            killing = Killing(at, swap)
            _, status = os.waitpid(forked(lambda: write_artifact(out, fill_with("new"), files=killing)), 0)
            seen["left"] += bool(hidden(out))
            look(out, "old")
            if os.WIFEXITED(status):
                break
            write_artifact(out, fill_with("last"))
            if hidden(out) or mark_of(out) != "last":
                raise SystemExit(f"{out}: {hidden(out)}")
print(json.dumps(seen))

# And at moments drawn by chance.
out = folder / "spam"
began = time.perf_counter()
write_artifact(out, fill_with("0"))
length, chance = time.perf_counter() - began, random.Random(5)

def write_on(number):
    for round in range(100_000):
        write_artifact(out, fill_with(f"{number}.{round}"))

for number in range(20):
    child = forked(lambda: write_on(number))
    time.sleep(chance.uniform(0.0, 3 * length))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    read_artifact(out)
write_artifact(out, fill_with("last"))
if hidden(out):
    raise SystemExit(str(hidden(out)))
"""


class Killing(Failing):
    """A disk under which the process is killed just before the chosen step."""

    def __init__(self, at: int, swap: bool) -> None:
        super().__init__(at, 0, swap)

    def _step(self, name: str, path: Path) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_at_any_moment_an_artifact_is_absent_old_or_whole_and_new(tmp_path: Path):
    command = [sys.executable, "-c", KILLER, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert min(seen.values()) >= 4, seen  # else the kills fell beside the writes, and this test shows nothing


def test_reading_facts(tmp_path: Path):
    from regraft.artifact.describe import describe

    made = write_artifact(tmp_path / "spam", fill_with("x"))
    facts = describe(made)
    assert facts["digest"] == made.digest
    assert facts["task"]["state"] == {"labels": ["ham", "spam"]}
    assert facts["report"] == {"verdict": "better", "n": 40}
    assert facts["inputs"][0]["column"] == "text"
    assert facts["golden_rows"] == 0
    with pytest.raises(ArtifactError, match=r"the artifact has no golden\.json"):
        made.json("golden.json")


@pytest.mark.parametrize("name", ["report.json", "golden.json"])
@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_facts_that_are_no_json_object_are_an_error_of_the_artifact(tmp_path: Path, name: str, content: str):
    from regraft.artifact.describe import describe

    def fill(folder: Path) -> ManifestBody:
        made = fill_with("x")(folder)
        (folder / name).write_text(content)
        return made

    with pytest.raises(ArtifactError, match=rf"{name} is not (JSON|a JSON object)\n  where: .*spam"):
        describe(write_artifact(tmp_path / "spam", fill))


@pytest.mark.parametrize("content", ["{}", '{"rows": 3}', '{"rows": [{}]}'])
def test_golden_rows_that_cannot_be_read_are_an_error_of_the_artifact(tmp_path: Path, content: str):
    from regraft.artifact.describe import describe

    def fill(folder: Path) -> ManifestBody:
        made = fill_with("x")(folder)
        (folder / "golden.json").write_text(content)
        return made

    with pytest.raises(ArtifactError, match="the golden rows cannot be read"):
        describe(write_artifact(tmp_path / "spam", fill))


def test_the_body_of_a_manifest_is_kept(tmp_path: Path):
    made = write_artifact(tmp_path / "spam", fill_with("x"))
    assert made.manifest.inputs == body().inputs
    assert made.weights_digest == "0" * 64

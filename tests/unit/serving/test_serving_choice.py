"""Which runtime answers: the one that is asked for, else the fastest that gives the right answers here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from serving_making import NumpyRuntime, make_predictor, make_rows

from regraft.artifact import golden
from regraft.artifact.manifest import HeadEntry, InputEntry, ManifestBody, NetworkEntry, TargetEntry, TaskEntry
from regraft.artifact.store import GOLDEN, Artifact, write_artifact, write_json
from regraft.errors import GateError, MissingExtraError, UnknownNameError, UsageError
from regraft.registry import Registry
from regraft.serving import choice
from regraft.serving.predictor import Predictor
from regraft.training.machine import Profile
from regraft.training.options import MachineOptions


class Clock:
    """Time that passes only while a runtime computes."""

    now = 0.0

    @classmethod
    def read(cls) -> float:
        return cls.now


class Slow(NumpyRuntime):
    """Takes its time."""

    package, extra, takes_s = "numpy", "runtime", 0.004

    def outputs(self, batch):
        Clock.now += self.takes_s
        return super().outputs(batch)


class Fast(Slow):
    """Takes less."""

    takes_s = 0.001


class Even(Slow):
    """Takes three in a hundred less."""

    takes_s = 0.00388


class Wrong(Fast):
    """Takes less, and answers something else."""

    def outputs(self, batch):
        return super().outputs(batch)[:, ::-1]


class Worse(Wrong):
    """The same."""


class Elsewhere(Fast):
    """Computed by a package that is not here."""

    package, extra = "a_package_that_nobody_has", "elsewhere"


@pytest.fixture(autouse=True)
def runtimes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runtimes of this file alone, and a profile that nobody else sees."""
    names = {name: f"test_serving_choice:{name.title()}" for name in ("slow", "fast", "even", "wrong", "worse", "elsewhere")}
    monkeypatch.setattr(choice, "RUNTIMES", Registry("runtimes", names))
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=Clock.read))
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))


def make(folder: Path, *runtimes: str, rows: int = 8) -> Artifact:
    predictor = make_predictor()

    def fill(inside: Path) -> ManifestBody:
        (inside / "backbone").mkdir()
        predictor.modality.save(inside / "backbone")
        if rows:
            write_json(inside / GOLDEN, golden.record(predictor, make_rows(rows)).to_json())
        return ManifestBody(
            task=TaskEntry(name="classification", state=predictor.task.state()),
            inputs=(InputEntry(column="text", modality="text", spec=predictor.modality.spec()),),
            target=TargetEntry(column="label"),
            base={"name": "tiny"},
            network=NetworkEntry(backbone={}, head=HeadEntry(width=3), form="numpy", runtimes=runtimes),
            weights_digest="0" * 64,
        )

    return write_artifact(folder / "-".join(runtimes), fill)


def opened(artifact: Artifact, seen: list[str]):
    def run(name: str) -> Predictor:
        seen.append(name)
        made = make_predictor()
        return Predictor(made.modality, made.task, choice.RUNTIMES.get(name)(), column="text", artifact=artifact)

    return run


def choose(artifact: Artifact, threads: int = 1) -> tuple[str, list[str]]:
    seen: list[str] = []
    options = MachineOptions(threads=threads)
    found = choice.fastest(artifact, choice.usable(artifact, "auto"), opened(artifact, seen), options)
    return type(found.runtime).__name__.lower(), seen


def test_what_is_asked_for_is_taken_or_refused(tmp_path: Path):
    artifact = make(tmp_path, "slow", "fast")
    assert choice.usable(artifact, "slow") == ["slow"]
    with pytest.raises(UsageError) as caught:
        choice.usable(artifact, "wrong")
    text = str(caught.value)
    assert "the runtime 'wrong' cannot compute this artifact" in text
    assert "a network of the form 'numpy'" in text
    assert "one of the runtimes slow, fast, or auto" in text
    assert "make a form that it computes with `regraft export`" in text
    with pytest.raises(UnknownNameError, match="did you mean 'fast'"):
        choice.usable(artifact, "fats")


def test_runtimes_that_are_not_here_are_left_out(tmp_path: Path):
    assert choice.usable(make(tmp_path, "elsewhere", "slow"), "auto") == ["slow"]
    assert choice.usable(make(tmp_path, "unheard-of", "fast"), "auto") == ["fast"]


def test_an_artifact_that_nothing_here_can_compute_names_the_extra(tmp_path: Path):
    with pytest.raises(MissingExtraError) as caught:
        choice.usable(make(tmp_path, "elsewhere"), "auto")
    assert "a_package_that_nobody_has" in str(caught.value)
    assert "pip install 'regraft[elsewhere]'" in str(caught.value)
    with pytest.raises(MissingExtraError, match=r"not registered here: unheard-of(.|\n)*install the package that registers it"):
        choice.usable(make(tmp_path, "unheard-of"), "auto")


def test_a_package_is_looked_for_without_importing_it():
    assert choice.installed("numpy")
    assert not choice.installed("a_package_that_nobody_has")
    assert not choice.installed("a_package_that_nobody_has.inside")


def test_the_fastest_is_taken_measured_once_and_remembered(tmp_path: Path):
    artifact = make(tmp_path, "slow", "fast")
    assert choose(artifact) == ("fast", ["slow", "fast"])
    assert choose(artifact) == ("fast", ["fast"]), "the second time nothing else is opened"


def test_of_two_that_are_as_fast_the_first_is_taken(tmp_path: Path):
    assert choose(make(tmp_path, "slow", "even"))[0] == "slow"
    assert choose(make(tmp_path, "even", "slow"))[0] == "even"


def test_other_work_on_the_machine_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For a while everything takes ten times as long: while `fast` would be measured, if it were measured on its own."""
    began = Clock.now
    for runtime in (Slow, Fast):
        takes_s = runtime.takes_s

        def outputs(self, batch, takes_s=takes_s):
            busy = 0.0285 < Clock.now - began < 0.2
            Clock.now += takes_s * (10 if busy else 1)
            return NumpyRuntime.outputs(self, batch)

        monkeypatch.setattr(runtime, "outputs", outputs)
    assert choose(make(tmp_path, "slow", "fast"))[0] == "fast"


def test_what_was_remembered_decides(tmp_path: Path):
    """The same artifact is answered by the same runtime every time, whatever a clock says meanwhile."""
    artifact = make(tmp_path, "slow", "fast")
    key = choice._key(artifact, ["slow", "fast"], MachineOptions(threads=1))
    Profile.load().remember(choice._KIND, key, "slow")
    assert choose(artifact) == ("slow", ["slow"])


def test_another_number_of_threads_version_or_artifact_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = make(tmp_path, "slow", "fast")
    choose(artifact)
    assert choose(artifact, threads=2)[1] == ["slow", "fast"]
    assert choose(make(tmp_path / "other", "slow", "fast", rows=5))[1] == ["slow", "fast"]
    monkeypatch.setattr(choice, "_version", lambda package: "99")
    assert choose(artifact)[1] == ["slow", "fast"]


def test_a_remembered_runtime_that_is_gone_is_measured_anew(tmp_path: Path):
    artifact = make(tmp_path, "slow", "fast")
    key = choice._key(artifact, ["slow", "fast"], MachineOptions(threads=1))
    Profile.load().remember(choice._KIND, key, "removed-since")
    assert choose(artifact)[0] == "fast"


def test_two_processes_that_measure_at_once_agree(tmp_path: Path):
    artifact = make(tmp_path, "slow", "fast")
    key = choice._key(artifact, ["slow", "fast"], MachineOptions(threads=1))

    def meanwhile(name: str) -> Predictor:
        Profile.load().remember(choice._KIND, key, "slow")  # another process decides while this one measures
        return opened(artifact, [])(name)

    found = choice.fastest(artifact, ["slow", "fast"], meanwhile, MachineOptions(threads=1))
    assert type(found.runtime) is Slow


def test_a_runtime_that_answers_otherwise_here_is_never_the_fastest(tmp_path: Path):
    """An instruction that this processor lacks, a library that computes in half precision: fast, and wrong."""
    artifact = make(tmp_path, "wrong", "slow")
    assert choose(artifact)[0] == "slow"
    assert choose(artifact) == ("slow", ["slow"])


def test_where_every_runtime_answers_otherwise_there_is_no_answer(tmp_path: Path):
    with pytest.raises(GateError, match="a golden row is not answered as it was") as caught:
        choose(make(tmp_path, "wrong", "worse"))
    assert len(caught.value.problems) == 2


def test_one_that_cannot_be_opened_is_left_out(tmp_path: Path):
    artifact = make(tmp_path, "fast", "slow")
    run = opened(artifact, [])

    def broken(name: str) -> Predictor:
        if name == "fast":
            raise MissingExtraError("half of it is installed")
        return run(name)

    assert type(choice.fastest(artifact, ["fast", "slow"], broken, MachineOptions(threads=1)).runtime) is Slow


def test_without_golden_rows_or_a_choice_nothing_is_measured(tmp_path: Path):
    assert choose(make(tmp_path, "slow", "fast", rows=0)) == ("slow", ["slow"])
    assert choose(make(tmp_path, "slow")) == ("slow", ["slow"])


def test_a_profile_that_cannot_be_written_costs_a_measurement_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "file" / "cache"))
    artifact = make(tmp_path, "slow", "fast")
    assert choose(artifact)[0] == choose(artifact)[0] == "fast"


def test_the_key_names_everything_that_may_change_the_order(tmp_path: Path):
    artifact = make(tmp_path, "slow", "fast")
    key = choice._key(artifact, ["slow", "fast"], MachineOptions(threads=3))
    import numpy

    assert key == f"{artifact.digest[:16]} 3 threads; fast {numpy.__version__}, slow {numpy.__version__}"
    assert dataclasses.replace(artifact).digest == artifact.digest

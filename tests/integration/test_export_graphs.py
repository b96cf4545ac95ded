"""Exports to OpenVINO, torch.export and ExecuTorch: they answer as their source, and a fault in any of them is refused."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_faults import FAULTS, QUIET_FAULTS, refused
from line_rows import mails

from regraft import lifecycle
from regraft.artifact.store import Artifact
from regraft.errors import ArtifactError, MissingExtraError, UsageError
from regraft.exporters import EXPORTERS
from regraft.serving.predictor import Predictor

FORMATS = {
    "openvino": ("openvino", "openvino", "network/model.xml"),
    "torch": ("torch", "torch-program", "network/model.pt2"),
    "executorch": ("executorch", "executorch", "network/model.pte"),
}
# Converting takes seconds in OpenVINO and ExecuTorch: by default one fault in the network and one beside it.
QUICK = {*(("torch", fault) for fault in FAULTS), ("openvino", "preprocessing"), ("openvino", "one-scale")}
EVERY_FAULT = [
    pytest.param(kind, fault, marks=() if (kind, fault) in QUICK else pytest.mark.slow) for kind in FORMATS for fault in FAULTS
]
ROWS = [row["body"] for row in mails(60, seed=9)]


def offered(kind: str) -> str:
    pytest.importorskip(FORMATS[kind][0])
    if kind not in EXPORTERS:
        pytest.skip(f"'{kind}' is not offered")
    return kind


@pytest.fixture(params=list(FORMATS))
def kind(request: pytest.FixtureRequest) -> str:
    return offered(request.param)


@pytest.fixture(scope="module")
def export(bert: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    made: dict[str, Artifact] = {}

    def of(kind: str) -> Artifact:
        if kind not in made:
            made[kind] = exported(bert, kind, tmp_path_factory.mktemp(kind) / "out")
        return made[kind]

    return of


def exported(source: Artifact, kind: str, out: Path, **options: Any) -> Artifact:
    return lifecycle.export(source, format=kind, out=str(out), **{"machine": {"threads": 1}, **options})


def moved(one: Predictor, other: Predictor, rows: list[str], batch_size: int = 32) -> float:
    return float(np.abs(one.outputs(rows, batch_size=batch_size) - other.outputs(rows, batch_size=batch_size)).max())


def test_an_export_answers_as_its_source(bert: Artifact, export: Callable[[str], Artifact], kind: str):
    made = export(kind)
    entry = made.manifest
    assert entry.network.runtimes == (FORMATS[kind][1],)
    assert entry.export.gate["runtimes"][FORMATS[kind][1]]["worst_logit"] < 1e-5
    assert FORMATS[kind][2] in entry.files
    source, other = Predictor.load(bert.path, threads=1), Predictor.load(made.path, threads=1)
    for batch_size in (1, 7, 32):
        assert moved(source, other, ROWS, batch_size) < 1e-5
    assert [p.value for p in other.predict(ROWS)] == [p.value for p in source.predict(ROWS)]
    assert other.predict([""])[0].probabilities == pytest.approx(source.predict([""])[0].probabilities, abs=1e-5)


def test_an_export_says_nothing_about_the_machine_it_was_made_on(export: Callable[[str], Artifact], kind: str):
    made = export(kind)
    for path in (made.path / "network").iterdir():
        content = path.read_bytes()
        for place in (str(Path(__file__).parents[2]), str(Path(np.__file__).parents[1]), "site-packages", str(Path.home())):
            assert place.encode() not in content, path.name


@pytest.mark.slow
def test_the_same_source_gives_the_same_bytes(bert: Artifact, export: Callable[[str], Artifact], kind: str, tmp_path: Path):
    again = exported(bert, kind, tmp_path / "out")
    first = export(kind)
    names = {name for name in first.manifest.files if name.startswith("network/")}
    assert names == {name for name in again.manifest.files if name.startswith("network/")}
    for name in names:
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes(), name


@pytest.mark.parametrize(("kind", "fault"), EVERY_FAULT)
def test_a_planted_fault_is_refused(bert: Artifact, kind: str, fault: str, tmp_path: Path):
    offered(kind)
    (tmp_path / "at").mkdir()
    error = refused(bert, kind, fault, tmp_path / "at" / "out")
    assert error.problems[0].fix


@pytest.mark.slow
def test_a_number_that_no_row_reads_is_refused(bert: Artifact, kind: str, tmp_path: Path):
    (tmp_path / "at").mkdir()
    error = refused(bert, kind, "unused-weight", tmp_path / "at" / "out")
    assert "weight" in error.problems[0].what


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*FAULTS, QUIET_FAULTS[0]])
def test_answers_alone_show_a_planted_fault(bert: Artifact, kind: str, fault: str, tmp_path: Path):
    (tmp_path / "at").mkdir()
    assert refused(bert, kind, fault, tmp_path / "at" / "out", faults=False).problems[0].got


def test_an_edited_file_is_refused(export: Callable[[str], Artifact], kind: str, tmp_path: Path):
    import shutil

    folder = tmp_path / "edited"
    shutil.copytree(export(kind).path, folder)
    for path in sorted((folder / "network").iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactError, match="is not the one that was written"):
            Predictor.load(folder, threads=1)
        path.write_bytes(content)
    Predictor.load(folder, threads=1)


def test_without_the_package_its_extra_is_named(
    bert: Artifact, export: Callable[[str], Artifact], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = FORMATS[kind][0]
    made = export(kind)
    if package == "torch":
        pytest.skip("torch is what fits: without it there is nothing to export")
    true_import = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return true_import(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtraError, match=rf"'{package}[^']*', which is not installed\n.*pip install 'regraft\[{package}\]'"
    ):
        Predictor.load(made.path, threads=1, runtime=FORMATS[kind][1])
    with pytest.raises(UsageError, match=r"pip install 'regraft\[(openvino|executorch)\]'"):
        exported(bert, kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.base
def test_minilm(kind: str, minilm: Any, fit_small: Callable[..., Artifact], tmp_path: Path):
    source = fit_small(tmp_path / "source", base="minilm", train={"epochs": 1, "batch_size": 16}, tuning="head")
    made = exported(source, kind, tmp_path / "out")
    assert moved(Predictor.load(source.path, threads=1), Predictor.load(made.path, threads=1), ROWS) < 1e-4

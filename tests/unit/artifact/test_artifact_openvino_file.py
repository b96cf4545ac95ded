"""Networks of OpenVINO: what is read from an honest description, and what is refused in a crafted one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regraft.artifact import openvino_file
from regraft.artifact.openvino_file import read_openvino
from regraft.errors import ArtifactError

CONST = (
    '<layer id="{id}" name="{name}" type="Const" version="{version}">'
    '<data element_type="{kind}" shape="{shape}" offset="{offset}" size="{size}"/></layer>'
)


def const(name: str, kind: str = "f32", shape: str = "2, 3", offset: int = 0, size: int = 24, version: str = "opset1") -> str:
    return CONST.format(id=0, name=name, kind=kind, shape=shape, offset=offset, size=size, version=version)


def written(folder: Path, layers: str, weights: bytes = bytes(64), head: str = "") -> tuple[Path, Path]:
    path = folder / "model.xml"
    path.write_text(f'<?xml version="1.0"?>{head}<net name="x" version="11"><layers>{layers}</layers></net>', encoding="utf-8")
    path.with_suffix(".bin").write_bytes(weights)
    return path, path.with_suffix(".bin")


def refusal(folder: Path, layers: str, weights: bytes = bytes(64), head: str = "") -> str:
    files = written(folder, layers, weights, head)
    with pytest.raises(ArtifactError) as caught:
        read_openvino(*files)
    assert caught.value.problems[0].where == str(files[0])
    return str(caught.value)


def test_constants_are_found_where_they_lie_also_inside_loops(tmp_path: Path):
    first, second = np.arange(6, dtype="<f4"), np.arange(3, dtype="<i8")
    inner = (
        f'<layer id="1" name="loop" type="TensorIterator" version="opset1"><body><layers>{const("inside", "i64", "3", 24, 24)}'
    )
    inner += "</layers></body></layer>"
    parameter = '<layer id="2" name="ids" type="Parameter" version="opset1"><data shape="?,?" element_type="i64"/></layer>'
    files = written(tmp_path, const("first") + inner + parameter, first.tobytes() + second.tobytes())
    found = read_openvino(*files)
    arrays = dict(found.arrays())
    assert list(arrays) == ["first", "inside"]
    assert np.array_equal(arrays["first"], first.reshape(2, 3))
    assert np.array_equal(arrays["inside"], second)
    assert found.operators == {"Const", "TensorIterator", "Parameter"}


def test_types_without_numbers_in_numpy_and_odd_sizes_are_left_out(tmp_path: Path):
    files = written(
        tmp_path, const("string", "string", "1", 0, 8) + const("short", "f32", "2, 3", 0, 20) + const("empty", "f32", "0", 0, 0)
    )
    assert not list(read_openvino(*files).arrays())


@pytest.mark.parametrize(("offset", "size"), [(64, 24), (41, 24), (-4, 24), (0, 65), (0, -1), (2**62, 2**62)])
def test_a_constant_outside_the_file_of_weights_is_refused(tmp_path: Path, offset: int, size: int):
    said = refusal(tmp_path, const("far", offset=offset, size=size))
    assert "has a constant outside its file of weights" in said
    assert "'far'" in said


def test_without_the_file_of_weights_every_constant_is_outside(tmp_path: Path):
    path, weights = written(tmp_path, const("far"))
    weights.unlink()
    with pytest.raises(ArtifactError, match="outside its file of weights"):
        read_openvino(path, weights)


@pytest.mark.parametrize("version", ["extension", "custom_opset", "", "opset1/../x"])
def test_an_operator_of_somebody_elses_library_is_refused(tmp_path: Path, version: str):
    said = refusal(tmp_path, const("strange", version=version))
    assert "uses an operator that is not OpenVINO's own" in said


def test_document_types_are_refused_before_they_swell(tmp_path: Path):
    entities = '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b SYSTEM "file:///etc/hostname">]>'
    assert "declares a document type" in refusal(tmp_path, const("first"), head=entities)


def test_what_is_no_description_is_refused(tmp_path: Path):
    path, weights = written(tmp_path, "")
    for content, words in (
        ("", "cannot be read"),
        ("<net><layers>", "cannot be read"),
        ("<html></html>", "is of another kind"),
        ('<net><layers><layer id="0"/></layers></net>', "cannot be read"),
        ("<net><layers>" + const("x").replace('offset="0"', 'offset="first"') + "</layers></net>", "cannot be read"),
        ("<net>" + "<a>" * 100 + "</a>" * 100 + "</net>", "is nested too deep"),
    ):
        path.write_text(content)
        with pytest.raises(ArtifactError, match=words):
            read_openvino(path, weights)


def test_more_than_any_honest_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openvino_file, "_LAYERS", 2)
    assert "has too many layers" in refusal(tmp_path, const("a") + const("b") + const("c"))
    monkeypatch.setattr(openvino_file, "LIMIT_BYTES", 100)
    assert "is too long" in refusal(tmp_path, const("a"))

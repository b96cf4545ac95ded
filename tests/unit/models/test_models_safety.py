"""What is refused before it is loaded, by the text of the refusal."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from regraft.errors import ArtifactError, BaseError
from regraft.models import safety
from regraft.models.architectures import architecture_of
from regraft.models.folder_check import check_folder
from regraft.models.safety import check_safetensors_header, config_problems, link_problems, read_json, weight_files

ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def write(path, header, data=b"\0" * 8):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def test_a_good_header_is_read_as_the_library_wrote_it(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.int64), "c": np.zeros((0, 4), np.float16)}, path)
    entries = check_safetensors_header(path)
    assert {name: (e.dtype, e.shape, e.size_bytes) for name, e in entries.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("I64", (5,), 40),
        "c": ("F16", (0, 4), 0),
    }


@pytest.mark.parametrize(
    ("header", "data", "text"),
    [
        (b"", b"", "a weights file is truncated or not safetensors"),
        (b"{not json", b"", "the header of a weights file cannot be read"),
        (b"[" * 100_000, b"", "the header of a weights file cannot be read"),
        ({"a": 3}, b"", "the header of a weights file cannot be read"),
        ({"a": {**ONE["a"], "dtype": "P9"}}, b"\0" * 8, "cannot be read\n  where: .*\n  got: 'P9'"),
        ({"a": {**ONE["a"], "shape": [3]}}, b"\0" * 8, r"'a' has 8 bytes for shape \[3\] of F32"),
        ({"a": {**ONE["a"], "shape": [-1, -2]}}, b"\0" * 8, "has 8 bytes for shape"),
        ({**ONE, "b": {**ONE["a"], "data_offsets": [4, 12]}}, b"\0" * 12, "'b' begins at 4, not at 8"),
        ({"a": {**ONE["a"], "data_offsets": [4, 12]}}, b"\0" * 12, "'a' begins at 4, not at 0"),
        (ONE, b"\0" * 7, "a weights file is truncated\n  where: .*\n  got: 7 bytes of tensors\n  expected: 8 bytes"),
        (ONE, b"\0" * 9, "a weights file is truncated"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, data, text):
    path = write(tmp_path / "w.safetensors", header, data)
    with pytest.raises(ArtifactError, match=text):
        check_safetensors_header(path, ArtifactError)


def test_the_tail_of_a_file_may_be_lost_anywhere(tmp_path):
    whole = write(tmp_path / "w.safetensors", ONE).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "w.safetensors").write_bytes(whole[:length])
        with pytest.raises(BaseError, match="truncated"):
            check_safetensors_header(tmp_path / "w.safetensors")


def test_headers_made_to_exhaust_memory_are_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(BaseError, match=f"too large, or it is not safetensors\n  where: .*\n  got: {2**40} bytes"):
        check_safetensors_header(path)
    monkeypatch.setattr(safety, "HEADER_LIMIT_ENTRIES", 1)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    with pytest.raises(BaseError, match=r"a weights file has too many tensors\n  where: .*\n  got: 2\n  expected: at most 1"):
        check_safetensors_header(write(path, {"a": empty, "b": empty}, b""))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "'auto_map': it names code that would be run"),
        ({"vision_config": {"auto_map": {"AutoModel": "x"}}}, "'vision_config.auto_map'"),
        ({"parts": [{"trust_remote_code": True}]}, "'parts.0.trust_remote_code': it asks for code to be run"),
        ({"custom_pipelines": {"x": {}}}, "'custom_pipelines'"),
        (
            {"_attn_implementation": "owner/kernel"},
            "'_attn_implementation' with an implementation that would be fetched and run",
        ),
        ({"_attn_implementation": {"text": "owner/kernel"}}, "'_attn_implementation'"),
        ({"_experts_implementation": "owner/kernel"}, "'_experts_implementation'"),
        ({"kernel_config": {"RMSNorm": "owner/kernel"}}, "'kernel_config'"),
        ({"quantization_config": {"bits": 4}}, "use the model as it was before it was quantised"),
        ({"base_model_name_or_path": "owner/name"}, "merge the adapter into its base"),
    ],
)
def test_configurations_that_fetch_or_run_something_are_refused(config, text):
    problems = config_problems(config, "config.json")
    assert len(problems) == 1
    assert text in str(problems[0])


def test_ordinary_configurations_are_fine():
    config = {
        "model_type": "bert",
        "auto_map": None,
        "_attn_implementation": "sdpa",
        "use_kernels": False,
        "id2label": {"0": "a"},
    }
    assert config_problems({**config, "rope_scaling": {"type": "linear"}}, "config.json") == []


def folder_with(tmp_path, **files):
    folder = tmp_path / "base"
    folder.mkdir()
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def refusal(folder):
    with pytest.raises(BaseError) as caught:
        check_folder(folder)
    return str(caught.value)


def test_a_folder_without_configuration(tmp_path):
    text = refusal(folder_with(tmp_path, notes__txt=b"x"))
    assert text.startswith("there is no config.json in the folder")
    assert "got: notes.txt" in text


def test_a_folder_without_weights(tmp_path):
    text = refusal(folder_with(tmp_path, config__json={"model_type": "bert"}))
    assert "there are no weights in the folder" in text
    assert "expected: model.safetensors" in text


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "tf_model.h5", "flax_model.msgpack", "m.PKL"]
)
def test_a_folder_with_pickles_only(tmp_path, name):
    folder = folder_with(tmp_path, config__json={"model_type": "bert"})
    (folder / name).write_bytes(b"x")
    text = refusal(folder)
    assert "the weights are pickles, which can run code when they are read" in text
    assert f"got: {name}" in text
    assert "convert to safetensors" in text


def test_a_folder_with_an_adapter_only(tmp_path):
    folder = folder_with(tmp_path, config__json={"model_type": "bert"}, adapter_config__json={}, adapter_model__bin=b"")
    assert "the folder holds an adapter, not a base" in refusal(folder)


def test_an_adapter_beside_the_weights_would_be_laid_over_them(tmp_path):
    folder = folder_with(tmp_path, config__json={"model_type": "bert"}, adapter_config__json={})
    write(folder / "model.safetensors", ONE)
    assert "an adapter lies beside the base" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "the configuration does not say what architecture it is for"),
        ({"model_type": 3}, "model_type = 3"),
        ({"model_type": "berrt"}, "the architecture 'berrt' cannot be used as an encoder here"),
    ],
)
def test_unknown_architectures(tmp_path, config, text):
    folder = folder_with(tmp_path, config__json=config)
    write(folder / "model.safetensors", ONE)
    assert text in refusal(folder)
    with pytest.raises(BaseError, match="did you mean 'bert'"):
        architecture_of({"model_type": "berrt"}, "config.json")


@pytest.mark.parametrize("size", ["300", 0, -1, 3.5, True, [300]])
def test_a_vocabulary_size_that_is_none_is_refused(tmp_path, size):
    folder = folder_with(tmp_path, config__json={"model_type": "bert", "vocab_size": size})
    write(folder / "model.safetensors", ONE)
    assert f"vocab_size = {size!r}\n  expected: a whole number above 0" in refusal(folder)


def test_every_problem_of_a_folder_is_reported_together(tmp_path):
    folder = folder_with(tmp_path, config__json={"model_type": "x", "auto_map": {"a": "b"}}, pytorch_model__bin=b"")
    (folder / "link").symlink_to("/etc/hostname")
    text = refusal(folder)
    assert text.startswith("4 problems:")
    for part in ("auto_map", "pickles", "a link leaves the folder", "the architecture 'x'"):
        assert part in text


def test_links_inside_are_fine_and_links_outside_are_not(tmp_path):
    folder = folder_with(tmp_path, config__json={})
    (folder / "inside").symlink_to("config.json")
    assert link_problems(folder) == []
    (tmp_path / "base-twin").mkdir()
    (tmp_path / "base-twin" / "secret").write_text("x")
    (folder / "outside").symlink_to("../base-twin/secret")
    assert ["outside" in problem.where for problem in link_problems(folder)] == [True]


def test_the_hubs_own_cache_links_into_its_repository_only(tmp_path):
    snapshot = tmp_path / "models--o--n" / "snapshots" / "abc"
    blobs = tmp_path / "models--o--n" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    assert link_problems(snapshot) == []
    (tmp_path / "elsewhere").write_text("x")
    (snapshot / "other").symlink_to("../../../elsewhere")
    assert len(link_problems(snapshot)) == 1


def test_special_files_are_refused(tmp_path):
    import os

    folder = folder_with(tmp_path, config__json={})
    os.mkfifo(folder / "pipe")
    assert [problem.what for problem in link_problems(folder)] == ["there is a special file"]


@pytest.mark.parametrize(
    ("weight_map", "text"),
    [
        ({"a": "../x.safetensors"}, "shards of the weights have wrong names"),
        ({"a": "/x.safetensors"}, "shards of the weights have wrong names"),
        ({"a": "gone.safetensors"}, "shards of the weights are missing"),
        ({"a": ["one.safetensors"]}, "shards of the weights have wrong names"),
        ({"a": None}, "shards of the weights have wrong names"),
        ({}, "an empty index"),
    ],
)
def test_shards_are_plain_names_and_all_there(tmp_path, weight_map, text):
    folder = folder_with(tmp_path, model__safetensors__index__json={"weight_map": weight_map})
    with pytest.raises(BaseError, match=text):
        weight_files(folder)


def test_json_is_bounded_and_an_object(tmp_path, monkeypatch):
    path = tmp_path / "c.json"
    for content, text in (("[1]", "not a JSON object"), ("{", "not JSON"), ("\xff", "not JSON"), ("[" * 200_000, "not JSON")):
        path.write_text(content, encoding="latin-1")
        with pytest.raises(BaseError, match=text):
            read_json(path)
    monkeypatch.setattr(safety, "JSON_LIMIT_BYTES", 3)
    path.write_text("{   }")
    with pytest.raises(BaseError, match="too large"):
        read_json(path)

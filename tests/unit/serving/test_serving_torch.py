"""The whole way with a real network: a tiny BERT is written, read back, replayed, refused."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from serving_making import make_rows

from regraft.artifact.files import sha256_of
from regraft.artifact.golden import Goldens
from regraft.artifact.manifest import canonical, digest_of
from regraft.artifact.store import Artifact
from regraft.errors import ArtifactError, GateError, UnknownNameError
from regraft.serving.predictor import Predictor
from regraft.serving.replay import main, replay_artifact, replay_in_fresh_process

pytestmark = pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")


def rewrite(artifact: Artifact, **changes: object) -> None:
    """Make the manifest fit its files and digest again, as somebody would who wants to get past them."""
    values = {**json.loads((artifact.path / "manifest.json").read_bytes()), **changes}
    for name, entry in values["files"].items():
        path = artifact.path / name
        entry.update(sha256=sha256_of(path), size_bytes=path.stat().st_size)
    values["digest"] = digest_of(values)
    (artifact.path / "manifest.json").write_bytes(canonical(values))


def change_weights(artifact: Artifact, name: str, edit) -> None:
    path = artifact.path / name
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    rewrite(artifact)


def test_what_is_read_answers_with_the_bits_of_what_was_in_memory(tiny):
    artifact, in_memory = tiny
    loaded = Predictor.load(artifact.path, threads=1)
    rows = make_rows(300, seed=4)
    assert np.array_equal(loaded.outputs(rows), in_memory.outputs(rows))
    assert loaded.predict(rows) == in_memory.predict(rows)
    assert loaded.environment() == in_memory.environment()
    np.testing.assert_allclose(loaded.outputs(rows[:40], batch_size=1), loaded.outputs(rows)[:40], atol=1e-5)


def test_outputs_are_those_of_the_hubs_own_model_and_the_head_by_hand(tiny):
    from transformers import AutoModel

    artifact, _ = tiny
    loaded = Predictor.load(artifact.path)
    model = AutoModel.from_pretrained(artifact.path / "backbone").eval()
    head = load_file(artifact.path / "weights.safetensors")
    weight, bias = (head[name] for name in sorted(head, reverse=True))
    for row in make_rows(5, seed=2):
        ids = torch.from_numpy(loaded.modality.encode([row])[0].inputs["input_ids"])[None].long()
        with torch.no_grad():
            pooled = model(input_ids=ids).last_hidden_state.mean(dim=1)
        np.testing.assert_allclose(loaded.outputs([row]), (pooled @ weight.T + bias).numpy(), atol=1e-5)


def test_another_thread_answers_with_the_same_bits(tiny):
    loaded = Predictor.load(tiny[0].path, threads=2)
    rows = make_rows(100)
    expected = loaded.outputs(rows)
    found: list[np.ndarray] = []
    before = torch.get_num_threads()
    workers = [threading.Thread(target=lambda: found.append(loaded.outputs(rows))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert all(np.array_equal(one, expected) for one in found)
    assert torch.get_num_threads() == before


def test_asking_changes_neither_the_mode_nor_the_random_state_nor_asks_for_gradients(tiny):
    _, in_memory = tiny
    net = in_memory.runtime.net
    net.train()
    net.head.eval()
    state = torch.get_rng_state()
    first = in_memory.outputs(make_rows(40))
    assert net.training
    assert net.backbone.training
    assert not net.head.training
    assert torch.equal(state, torch.get_rng_state())
    net.eval()
    assert np.array_equal(first, in_memory.outputs(make_rows(40)))
    assert all(weight.grad is None for weight in net.parameters())


def test_loading_leaves_the_random_state_alone(tiny):
    state = torch.get_rng_state()
    Predictor.load(tiny[0].path)
    assert torch.equal(state, torch.get_rng_state())


def test_loaded_weights_lie_at_even_addresses(tiny):
    net = Predictor.load(tiny[0].path).runtime.net
    assert {weight.data_ptr() % 64 for weight in net.parameters()} == {0}


def test_a_fresh_process_answers_alike_and_says_so(tiny):
    said = replay_in_fresh_process(tiny[0].path, threads=1)
    assert said["rows"] == 16
    assert said["bitwise"] is True
    assert said["same_environment"] is True
    assert said["digest"] == tiny[0].digest


def test_replay_on_the_command_line_says_what_is_wrong(tiny_copy, capsys):
    goldens = Goldens.from_json(tiny_copy.json("golden.json"))
    moved = replace(goldens, outputs=tuple(tuple(number + 1 for number in row) for row in goldens.outputs))
    (tiny_copy.path / "golden.json").write_bytes(canonical(moved.to_json()))
    assert main([str(tiny_copy.path), "--threads", "1"]) == 2
    assert "a file is not the one that was written" in capsys.readouterr().out
    rewrite(tiny_copy)
    assert main([str(tiny_copy.path), "--threads", "1"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert "a golden row is not answered as it was" in said["problems"][0]["what"]


def test_weights_that_are_not_the_judged_ones_are_found_even_if_every_digest_fits(tiny_copy):
    """One unused word's vector is changed: no golden row shows it, the digest of the tensors does."""
    words = " ".join(tiny_copy.json("golden.json")["rows"][i]["input"] for i in range(16)).split()
    unused = next(i for i in range(60) if f"w{i}" not in words) + 4 if len(set(words)) < 60 else 1

    def edit(tensors):
        name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
        tensors[name][unused] += 1

    change_weights(tiny_copy, "backbone/model.safetensors", edit)
    with pytest.raises(GateError, match=r"the tensors that were loaded are not the ones that were judged(.|\n)*weights digest"):
        replay_artifact(Predictor.load(tiny_copy.path, threads=1))


@pytest.mark.parametrize(
    ("name", "edit", "text"),
    [
        ("weights.safetensors", lambda t: t.pop(next(iter(t))), "does not fit"),
        ("weights.safetensors", lambda t: t.update({"head.more": torch.zeros(2)}), "'head.more' does not fit"),
        ("weights.safetensors", lambda t: t.update({k: v.half() for k, v in t.items()}), "got: float16"),
        ("weights.safetensors", lambda t: t.update({k: v[:2].clone() for k, v in t.items()}), "does not fit"),
        ("backbone/model.safetensors", lambda t: t.pop("encoder.layer.0.output.dense.bias"), "weights of the base are missing"),
        (
            "backbone/model.safetensors",
            lambda t: t.update(smuggled=torch.zeros(2)),
            "unexpected tensors in the backbone's folder",
        ),
    ],
)
def test_missing_unexpected_and_misshapen_tensors_are_refused(tiny_copy, name, edit, text):
    change_weights(tiny_copy, name, edit)
    with pytest.raises(ArtifactError) as caught:
        Predictor.load(tiny_copy.path)
    assert text in str(caught.value)


def test_a_configuration_that_would_run_code_is_refused(tiny_copy):
    path = tiny_copy.path / "backbone" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "x.Y"}}))
    rewrite(tiny_copy)
    with pytest.raises(ArtifactError, match="auto_map"):
        Predictor.load(tiny_copy.path)


def test_names_that_are_not_registered_here_are_an_error_of_the_artifact(tiny_copy):
    values = json.loads((tiny_copy.path / "manifest.json").read_bytes())
    rewrite(tiny_copy, task={**values["task"], "name": "classificatoin"})
    with pytest.raises(ArtifactError) as caught:
        Predictor.load(tiny_copy.path)
    assert "there is no 'classificatoin' among the tasks" in str(caught.value)
    assert "install the package that registers it; did you mean 'classification'" in str(caught.value)


def test_a_state_that_cannot_be_read_is_an_error_of_the_artifact(tiny_copy):
    values = json.loads((tiny_copy.path / "manifest.json").read_bytes())
    rewrite(tiny_copy, task={**values["task"], "state": {}})
    with pytest.raises(ArtifactError, match=r"the preprocessing or the task of the artifact cannot be rebuilt(.|\n)*KeyError"):
        Predictor.load(tiny_copy.path)


def test_an_edit_of_the_network_that_would_be_left_out_is_refused(tiny_copy):
    rewrite(tiny_copy, transforms=[{"name": "graft", "plan": {"rank": 4}}])
    with pytest.raises(ArtifactError) as caught:
        Predictor.load(tiny_copy.path)
    assert "edits of its network that this version of Regraft cannot install" in str(caught.value)
    assert "got: graft" in str(caught.value)


def test_an_unknown_runtime_is_named(tiny):
    with pytest.raises(UnknownNameError, match="there is no 'trch' among the runtimes"):
        Predictor.load(tiny[0].path, runtime="trch")


def test_a_process_that_dies_or_hangs_or_cannot_start_fails_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "python"

    def play(text: str) -> None:
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)

    monkeypatch.setattr(sys, "executable", str(script))
    play("echo 'libtorch.so: not found' >&2; exit 3")
    with pytest.raises(GateError, match=r"replays the golden rows died(.|\n)*exit code 3: libtorch.so: not found"):
        replay_in_fresh_process(tmp_path)
    play("kill -9 $$")
    with pytest.raises(GateError, match=r"killed by signal 9: it said nothing"):
        replay_in_fresh_process(tmp_path)
    play("exec sleep 20")
    with pytest.raises(GateError, match=r"took too long(.|\n)*no answer after 0.3 s"):
        replay_in_fresh_process(tmp_path, timeout_s=0.3)
    play("""echo '{"ok": false, "problems": [{"what": "it moved", "fix": "fit again"}]}'; exit 1""")
    with pytest.raises(GateError, match=r"it moved\n  to do: fit again"):
        replay_in_fresh_process(tmp_path)
    play("echo '{}'")
    with pytest.raises(GateError, match=r"exit code 0"):
        replay_in_fresh_process(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(GateError, match="a fresh process could not be started"):
        replay_in_fresh_process(tmp_path)

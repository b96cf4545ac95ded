"""Adapters through the whole line: fit, save, answer, merge, export, and as a PEFT folder that PEFT itself opens."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_faults
import numpy as np
import pytest
import torch
from export_faults import contents, led_astray, planted
from line_rows import mails
from safetensors.numpy import load_file

import regraft as rg
from regraft import lifecycle, merging
from regraft.artifact.store import Artifact
from regraft.cli.app import _run
from regraft.errors import ArtifactError, GateError, UsageError
from regraft.exporters import EXPORTERS
from regraft.exporters.exporter import Source
from regraft.models.transform import Applied, folded
from regraft.serving.predictor import Predictor

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "models"))
from tiny_families import write_folder

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning"),
    # PEFT asks the hub's models for a property that the hub has renamed since.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
ONE_THREAD = {"machine": {"threads": 1}}
TEXTS = [row["body"] for row in mails(40, seed=7)]
LORA = {"name": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.1}
RATES = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.01}
Fit = Callable[..., Artifact]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny-bert"
    write_folder(folder)
    return folder


@pytest.fixture(scope="module")
def hub_base(base: Path) -> dict[str, Any]:
    return {"name": "hub", "source": str(base), "pooling": "hub-head"}


@pytest.fixture(scope="module")
def tuned(fit_small: Fit, hub_base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("tuned") / "adapted"
    return fit_small(out, base=hub_base, tuning=LORA, train=RATES, modality={"name": "text", "max_length": 48})


def test_what_is_made_again_on_the_way_back_changes_no_bit(
    tuned: Artifact, fit_small: Fit, hub_base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a network as small as this adapters are no small share, and no tensor is large: here both count as if."""
    monkeypatch.setattr("regraft.training.savings._FEW", 1.0)
    monkeypatch.setattr("regraft.models.slab._SMALL", 0)
    pieces: list[int] = []
    monkeypatch.setattr("regraft.models.slab._memory", lambda size: pieces.append(size) or bytearray(size))
    how: dict[str, Any] = {"base": hub_base, "tuning": LORA, "train": RATES, "modality": {"name": "text", "max_length": 48}}
    again = fit_small(tmp_path / "again", **how)
    assert pieces
    assert again.manifest.weights_digest == tuned.manifest.weights_digest
    pieces.clear()
    plain = fit_small(tmp_path / "plain", machine={"threads": 1, "recompute": "never"}, **how)
    assert not pieces
    assert plain.manifest.weights_digest == tuned.manifest.weights_digest


@pytest.fixture(scope="module")
def merged(tuned: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return lifecycle.merge(tuned, out=str(tmp_path_factory.mktemp("merged") / "merged"), **ONE_THREAD)


@pytest.fixture(scope="module")
def exported(tuned: Artifact, mail_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("exported") / "peft"
    return lifecycle.export(tuned, format="peft", out=str(out), rows=str(mail_file), sample=60, **ONE_THREAD)


def answered(artifact: Artifact) -> np.ndarray:
    return Predictor.load(artifact.path, threads=1).outputs(TEXTS)


# ---- fit and save -----------------------------------------------------------------------------------------------------


def test_the_base_stays_bit_for_bit_and_the_artifact_says_what_stands_beside_it(tuned, base):
    were, now = (load_file(folder / "model.safetensors") for folder in (base, tuned.path / "backbone"))
    assert now
    assert all(np.array_equal(values, were[name]) for name, values in now.items())
    (entry,) = tuned.manifest.transforms
    assert entry["name"] == "lora"
    assert (entry["plan"]["rank"], entry["plan"]["alpha"], len(entry["plan"]["layers"])) == (4, 8.0, 18)
    added = load_file(tuned.path / "adapter" / "adapter_model.safetensors")
    assert len(added) == 36
    assert all(np.abs(values).max() > 0 for values in added.values())
    assert set(load_file(tuned.path / "weights.safetensors")) == {
        "head.linear.weight",
        "head.linear.bias",
        "backbone.pooling.dense.weight",
        "backbone.pooling.dense.bias",
    }
    assert tuned.report.about["tuning"] == "lora"
    assert rg.inspect(tuned)["transforms"] == [entry]


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes_and_the_log_says_how_much_learns(tuned, fit_small, hub_base, tmp_path):
    events: list[Any] = []
    again = fit_small(
        tmp_path / "again",
        base=hub_base,
        tuning=LORA,
        train=RATES,
        modality={"name": "text", "max_length": 48},
        listen=events.append,
    )
    assert again.weights_digest == tuned.weights_digest
    (begin,) = [event.to_json() for event in events if event.to_json()["event"] == "begin"]
    added = load_file(tuned.path / "adapter" / "adapter_model.safetensors")
    beside = load_file(tuned.path / "weights.safetensors")
    assert begin["trainable"] == sum(values.size for values in (*added.values(), *beside.values()))
    assert begin["trainable"] < 0.5 * begin["parameters"]


def test_it_is_listed_where_the_base_has_linear_layers(tuned):
    assert "lora" in lifecycle.list_family("tunings", compatible=tuned.path)
    assert "linear" in tuned.manifest.network.backbone["provides"]


def test_a_base_without_linear_layers_is_refused(fit_small, tmp_path):
    with pytest.raises(
        rg.RegraftError,
        match=r"no linear layers(.|\n)*choose another tuning \(full, head, top-k, gradual, by-part, bitfit, prompt\)",
    ):
        fit_small(tmp_path / "out", base={"name": "gru", "width": 16}, tuning="lora")
    assert not (tmp_path / "out").exists()


# ---- merge ------------------------------------------------------------------------------------------------------------


def test_merged_it_answers_alike_without_adapters_and_knows_its_parent(tuned, merged):
    assert merged.manifest.transforms == ()
    assert not (merged.path / "adapter").exists()
    assert (merged.manifest.verb, merged.manifest.parent) == ("merge", tuned.digest)
    assert [(entry.verb, entry.name, entry.digest) for entry in merged.manifest.lineage] == [("fit", "adapted", tuned.digest)]
    np.testing.assert_allclose(answered(merged), answered(tuned), rtol=0, atol=5e-6)
    before, after = (load_file(one.path / "backbone" / "model.safetensors") for one in (tuned, merged))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {f"{path}.weight" for path in tuned.manifest.transforms[0]["plan"]["layers"]}
    name = "encoder.layer.0.attention.self.query"
    added = load_file(tuned.path / "adapter" / "adapter_model.safetensors")
    a, b = (added[f"base_model.model.{name}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    np.testing.assert_array_equal(after[f"{name}.weight"], (before[f"{name}.weight"] + 2.0 * (b @ a)).astype(np.float32))
    assert merged.report.to_json() == tuned.report.to_json()


@pytest.mark.slow
def test_the_merged_backbone_is_a_base_whose_weights_can_all_learn(merged, fit_small, tmp_path):
    again = fit_small(
        tmp_path / "again",
        base={"name": "hub", "source": str(merged.path / "backbone"), "pooling": "hub-head"},
        train={**RATES, "epochs": 1},
        modality={"name": "text", "max_length": 48},
    )
    before, after = (load_file(one.path / "backbone" / "model.safetensors") for one in (merged, again))
    assert before.keys() == after.keys()
    assert not np.array_equal(before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"])


@pytest.mark.slow
def test_the_tree_from_fit_to_merge_to_export_is_shown(merged, tmp_path, capsys):
    export = lifecycle.export(merged, format="onnx", out=str(tmp_path / "onnx"), **ONE_THREAD)
    assert [entry.verb for entry in export.manifest.lineage] == ["fit", "merge"]
    assert _run(["inspect", str(export.path)]) == 0
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "lineage" in line)
    places = [line.index(f"{verb} {name}") for verb, name in (("fit", "adapted"), ("merge", "merged"), ("export", "onnx"))]
    assert places == sorted(places)


@pytest.mark.slow
def test_on_the_command_line(tuned, tmp_path, capsys):
    assert _run(["merge", str(tuned.path), "--out", str(tmp_path / "merged"), "--set", "machine.threads=1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["parent"] == tuned.digest
    assert rg.inspect(said["artifact"])["verb"] == "merge"


def test_without_adapters_there_is_nothing_to_merge(merged, tmp_path):
    with pytest.raises(UsageError) as caught:
        lifecycle.merge(merged, out=str(tmp_path / "again"))
    assert "has no adapters that could be merged" in str(caught.value)
    assert "regraft fit --tuning lora" in str(caught.value)


def test_over_or_into_its_own_source_is_refused(tuned):
    for place, word in ((tuned.path, "over"), (tuned.path / "inside", "into")):
        with pytest.raises(UsageError, match=f"{word} its source"):
            lifecycle.merge(tuned, out=str(place))
    assert rg.inspect(tuned)["digest"] == tuned.digest


@pytest.mark.slow
def test_an_export_cannot_be_merged(exported, tmp_path):
    with pytest.raises(UsageError, match="an export of the form 'peft' cannot be merged"):
        lifecycle.merge(exported, out=str(tmp_path / "out"))


def test_a_fold_that_answers_otherwise_is_refused(tuned, tmp_path, monkeypatch):
    def crooked(net: Any) -> Any:
        made = folded(net)
        made.backbone.body.encoder.layer[0].output.dense.weight.data[0] += 1e-4
        return made

    monkeypatch.setattr("regraft.models.transform.folded", crooked)
    with pytest.raises(GateError) as caught:
        lifecycle.merge(tuned, out=str(tmp_path / "out"), **ONE_THREAD)
    for text in ("a golden row is not answered as before", "golden row", "within 1e-06", "keep the adapters apart"):
        assert text in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_difference_that_is_no_number_is_refused(tuned):
    predictor = Predictor.load(tuned.path, threads=1)
    broken = Predictor.load(tuned.path, threads=1)
    broken.runtime.net.head.linear.bias.data.fill_(float("nan"))
    with pytest.raises(GateError, match="not answered as before"):
        merging.hold_against(predictor, broken, lifecycle.Stages(lambda _: None))


# ---- other forms ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "transformers", "openvino"])
def test_exports_fold_by_themselves(name, tuned, tmp_path):
    export = lifecycle.export(tuned, format=name, out=str(tmp_path / "out"), **ONE_THREAD)
    assert export.manifest.transforms == ()
    np.testing.assert_allclose(answered(export), answered(tuned), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_form_that_takes_an_artifact_as_it_is_keeps_the_adapters(tuned, tmp_path):
    export = lifecycle.export(tuned, format="mlflow", out=str(tmp_path / "out"), **ONE_THREAD)
    assert export.manifest.transforms == tuned.manifest.transforms
    np.testing.assert_array_equal(answered(export), answered(tuned))


# ---- PEFT -------------------------------------------------------------------------------------------------------------


def opened_plainly(folder: Path, base: Path) -> Any:
    """What anybody does with a PEFT folder."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = AutoModelForSequenceClassification.from_pretrained(base, config=AutoConfig.from_pretrained(folder))
        return PeftModel.from_pretrained(model, folder).eval()


@pytest.mark.slow
def test_plain_peft_gives_the_probabilities_of_the_artifact(tuned, exported, base):
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(exported.path), opened_plainly(exported.path, base)
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS, truncation=True, padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(logits.numpy(), answered(tuned), rtol=0, atol=1e-5)
    for row, answer in zip(logits.softmax(dim=1).tolist(), lifecycle.predict(tuned, TEXTS, **ONE_THREAD), strict=True):
        named = {model.config.id2label[number]: share for number, share in enumerate(row)}
        assert named == pytest.approx(answer.probabilities, abs=1e-6)


@pytest.mark.slow
def test_the_folder_is_small_names_its_base_and_says_what_was_seen(tuned, exported, base):
    settings = json.loads((exported.path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base.resolve())
    assert (settings["r"], settings["lora_alpha"], settings["task_type"]) == (4, 8, "SEQ_CLS")
    assert settings["modules_to_save"] == ["classifier", "bert.pooler.dense"]
    assert settings["target_modules"] == [f"bert.{path}" for path in tuned.manifest.transforms[0]["plan"]["layers"]]
    kept = load_file(exported.path / "adapter_model.safetensors")
    assert not [name for name in kept if "lora_" not in name and "classifier" not in name and "pooler" not in name]
    assert [path.name for path in exported.path.rglob("*.safetensors")] == ["adapter_model.safetensors"]
    assert (exported.manifest.network.form, exported.manifest.network.runtimes) == ("peft", ("peft",))
    seen = exported.manifest.export.gate["runtimes"]["peft"]
    assert seen["worst_probability"] < 1e-5
    assert "peft 0." in seen["environment"]["library"]
    assert exported.manifest.transforms == tuned.manifest.transforms


@pytest.mark.slow
def test_the_export_is_an_artifact_that_answers_alike(tuned, exported, mail_file):
    np.testing.assert_allclose(answered(exported), answered(tuned), rtol=0, atol=1e-5)
    reports = [lifecycle.evaluate(one, str(mail_file), judge={"overlap": "keep"}, **ONE_THREAD) for one in (tuned, exported)]
    assert reports[0].judgement.metrics["accuracy"].value == reports[1].judgement.metrics["accuracy"].value


@pytest.mark.slow
def test_peft_can_train_the_folder_on(exported, base):
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, config=AutoConfig.from_pretrained(exported.path))
    model = PeftModel.from_pretrained(model, exported.path, is_trainable=True)
    learning = [name for name, value in model.named_parameters() if value.requires_grad]
    assert len([name for name in learning if "lora_" in name]) == 36
    assert [name for name in learning if "classifier" in name]


def _adapter_weight(net: Any, source: Source) -> None:
    net.backbone.body.encoder.layer[1].intermediate.dense.lora_B.weight.data[0, 0] += 0.01


def _alpha(net: Any, source: Source) -> None:
    (applied,) = net.transforms
    net.transforms = (Applied(applied.name, {**applied.plan, "alpha": 2 * applied.plan["alpha"]}),)
    for module in net.modules():
        if hasattr(module, "lora_scale"):
            module.lora_scale *= 2


OWN = {"adapter-weight": _adapter_weight, "alpha": _alpha}
# What the gate's fresh process alone must find is tried with the exporter's own look at its files switched off.
SLOW = [
    ("label-names", True),
    ("preprocessing", True),
    *((fault, False) for fault in ("label-order", "head-bias", "one-weight")),
]
SLOW += [("adapter-weight", False), ("alpha", False)]
PLANTED = [
    *((fault, True) for fault in ("label-order", "head-bias", "one-weight", "adapter-weight", "alpha")),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
]


@pytest.mark.parametrize(("fault", "faults"), PLANTED)
def test_planted_faults_are_refused(fault, faults, tuned, tmp_path, monkeypatch):
    for name, plant in OWN.items():
        monkeypatch.setitem(export_faults._IN_NETWORK, name, plant)
    out = tmp_path / "place" / "out"
    scratch = tmp_path / "wrong"
    with planted(fault, EXPORTERS.get("peft"), scratch, faults=faults), pytest.raises(GateError):
        lifecycle.export(tuned, format="peft", out=str(out), **ONE_THREAD)
    assert not out.parent.exists() or not contents(out.parent)


def test_the_planting_itself_is_what_is_refused(tuned, tmp_path, monkeypatch):
    monkeypatch.setitem(export_faults._IN_NETWORK, "nothing", lambda net, source: None)
    predictor = Predictor.load(tuned.path, threads=1)
    net = predictor.runtime.net
    source = Source(artifact=tuned, modality=predictor.modality, task=predictor.task, net=net, name="x")
    assert led_astray(source, "nothing", tmp_path / "same").artifact.weights_digest == tuned.weights_digest
    assert dataclasses.replace(source).net is net


def test_without_adapters_there_is_nothing_to_export(merged, tmp_path):
    with pytest.raises(UsageError) as caught:
        lifecycle.export(merged, format="peft", out=str(tmp_path / "out"))
    for text in ("has no adapters", "--format transformers", "--tuning lora"):
        assert text in str(caught.value)


@pytest.mark.slow
def test_what_has_no_exact_mapping_is_refused_with_what_to_do(fit_small, tmp_path):
    out = str(tmp_path / "out")
    scratch = {"name": "transformer", "width": 16, "heads": 2, "layers": 1, "vocabulary_size": 300, "positions": 64}
    unlike = fit_small(tmp_path / "unlike", base={**scratch, "pooling": "mean"}, tuning="lora", train={"epochs": 0})
    with pytest.raises(UsageError) as caught:
        lifecycle.export(unlike, format="peft", out=out)
    for text in ("base.pooling=hub-head", "no folder of the hub", "regraft merge"):
        assert text in str(caught.value)
    assert not Path(out).exists()


@pytest.mark.slow
def test_the_base_must_be_there_and_the_same(tuned, exported, base, tmp_path):
    aside = tmp_path / "aside"
    shutil.move(base, aside)
    try:
        with pytest.raises(ArtifactError):
            rg.predict(exported, TEXTS[:1])
        shutil.copytree(aside, base)
        path = base / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="not the one that the adapters were fitted on"):
            rg.predict(exported, TEXTS[:1])
        with pytest.raises(UsageError, match="not the one that the adapters were fitted on"):
            lifecycle.export(tuned, format="peft", out=str(tmp_path / "out"))
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.move(aside, base)
    assert not rg.predict(exported, TEXTS[:1])[0].error


@pytest.mark.slow
def test_settings_that_are_not_ours_are_refused(exported, tmp_path):
    from regraft.models.hub_adapters import base_folder, open_adapted

    shutil.copytree(exported.path, tmp_path / "copy")
    path = tmp_path / "copy" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_mapping": {"parent_library": "os"}}))
    with pytest.raises(ArtifactError, match=r"settings that are not ours(.|\n)*auto_mapping"):
        open_adapted(base_folder(exported.manifest.base), tmp_path / "copy")

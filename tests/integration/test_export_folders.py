"""Folders for the hub's tools: plain transformers and sentence-transformers make of them what the artifact answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_faults import FAULTS, contents, refused
from line_rows import mails

from regraft import lifecycle
from regraft.artifact.store import Artifact, read_artifact
from regraft.errors import ArtifactError, GateError, UsageError
from regraft.exporters import EXPORTERS
from regraft.fitting import base_of
from regraft.serving.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore:.*Swig.*:DeprecationWarning")
ROOT = Path(__file__).parents[2]
ONE_THREAD = {"machine": {"threads": 1}}
SMALL_BERT = {"name": "transformer", "width": 16, "heads": 2, "layers": 1, "vocabulary_size": 300, "positions": 64}
TEXTS = [row["body"] for row in mails(60, seed=7)]
ENDLESS = " ".join(TEXTS)  # many times longer than any row may be
# Only answers tell, so that a fresh process is started; the hub's class is always tried with all of them.
ALL_FAULTS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in {"preprocessing", "label-names"} else [])
    for name in (*FAULTS, "label-names")
]


@pytest.fixture(scope="module")
def hub_bert(fit_small: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny BERT with the pooling of the hub's own class."""
    out = tmp_path_factory.mktemp("hub") / "bert"
    return fit_small(out, base={**SMALL_BERT, "pooling": "hub-head"}, modality={"name": "text", "max_length": 48})


@pytest.fixture(scope="module")
def classifier(hub_bert: Artifact, mail_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("hub") / "classifier"
    return lifecycle.export(hub_bert, format="transformers", out=str(out), rows=str(mail_file), sample=50, **ONE_THREAD)


@pytest.fixture(scope="module")
def embedder(bert: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("sentences") / "embedder"
    return lifecycle.export(bert, format="sentence-transformers", out=str(out), **ONE_THREAD)


def piped(folder: Path, texts: list[str], batch_size: int = 1) -> list[dict[str, float]]:
    """What plain `transformers.pipeline` answers: label -> probability for each text."""
    from transformers import pipeline

    door = pipeline("text-classification", str(folder), device="cpu", truncation=True, top_k=None)
    return [{row["label"]: row["score"] for row in found} for found in door(texts, batch_size=batch_size)]


def same_probabilities(artifact: Artifact, found: list[dict[str, float]], texts: list[str]) -> None:
    answers = lifecycle.predict(artifact, texts, **ONE_THREAD)
    assert len(found) == len(answers)
    for answer, row in zip(answers, found, strict=True):
        assert row.keys() == answer.probabilities.keys()
        assert max(abs(row[label] - share) for label, share in answer.probabilities.items()) < 1e-5


# ---- the hub's own class --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_pipeline_of_plain_transformers_gives_the_probabilities_of_the_artifact(hub_bert, classifier, batch_size):
    texts = [*TEXTS, ENDLESS]
    same_probabilities(hub_bert, piped(classifier.path, texts, batch_size), texts)


def test_the_export_is_an_artifact_that_answers_alike(hub_bert, classifier, mail_file):
    network = classifier.manifest.network
    assert (network.form, network.runtimes) == ("transformers", ("transformers",))
    assert network.facts == {"class": "BertForSequenceClassification"}
    seen = classifier.manifest.export.gate["runtimes"]["transformers"]
    assert seen["worst_probability"] < 1e-5
    assert seen["agreement"] == 1.0
    was, now = (Predictor.load(artifact.path, threads=1) for artifact in (hub_bert, classifier))
    np.testing.assert_allclose(now.outputs(TEXTS), was.outputs(TEXTS), atol=1e-5)
    assert "transformers" in str(now.environment()["library"])
    asked = {"judge": {"overlap": "keep"}, **ONE_THREAD}
    reports = [lifecycle.evaluate(artifact, str(mail_file), **asked) for artifact in (hub_bert, classifier)]
    assert reports[0].judgement.metrics["accuracy"].value == reports[1].judgement.metrics["accuracy"].value


def test_the_folder_is_an_ordinary_one_with_the_labels_in_their_order(hub_bert, classifier):
    config = json.loads((classifier.path / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "ham", "1": "spam"}
    assert config["label2id"] == {"ham": 0, "spam": 1}
    assert config["problem_type"] == "single_label_classification"
    told = json.loads((classifier.path / "tokenizer_config.json").read_text())
    assert (told["model_max_length"], told["padding_side"], told["truncation_side"]) == (48, "right", "right")


def test_the_folder_is_a_base_that_can_be_fitted_again(hub_bert, classifier):
    base = base_of(str(classifier.path))
    base.fetch()
    again, was = base.modality({}, lambda: iter(())), Predictor.load(hub_bert.path, threads=1)
    body, theirs = base.backbone(again, 0).body.state_dict(), was.runtime.net.backbone.body.state_dict()
    assert body.keys() == theirs.keys()
    assert all(torch.equal(body[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("fault", [*FAULTS, "label-names"])
def test_faults_in_the_hubs_class_are_refused(fault, hub_bert, tmp_path):
    refused(hub_bert, "transformers", fault, tmp_path / "place" / "out")


def edited(name: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        edit(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def with_tensors(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def transposed(tensors: dict[str, Any]) -> None:
    tensors["bert.pooler.dense.weight"] = tensors["bert.pooler.dense.weight"].T.contiguous()


def never_reached(tensors: dict[str, Any]) -> None:
    tensors["bert.embeddings.position_embeddings.weight"][-1, 0] += 1.0  # no row is so long


def swapped_words(content: dict[str, Any]) -> None:
    words = content["model"]["vocab"]
    first, second = [word for word in words if len(word) > 2 and words[word] > 10][:2]
    words[first], words[second] = words[second], words[first]


BY_HAND: dict[str, tuple[Callable[[Path], None], str]] = {
    "labels": (edited("config.json", lambda c: c.update(id2label={"0": "spam", "1": "ham"})), "labels of the export"),
    "labels turned": (edited("config.json", lambda c: c.update(label2id={"ham": 1, "spam": 0})), "labels of the export"),
    "a weight that no row reaches": (with_tensors(never_reached), "position_embeddings.weight' in the export is not"),
    "pooling": (with_tensors(transposed), "'bert.pooler.dense.weight' in the export is not the source's"),
    "epsilon": (edited("config.json", lambda c: c.update(layer_norm_eps=1e-3)), "'layer_norm_eps' in the configuration"),
    "words": (edited("tokenizer.json", swapped_words), "other tokens of a row"),
    "cut": (edited("tokenizer_config.json", lambda c: c.update(truncation_side="left")), "other tokens of a row"),
    "length": (edited("tokenizer_config.json", lambda c: c.update(model_max_length=64)), "tokens"),
    "side": (edited("tokenizer_config.json", lambda c: c.update(padding_side="left")), "fills or cuts rows otherwise"),
    "nonsense": (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer cannot be opened"),
}


@pytest.mark.parametrize("fault", BY_HAND)
def test_files_that_would_answer_otherwise_outside_of_regraft_are_refused(fault, hub_bert, tmp_path, monkeypatch):
    change, said = BY_HAND[fault]
    exporter = EXPORTERS.get("transformers")
    write = exporter.write

    def wrong(self, source, folder):
        written = write(self, source, folder)
        change(folder)
        return written

    monkeypatch.setattr(exporter, "write", wrong)
    with pytest.raises(GateError, match=said):
        lifecycle.export(hub_bert, format="transformers", out=str(tmp_path / "out"), **ONE_THREAD)
    assert not contents(tmp_path)


def test_a_pooling_that_no_class_has_is_refused_with_what_to_do(bert, artifact, tmp_path):
    with pytest.raises(UsageError) as caught:
        lifecycle.export(bert, format="transformers", out=str(tmp_path / "out"), **ONE_THREAD)
    (problem,) = caught.value.problems
    assert problem.got == "the pooling 'mean'"
    assert problem.fix == "fit it again with the hub's own pooling: regraft fit ... --set base.pooling=hub-head"
    with pytest.raises(UsageError, match="the hub has no class that answers as this network of the architecture 'regraft-mlp'"):
        lifecycle.export(artifact, format="transformers", out=str(tmp_path / "out"), **ONE_THREAD)
    assert not contents(tmp_path)


def gpt2_folder(folder: Path) -> Path:
    """A tiny GPT-2 whose tokenizer, as the real one's, puts nothing around a text and names no token for filling."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2Model

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[end], show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=320, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
        GPT2Model(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_decoder_finds_the_last_token_whatever_fills_the_batch(fit_small, tmp_path):
    base = {"name": "hub", "source": str(gpt2_folder(tmp_path / "gpt2")), "pooling": "hub-head"}
    fitted = fit_small(tmp_path / "fitted", base=base, modality={"name": "text", "max_length": 32}, train={"epochs": 2})
    assert not Predictor.load(fitted.path, threads=1).runtime.net.head.linear.bias.any()
    # Token 0 is both what the artifact fills with and a token that a text may spell; here one ends with it.
    rows = [{"body": text} for text in (*TEXTS[:20], f"{TEXTS[0]}<|endoftext|>", "win!")]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    made = lifecycle.export(fitted, format="transformers", out=str(tmp_path / "hub"), rows=str(data), **ONE_THREAD)
    assert made.manifest.network.facts["class"] == "GPT2ForSequenceClassification"
    for batch_size in (1, 8):
        same_probabilities(fitted, piped(made.path, TEXTS, batch_size), TEXTS)


# ---- sentence-transformers ------------------------------------------------------------------------------------------


def vectors(artifact: Artifact, texts: list[str]) -> np.ndarray:
    """The pooled vectors that the artifact's own network makes of texts."""
    predictor = Predictor.load(artifact.path, threads=1)
    net = predictor.runtime.net
    made = []
    for encoded in predictor.modality.encode(texts, spans=False):
        inputs, mask = predictor.modality.collate([encoded])
        with torch.no_grad():
            made.append(net.features({k: torch.from_numpy(v) for k, v in inputs.items()}, torch.from_numpy(mask)).pooled_BD[0])
    return torch.stack(made).numpy()


def by_its_own_files(folder: Path, texts: list[str]) -> np.ndarray:
    """What the folder's files say, done by hand: AutoTokenizer, AutoModel, and the pooling that 1_Pooling names."""
    from transformers import AutoModel, AutoTokenizer

    said = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (mode,) = [key.removeprefix("pooling_mode_") for key, value in said.items() if value is True and key.startswith("pooling")]
    sizes = json.loads((folder / "sentence_bert_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    taken = tokenizer(texts, truncation=True, max_length=sizes["max_seq_length"], padding=True, return_tensors="pt")
    with torch.no_grad():
        sequence = AutoModel.from_pretrained(folder).eval()(**taken).last_hidden_state
    mask = taken["attention_mask"]
    if mode == "mean_tokens":
        pooled = (sequence * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    else:
        places = {"cls_token": torch.zeros(len(texts), dtype=torch.long), "lasttoken": mask.sum(dim=1) - 1}
        pooled = sequence[torch.arange(len(texts)), places[mode]]
    if any(module["type"].endswith("Normalize") for module in json.loads((folder / "modules.json").read_text())):
        pooled = torch.nn.functional.normalize(pooled, dim=-1)
    return pooled.numpy()


def test_the_folders_own_files_describe_the_vectors_of_the_network(bert, embedder):
    texts = [*TEXTS, ENDLESS]
    np.testing.assert_allclose(by_its_own_files(embedder.path, texts), vectors(bert, texts), atol=1e-6)
    sizes = json.loads((embedder.path / "sentence_bert_config.json").read_text())
    assert sizes["max_seq_length"] == Predictor.load(bert.path, threads=1).modality.longest
    assert embedder.manifest.network.form == "sentence-transformers"


def test_the_embedder_goes_on_to_answer_as_the_artifact(bert, embedder):
    assert lifecycle.predict(embedder, TEXTS, **ONE_THREAD) == lifecycle.predict(bert, TEXTS, **ONE_THREAD)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_other_poolings_and_length_one(pooling, fit_small, tmp_path):
    fitted = fit_small(tmp_path / "fitted", base={**SMALL_BERT, "pooling": pooling}, train={"epochs": 1})
    asked = {"name": "sentence-transformers", "normalize": True}
    made = lifecycle.export(fitted, format=asked, out=str(tmp_path / "out"), **ONE_THREAD)
    expected = vectors(fitted, TEXTS[:8])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(by_its_own_files(made.path, TEXTS[:8]), expected, atol=1e-6)


@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_faults_in_an_embedder_are_refused(fault, bert, tmp_path):
    refused(bert, "sentence-transformers", fault, tmp_path / "place" / "out")


def test_what_that_library_cannot_compute_is_refused(hub_bert, artifact, tmp_path):
    with pytest.raises(UsageError, match="sentence-transformers has no pooling that gives the vectors of this network"):
        lifecycle.export(hub_bert, format="sentence-transformers", out=str(tmp_path / "out"), **ONE_THREAD)
    with pytest.raises(UsageError, match="does not know the architecture 'regraft-mlp', which is ours"):
        lifecycle.export(artifact, format="sentence-transformers", out=str(tmp_path / "out"), **ONE_THREAD)
    assert not contents(tmp_path)


@pytest.mark.slow
def test_sentence_transformers_itself_encodes_the_same_vectors(bert, embedder, tmp_path):
    sys.path.insert(0, str(ROOT / "bench"))
    from environments import environment

    code = (
        "import sys, json, numpy; from sentence_transformers import SentenceTransformer; "
        "model = SentenceTransformer(sys.argv[1], device='cpu', local_files_only=True); "
        "texts = json.loads(open(sys.argv[2]).read()); numpy.save(sys.argv[3], model.encode(texts, batch_size=8)); "
        "print(model.max_seq_length)"
    )
    texts = [*TEXTS, ENDLESS]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    command = [str(environment("sentence-transformers")), "-c", code, str(embedder.path)]
    done = subprocess.run(
        [*command, str(tmp_path / "texts.json"), str(tmp_path / "out.npy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), vectors(bert, texts), atol=1e-6)
    assert int(done.stdout.split()[-1]) == Predictor.load(bert.path, threads=1).modality.longest


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["added_tokens.json", "special_tokens_map.json", "2_Dense/config.json", "notes.txt"])
@pytest.mark.parametrize("form", ["classifier", "embedder"])
def test_a_file_that_the_manifest_does_not_list_is_refused(form, name, tmp_path, request):
    folder = tmp_path / form
    shutil.copytree(request.getfixturevalue(form).path, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactError, match="there is a file that the manifest does not list"):
        read_artifact(folder)


def test_an_export_of_an_export_names_what_to_export_instead(classifier, tmp_path):
    with pytest.raises(UsageError) as caught:
        lifecycle.export(classifier, format="sentence-transformers", out=str(tmp_path / "out"), **ONE_THREAD)
    assert "bert" in caught.value.problems[0].fix

"""Local folders and hub ids: names, tokenizers, poolings, refusals, what is recorded."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny_families import write_folder
from transformers import AutoModel, AutoTokenizer

from regraft.errors import BaseError, OptionsError
from regraft.models import BASES
from regraft.models.hub import HubBase, HubOptions, as_base
from regraft.options import Among, Pick
from regraft.types import Features

TEXTS = ["The quick brown fox", "jumps", "over 13 lazy dogs; how vexing!"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "bert"
    write_folder(folder)
    return folder


@pytest.fixture
def copied(bert, tmp_path):
    return shutil.copytree(bert, tmp_path / "copy")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def base_of(source, **options):
    return HubBase("hub", HubOptions(source=str(source), **options))


def nothing():
    return iter(())


def run(backbone, modality, texts) -> Features:
    inputs, mask = modality.collate(modality.encode(texts))
    with torch.no_grad():
        return backbone.eval()({name: torch.from_numpy(a) for name, a in inputs.items()}, torch.from_numpy(mask))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("owner/name", "owner/name"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("hub:gpt2", "hub:gpt2"),
        ("./gone", "./gone"),
        ("/gone/too/deep", "/gone/too/deep"),
        ("~/models", "~/models"),
        ("minilmm", None),
        ("owner/", None),
        ("a b", None),
        ("", None),
    ],
)
def test_names_outside_the_table(name, source):
    made = as_base(Pick(name, {"pooling": "cls"}))
    assert made == (None if source is None else Pick("hub", {"pooling": "cls", "source": source}))


def test_an_existing_folder_needs_no_slash(bert, monkeypatch):
    monkeypatch.chdir(bert.parent)
    assert as_base(Pick("bert")) == Pick("hub", {"source": "bert"})


def test_an_options_class_takes_folders_and_offers_the_nearest_name(bert):
    among = Among("regraft.models:BASES", "regraft.models.hub:as_base")
    assert among.check(str(bert)) == Pick("hub", {"source": str(bert)})
    assert "did you mean 'minilm'" in BASES.unknown("minilmm").fix


def test_a_folder_gives_what_the_hub_gives(bert):
    base = base_of(bert)
    modality = base.modality({}, nothing)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs, mask = modality.collate(modality.encode(TEXTS))
    np.testing.assert_array_equal(inputs["input_ids"], encoded["input_ids"])
    np.testing.assert_array_equal(inputs["token_type_ids"], encoded["token_type_ids"])
    features = run(base.backbone(modality, 0), modality, TEXTS)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(bert, dtype=torch.float32).eval()(**encoded).last_hidden_state
    torch.testing.assert_close(features.sequence_BTD[mask], expected[mask], rtol=0, atol=1e-6)
    torch.testing.assert_close(features.pooled_BD, expected[:, 0], rtol=0, atol=1e-6)
    assert modality.options.max_length == 64  # the base has 64 positions


def test_what_is_recorded(bert):
    origin = base_of(bert).origin()
    assert (origin["name"], origin["source"]) == ("hub", str(bert))
    assert set(origin["files"]) == {"config.json", "model.safetensors", "tokenizer.json"}
    card = base_of(bert).card()
    assert card.fetched
    assert card.size_bytes == (bert / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("said", "config", "name", "reason"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, {}, "mean", "1_Pooling/config.json of the base"),
        ({"pooling_mode_lasttoken": True, "word_embedding_dimension": 32}, {}, "last", "1_Pooling/config.json of the base"),
        ({"pooling_mode": "cls"}, {"classifier_pooling": "mean"}, "cls", "1_Pooling/config.json of the base"),
        ({"pooling_mode_max_tokens": True}, {}, "mean", "asks for a pooling that is not there"),
        (None, {"classifier_pooling": "mean"}, "mean", "classifier_pooling in config.json of the base"),
        (None, {}, "cls", "what suits the architecture 'bert'"),
    ],
)
def test_the_pooling_is_what_the_base_was_trained_with(copied, said, config, name, reason):
    if said is not None:
        (copied / "1_Pooling").mkdir()
        (copied / "1_Pooling" / "config.json").write_text(json.dumps(said))
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    base = base_of(copied)
    spec = base.backbone(base.modality({}, nothing), 0).spec()
    assert spec["pooling"] == name
    assert reason in spec["pooling_reason"]


def test_the_pooling_may_be_chosen(bert):
    base = base_of(bert, pooling="attention")
    backbone = base.backbone(base.modality({}, nothing), 0)
    assert (backbone.pooling_name, backbone.pooling_reason) == ("attention", "chosen by option")
    assert "pooling.query_D" in backbone.state_dict()
    with pytest.raises(OptionsError, match="did you mean 'mean'"):
        base_of(bert, pooling="meen")


def test_a_slow_tokenizer_is_converted(copied):
    vocabulary = json.loads((copied / "tokenizer.json").read_text())["model"]["vocab"]
    expected = base_of(copied).modality({}, nothing).encode(TEXTS)
    (copied / "tokenizer.json").unlink()
    (copied / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
    got = base_of(copied).modality({}, nothing).encode(TEXTS)
    assert [row.inputs["input_ids"].tolist() for row in got] == [row.inputs["input_ids"].tolist() for row in expected]


def test_a_folder_without_a_tokenizer(copied):
    (copied / "tokenizer.json").unlink()
    with pytest.raises(BaseError, match="the folder has no tokenizer") as caught:
        base_of(copied).modality({}, nothing)
    assert "save_pretrained(FOLDER)" in str(caught.value)


def test_a_tokenizer_that_cannot_be_read(copied):
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(BaseError, match="the tokenizer cannot be read"):
        base_of(copied).modality({}, nothing)


@pytest.mark.parametrize("wrong", [{"hidden_size": 0}, {"pad_token_id": 5000}, {"num_attention_heads": 0}])
def test_a_configuration_with_impossible_numbers(copied, wrong):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, **wrong}))
    base = base_of(copied)
    with pytest.raises(BaseError, match=r"the (base cannot be loaded|configuration cannot be used)"):
        base.backbone(base.modality({}, nothing), 0)


def test_a_tokenizer_of_another_base(copied):
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = 900
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BaseError) as caught:
        base_of(copied).modality({}, nothing)
    assert "the tokenizer and the weights do not belong together" in str(caught.value)
    assert "tokens up to number 900\n  expected: at most 299" in str(caught.value)


def test_code_that_a_folder_names_is_never_run(copied, tmp_path):
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "evil.Model"}}))
    (copied / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BaseError, match="'auto_map': it names code that would be run"):
        base_of(copied).fetch()
    assert not (tmp_path / "ran").exists()


def test_code_that_a_tokenizer_names_is_never_run(copied, tmp_path):
    path = copied / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}))
    (copied / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    modality = base_of(copied).modality({}, nothing)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "saved").mkdir()
    modality.save(tmp_path / "saved")
    assert "auto_map" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()


def test_pickles_are_refused_before_anything_is_loaded(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(BaseError, match="the weights are pickles"):
        base_of(copied).fetch()


def test_no_source_and_no_such_thing(tmp_path):
    with pytest.raises(BaseError, match="the base 'hub' needs a source"):
        base_of("").fetch()
    with pytest.raises(BaseError) as caught:
        base_of(tmp_path / "gone").fetch()
    assert str(caught.value) == (
        f"there is no such folder, and it is not an id on the hub either\n  where: {tmp_path / 'gone'}\n"
        "  to do: give an existing folder or an id such as owner/name"
    )


def test_offline_errors_say_what_to_do(no_network):
    with pytest.raises(BaseError) as caught:
        base_of("owner/name", revision="v1").fetch()
    text = str(caught.value)
    assert text.startswith(
        "owner/name at revision 'v1' is not in the hub's cache, and the network is switched off (HF_HUB_OFFLINE)\n"
        "  where: the hub"
    )
    assert "`hf download owner/name`" in text
    assert "--base minilm" in text


def test_a_blocked_network_says_what_to_do(monkeypatch):
    def blocked(*_, **__):
        raise OSError("connection refused")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", blocked)
    with pytest.raises(
        BaseError, match="owner/name could not be fetched from the hub\n  where: the hub\n  got: connection refused"
    ):
        base_of("owner/name").fetch()


def test_a_wrong_id_says_so(monkeypatch):
    def absent(*_, **__):
        raise OSError("404 Client Error. Repository Not Found")

    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    with pytest.raises(BaseError, match="owner/name is not on the hub, or is not open to you"):
        base_of("owner/name").fetch()


def test_a_hub_id_is_fetched_without_code_and_its_commit_is_recorded(bert, tmp_path, monkeypatch):
    asked = {}
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    blobs = tmp_path / "models--owner--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in bert.iterdir():
        shutil.copy(path, blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")

    def download(name, **options):
        asked.update(options, name=name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    base = base_of("hub:owner/name", revision="main")
    said = []
    base.fetch(said.append)
    backbone = base.backbone(base.modality({}, nothing), 0)
    assert said == ["fetching owner/name from the hub"]
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("owner/name", "main", False)
    assert not [p for p in asked["allow_patterns"] if p.endswith((".py", ".bin", ".pt", ".h5", "*")) or p == "*"]
    assert base.origin()["revision"] == commit
    assert backbone.width == 32
    assert str(tmp_path) not in json.dumps(backbone.body.config.to_dict() | {"_name_or_path": ""})

"""Untrained bases: same bytes twice, padding changes nothing, ordinary folders, they learn."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from regraft.errors import DataError, OptionsError
from regraft.modalities.text import Text
from regraft.models import BASES
from regraft.models.backbones import Backbone
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.models.vocabulary import learn_vocabulary
from regraft.options import Pick

NAMES = ["transformer", "lstm", "gru", "cnn", "mlp"]
SMALL = {"width": 32, "vocabulary_size": 400}
SIGNAL = np.random.default_rng(0).random((120, 2))
TEXTS = Text.example(SIGNAL, 0)


def raws():
    return iter([TEXTS[:50], TEXTS[50:]])


def make(name, seed=0, **options):
    cls, made = Pick(name, {**SMALL, **options}).resolve(BASES)
    base = cls(name, made)
    base.fetch()
    modality = base.modality({"max_length": 32}, raws)
    return base, modality, base.backbone(modality, seed)


def run(backbone, modality, texts):
    inputs, mask = modality.collate(modality.encode(texts))
    return backbone({name: torch.from_numpy(array) for name, array in inputs.items()}, torch.from_numpy(mask))


def test_every_base_of_the_table_is_tried_somewhere():
    of_text = {name for name in BASES if BASES.get(name).modality_name == "text"}
    assert of_text == {*NAMES, "minilm", "hub"}, "those of other modalities are tried in files of their own"
    assert {name for name in of_text if not BASES.get(name).pretrained} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides_the_weights(name):
    torch.rand(1)
    before = torch.get_rng_state()
    first, again, other = (make(name, seed)[2].state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert all(torch.isfinite(value).all() for value in first.values())


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    _, modality, backbone = make(name)
    texts = [TEXTS[0], "one", " ".join(TEXTS[1:4])]
    # In float64 what is left is the error of the idea, in float32 also that of rounding, which depends on the shape.
    for net, tolerance in ((backbone.eval(), 5e-6), (backbone.double(), 1e-13)):
        with torch.no_grad():
            together = run(net, modality, texts)
            for row, text in enumerate(texts):
                alone = run(net, modality, [text])
                length = alone.mask_BT.shape[1]
                torch.testing.assert_close(together.sequence_BTD[row, :length], alone.sequence_BTD[0], rtol=0, atol=tolerance)
                torch.testing.assert_close(together.pooled_BD[row], alone.pooled_BD[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_and_belongs_to_one_block(name):
    _, modality, backbone = make(name)
    run(backbone, modality, TEXTS[:4]).pooled_BD.square().sum().backward()
    blocks = backbone.blocks
    paths = (*blocks.embeddings, *blocks.layers, *blocks.final)
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert sum(key.startswith(f"{path}.") for path in paths) == 1, key
    assert len(blocks.layers) == backbone.body.config.num_hidden_layers


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_folder_is_an_ordinary_one(name, tmp_path):
    base, modality, backbone = make(name)
    backbone.eval().save(tmp_path)
    modality.save(tmp_path)
    again = Backbone.load(tmp_path, backbone.spec()).eval()
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(model) is type(backbone.body)
    with torch.no_grad():
        ours, reloaded = (run(net, modality, TEXTS[:3]) for net in (backbone, again))
        assert torch.equal(ours.pooled_BD, reloaded.pooled_BD)
        encoded = tokenizer(TEXTS[:3], truncation=True, max_length=32, padding=True, return_tensors="pt")
        theirs = model.eval()(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).last_hidden_state
    real = ours.mask_BT
    torch.testing.assert_close(theirs[real], ours.sequence_BTD[real], rtol=0, atol=1e-6)
    assert base.origin()["options"]["width"] == 32


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name):
    base, modality, backbone = make(name, dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Headed(backbone, LinearHead(backbone.width, 2, 0.0)).train()
        targets = torch.from_numpy((SIGNAL[:, 0] > 0.5).astype(np.int64))
        inputs, mask = modality.collate(modality.encode(TEXTS))
        inputs, mask = {key: torch.from_numpy(value) for key, value in inputs.items()}, torch.from_numpy(mask)
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        for _ in range(40):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(inputs, mask), targets)
            loss.backward()
            optimizer.step()
    accuracy = (net.eval()(inputs, mask).argmax(1) == targets).float().mean().item()
    assert accuracy > 0.9, accuracy
    assert not base.pretrained


def test_the_vocabulary_is_the_same_bytes_in_every_process():
    code = (
        "import hashlib, numpy as np; from regraft.modalities.text import Text;"
        "from regraft.models.vocabulary import learn_vocabulary;"
        "texts = Text.example(np.random.default_rng(0).random((120, 2)), 0);"
        "found = learn_vocabulary(lambda: iter([texts[:50], texts[50:]]), 400, lowercase=True).to_str();"
        "print(hashlib.sha256(found.encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    here = learn_vocabulary(raws, 400, lowercase=True).to_str()
    assert digests == {hashlib.sha256(here.encode()).hexdigest()}


def test_the_vocabulary_writes_every_text_and_folds_case():
    tokenizer = learn_vocabulary(raws, 400, lowercase=True)
    text = "漢字 😀 naïve\x00 tab\t"
    assert tokenizer.decode(tokenizer.encode(text).ids).strip() == text.strip().lower()
    assert tokenizer.encode("GREAT").ids == tokenizer.encode("great").ids
    assert learn_vocabulary(raws, 400, lowercase=False).encode("GREAT").ids != tokenizer.encode("great").ids
    assert tokenizer.get_vocab_size() <= 400


def test_sorted_data_do_not_narrow_the_vocabulary(monkeypatch):
    monkeypatch.setattr("regraft.models.vocabulary._SAMPLE_CHARACTERS", 2_000)
    rows = ["apple " * 20] * 200 + ["zebra " * 20] * 200
    vocabulary = learn_vocabulary(lambda: iter([rows[:150], rows[150:]]), 400, lowercase=True).get_vocab()
    assert {"Ġapple", "Ġzebra"} <= set(vocabulary)


def test_no_text_is_an_error():
    with pytest.raises(DataError, match="there is no text to learn a vocabulary from\n  to do: give training rows with text"):
        learn_vocabulary(lambda: iter([]), 400, lowercase=True)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        (
            "transformer",
            {"heads": 3},
            "the option 'heads' has a value it cannot take\n  got: 3\n  expected: a divisor of the width 32",
        ),
        ("cnn", {"kernel": 4}, "the option 'kernel' has a value it cannot take\n  got: 4\n  expected: an odd number"),
        ("lstm", {"pooling": "meen"}, "did you mean 'mean'"),
        ("lstm", {"widht": 3}, "there is no option 'widht'\n  where: lstm\n  to do: did you mean 'width'?"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_built(name, options, text):
    with pytest.raises(OptionsError) as caught:
        make(name, **options)
    assert text in str(caught.value)


def test_a_longer_text_than_there_are_positions_is_refused_only_when_asked_for():
    cls, made = Pick("transformer", {**SMALL, "positions": 16}).resolve(BASES)
    base = cls("transformer", made)
    assert base.modality({}, raws).options.max_length == 16
    with pytest.raises(OptionsError) as caught:
        base.modality({"max_length": 17}, raws)
    assert str(caught.value) == (
        "the base cannot place so long a text\n  where: max_length\n  got: 17\n  expected: at most 16 tokens ('transformer')\n"
        "  to do: give max_length a smaller value, or take a base for longer texts"
    )


def test_cards_need_nothing_heavy():
    code = (
        "import sys; from regraft.models import BASES\n"
        "for name in BASES:\n    cls = BASES.get(name); print(cls(name, cls.Options()).card())\n"
        "print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().splitlines()[-1] == "set()"
    assert len(found.stdout.strip().splitlines()) == len(BASES.names()) + 1

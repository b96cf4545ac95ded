"""Folders that hear, opened as bases; the packaged ones where they have been fetched."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from regraft.errors import BaseError, OptionsError
from regraft.models.backbones import Backbone, Shapes
from regraft.models.catalogue import Ge2e, PackagedOptions
from regraft.models.cuts import halves
from regraft.models.hub import HubBase, HubOptions

RNG = np.random.default_rng(0)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONVS = {"conv_dim": [8, 8, 8], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3}


def nothing():
    return iter(())


def clip(seconds):
    return (0.3 * RNG.standard_normal(round(16000 * seconds))).astype(np.float32), 16000


@pytest.fixture
def waves(tmp_path):
    torch.manual_seed(0)
    model = Wav2Vec2Model(Wav2Vec2Config(**SIZES, **CONVS, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)).eval()
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    return model, tmp_path


@pytest.fixture
def whisper(tmp_path):
    sizes = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_layers": 1, "vocab_size": 50}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    model = WhisperModel(WhisperConfig(d_model=16, decoder_attention_heads=2, decoder_ffn_dim=24, **sizes, **ids)).eval()
    model.save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    return model, tmp_path


def opened(folder, **options):
    base = HubBase("hub", HubOptions(source=str(folder)))
    assert base.reads == "audio"
    modality = base.modality(options, nothing)
    return modality, base.backbone(modality, 0).eval()


def features(modality, backbone, raws):
    inputs, mask = modality.collate(modality.encode(raws))
    with torch.no_grad():
        return backbone({name: torch.from_numpy(values) for name, values in inputs.items()}, torch.from_numpy(mask))


@torch.no_grad()
def test_a_folder_of_waves_gives_what_the_hub_gives(waves, tmp_path):
    model, folder = waves
    modality, backbone = opened(folder)
    clips = [clip(0.05), clip(0.03)]
    found = features(modality, backbone, clips)
    for row, (wave, _) in enumerate(clips):
        values = Wav2Vec2FeatureExtractor()(wave, sampling_rate=16000, return_tensors="pt").input_values
        alone = model(values).last_hidden_state[0]
        torch.testing.assert_close(found.sequence_BTD[row][found.mask_BT[row]], alone, atol=5e-6, rtol=0)
        torch.testing.assert_close(found.pooled_BD[row], alone.mean(dim=0), atol=5e-6, rtol=0)
    backbone.shapes = Shapes("fixed", 2000)
    fixed = features(modality, backbone, clips)
    torch.testing.assert_close(fixed.pooled_BD, found.pooled_BD, atol=5e-6, rtol=0)
    torch.testing.assert_close(fixed.pooled_BD[1:], features(modality, backbone, clips[1:]).pooled_BD, atol=0, rtol=0)
    out = tmp_path / "saved"
    out.mkdir()
    backbone.save(out)
    again = Backbone.load(out, json.loads(json.dumps(backbone.spec()))).eval()
    torch.testing.assert_close(features(modality, again, clips).pooled_BD, found.pooled_BD, atol=0, rtol=0)
    with pytest.raises(OptionsError, match="wav2vec2 makes positions of its own and cannot be cut here"):
        halves(backbone, 1)


@torch.no_grad()
def test_a_folder_of_whisper_takes_shorter_chunks_and_no_longer_ones(whisper):
    model, folder = whisper
    modality, backbone = opened(folder, chunk_s=1)
    assert backbone.body.window == 100
    found = features(modality, backbone, [clip(2.5), clip(0.5)])
    assert found.sequence_BTD.shape == (2, 150, 16)
    assert found.mask_BT.sum(dim=1).tolist() == [50 + 50 + 26, 26]
    whole, body = opened(folder)
    raw = clip(0.4)
    hub = WhisperFeatureExtractor()(raw[0], sampling_rate=16000, return_tensors="pt").input_features
    expected = model.encoder(hub).last_hidden_state
    torch.testing.assert_close(features(whole, body, [raw]).sequence_BTD, expected, atol=1e-4, rtol=0)
    with pytest.raises(OptionsError, match="the base takes no longer chunks"):
        opened(folder, chunk_s=31)


def test_preprocessing_of_another_base_is_refused(whisper):
    _, folder = whisper
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    with pytest.raises(BaseError, match="the preprocessing and the weights do not belong together"):
        opened(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BaseError, match="the preprocessing of the base is missing"):
        opened(folder)


@pytest.mark.large
def test_the_speaker_encoder_tells_speakers_apart():
    from sounds_real import recordings_of

    base = Ge2e("ge2e", PackagedOptions())
    if not base.card().fetched:
        pytest.skip("the base 'ge2e' is not fetched: regraft bases ge2e --fetch")
    modality = base.modality({}, nothing)
    clips = recordings_of("pocketsphinx-testdata")
    cards, reader = ([raw for name, raw in sorted(clips.items()) if part in name] for part in ("/cards/", "/librivox/"))
    found = features(modality, base.backbone(modality, 0).eval(), cards + reader).pooled_BD
    unit = torch.nn.functional.normalize(found, dim=1)
    alike = (unit @ unit.T).numpy()
    n = len(cards)
    same = np.concatenate([alike[:n, :n][np.triu_indices(n, 1)], alike[n:, n:][np.triu_indices(len(reader), 1)]])
    assert same.mean() > alike[:n, n:].mean() + 0.1

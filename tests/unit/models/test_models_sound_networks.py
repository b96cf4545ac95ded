"""Encoders of sound against the hub's own on tiny random configurations; padding, windows, short rows."""

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTModel,
    AutoModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperModel,
)

from regraft.models.sound_networks import (
    AstSound,
    HubertSound,
    SpeakerConfig,
    SpeakerEncoder,
    Wav2Vec2Sound,
    WavLMSound,
    WhisperSound,
)

WAVES = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2Sound),
    "hubert": (HubertConfig, HubertModel, HubertSound),
    "wavlm": (WavLMConfig, WavLMModel, WavLMSound),
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONVS = {"conv_dim": [8, 8, 8], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3}


def whisper_config():
    sizes = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_layers": 1}
    more = {"decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 0}
    more |= {"eos_token_id": 0, "decoder_start_token_id": 0}
    return WhisperConfig(d_model=16, num_mel_bins=10, max_source_positions=20, **sizes, **more)


def opened(hub, kind, folder):
    torch.manual_seed(0)
    hub.eval().save_pretrained(folder)
    made, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    return made.eval()


@torch.no_grad()
def test_whisper_is_the_hubs_encoder(tmp_path):
    hub = WhisperModel(whisper_config())
    ours = opened(hub, WhisperSound, tmp_path)
    frames = torch.randn(3, 40, 10)
    found = ours(input_features=frames, attention_mask=torch.ones(3, 40)).last_hidden_state
    expected = hub.encoder(frames.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    ours.save_pretrained(tmp_path / "again")
    whole = WhisperForAudioClassification.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(whole.encoder(frames.transpose(1, 2)).last_hidden_state, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_whisper_fills_windows_up_with_silence_and_cuts_long_rows(tmp_path):
    hub = WhisperModel(whisper_config())
    ours = opened(hub, WhisperSound, tmp_path)
    mask = torch.arange(57)[None] < torch.tensor([57, 13])[:, None]
    frames = torch.randn(2, 57, 10).clamp(-1.5, 1.5) * mask[..., None]
    found = ours(input_features=frames, attention_mask=mask).last_hidden_state
    own = ours.own_mask(mask)
    assert found.shape == (2, 40, 16)
    assert own.sum(dim=1).tolist() == [20 + 9, 7]
    for row, start, count in [(0, 0, 40), (0, 40, 17), (1, 0, 13)]:
        real = frames[row, start : start + count]
        window = torch.full((40, 10), max(float(real.max()) - 2.0, -1.5))
        window[:count] = real
        expected = hub.encoder(window.T[None]).last_hidden_state[0]
        torch.testing.assert_close(found[row, start // 2 : start // 2 + 20], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_whisper_takes_shorter_windows(tmp_path):
    ours = opened(WhisperModel(whisper_config()), WhisperSound, tmp_path)
    whole = ours(input_features=torch.ones(1, 12, 10), attention_mask=torch.ones(1, 12)).last_hidden_state
    ours.config.window_positions = 12
    short = ours(input_features=torch.ones(1, 24, 10), attention_mask=torch.ones(1, 24)).last_hidden_state
    assert (whole.shape, short.shape) == ((1, 20, 16), (1, 12, 16))
    torch.testing.assert_close(short[:, :6], short[:, 6:])


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # the hub's own WavLM
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("family", WAVES)
@torch.no_grad()
def test_waves_are_those_of_the_hub(family, norm, tmp_path):
    config, hub_kind, kind = WAVES[family]
    stable = {"do_stable_layer_norm": True} if norm == "layer" else {}
    hub = hub_kind(
        config(**SIZES, **CONVS, feat_extract_norm=norm, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **stable)
    )
    ours = opened(hub, kind, tmp_path)
    lengths = [400, 155, 60, 47]
    mask = torch.arange(400)[None] < torch.tensor(lengths)[:, None]
    waves = torch.randn(4, 400)
    found, own = ours(input_values=waves, attention_mask=mask).last_hidden_state, ours.own_mask(mask)
    if norm == "layer":  # families that are trained with masks: the hub's answer for the very same batch
        batch = hub(waves * mask, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(found[own], batch[own], atol=1e-6, rtol=0)
    for row, length in enumerate(lengths):
        alone = hub(waves[row : row + 1, :length]).last_hidden_state[0]
        assert int(own[row].sum()) == len(alone)
        # With a mask attention runs another kernel, and a mean over time is summed in another order.
        torch.testing.assert_close(found[row][own[row]], alone, atol=5e-6, rtol=0)
    ours.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(again(waves).last_hidden_state, hub(waves).last_hidden_state, atol=1e-6, rtol=0)


@torch.no_grad()
def test_waves_in_windows_and_shorter_than_the_convolutions(tmp_path):
    hub = Wav2Vec2Model(Wav2Vec2Config(**SIZES, **CONVS, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2))
    ours = opened(hub, Wav2Vec2Sound, tmp_path)
    tiny = ours(input_values=torch.randn(1, 3), attention_mask=torch.ones(1, 3))
    assert tiny.last_hidden_state.shape == (1, 1, 16)
    assert ours.own_mask(torch.ones(1, 3)).tolist() == [[True]]
    ours.config.window_positions = 100
    waves, mask = torch.randn(2, 250), torch.arange(250)[None] < torch.tensor([250, 90])[:, None]
    found, own = ours(input_values=waves, attention_mask=mask).last_hidden_state, ours.own_mask(mask)
    per = hub(waves[:1, :100]).last_hidden_state
    torch.testing.assert_close(found[:1, : per.shape[1]], per, atol=1e-6, rtol=0)
    assert found.shape[1] == 3 * per.shape[1]
    assert not own[1, per.shape[1] :].any()
    assert torch.isfinite(found).all()


@torch.no_grad()
def test_ast_is_that_of_the_hub(tmp_path):
    hub = ASTModel(ASTConfig(**SIZES, max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8))
    ours = opened(hub, AstSound, tmp_path)
    frames, mask = torch.randn(2, 64, 16), torch.arange(64)[None] < torch.tensor([64, 32])[:, None]
    found, own = ours(input_values=frames, attention_mask=mask).last_hidden_state, ours.own_mask(mask)
    for row, window in [(0, 0), (0, 1), (1, 0)]:
        alone = hub(frames[row : row + 1, 32 * window : 32 * window + 32]).last_hidden_state
        count = alone.shape[1]
        assert own[row, window * count : (window + 1) * count].all()
        torch.testing.assert_close(found[row : row + 1, window * count : (window + 1) * count], alone, atol=1e-6, rtol=0)
    assert not own[1, own.shape[1] // 2 :].any()


@torch.no_grad()
def test_the_speaker_encoder_is_the_published_one_by_hand(tmp_path):
    torch.manual_seed(0)
    ours = SpeakerEncoder(SpeakerConfig(num_mel_bins=5, recurrent_size=6, hidden_size=7, window_positions=8)).eval()
    published = torch.nn.LSTM(5, 6, 3, batch_first=True)
    for number, layer in enumerate(ours.layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(published, f"{name}_l{number}").copy_(getattr(layer, f"{name}_l0"))
    mels = torch.rand(2, 16, 5)
    mask = torch.arange(16)[None] < torch.tensor([16, 8])[:, None]
    found = ours(input_features=mels, attention_mask=mask).last_hidden_state
    for row, window in [(0, 0), (0, 1), (1, 0)]:
        _, (hidden, _) = published(mels[row : row + 1, 8 * window : 8 * window + 8])
        raw = torch.relu(ours.projection(hidden[-1]))
        torch.testing.assert_close(found[row, window], (raw / raw.norm())[0], atol=1e-6, rtol=0)
    assert ours.own_mask(mask).tolist() == [[True, True], [True, False]]
    ours.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(input_features=mels, attention_mask=mask).last_hidden_state, found)

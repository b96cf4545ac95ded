"""Encoders of sound: convolutions over padded rows, layers over real positions only; and the kernel for rows end to end."""

import copy

import pytest
import torch
import transformers

from regraft.models import attention
from regraft.models.layout import layout_of
from regraft.models.packing_layers import packed_layers

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
KINDS = {
    "wav2vec2": ("Wav2Vec2", {"feat_extract_norm": "layer"}),
    "wav2vec2 stable": ("Wav2Vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert": ("Hubert", {"feat_extract_norm": "layer"}),
}


def made(kind, **changed):
    name, extra = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **extra, **changed})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = getattr(transformers, f"{name}Model")(config)
    return body.eval()


def sounds(lengths, body):
    samples = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    values = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0)) * samples
    frames = body._get_feat_extract_output_lengths(torch.tensor(lengths))
    total = int(body._get_feat_extract_output_lengths(max(lengths)))
    return values, samples.long(), torch.arange(total) < frames[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[400, 900, 400, 2000], [700], [300, 310]])
def test_vectors_and_gradients_are_those_of_padded_rows(kind, lengths):
    plain = made(kind)
    body = copy.deepcopy(plain)
    packed = packed_layers(body, "encoder", [f"encoder.layers.{number}" for number in range(3)])
    values, samples, mask = sounds(lengths, plain)
    expected = plain(values, attention_mask=samples).last_hidden_state
    with attention.packed_rows(layout_of(mask)):
        found = packed(values, attention_mask=samples).last_hidden_state
    assert found.shape == expected.shape
    assert (found - expected)[mask].abs().max() <= 1e-5
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for sequence in (found, expected):
        (sequence * weights)[mask].sum().backward()
    for (name, one), (_, other) in zip(body.named_parameters(), plain.named_parameters(), strict=True):
        if other.grad is not None and "k_proj.bias" not in name:
            assert (one.grad - other.grad).abs().max() <= 1e-5 * max(1e-2, float(other.grad.abs().max())), name
    outside = packed(values, attention_mask=samples).last_hidden_state
    assert (outside - expected)[mask].abs().max() <= 1e-5


def test_layers_see_real_positions_only():
    body = made("wav2vec2")
    packed = packed_layers(body, "encoder", [f"encoder.layers.{number}" for number in range(3)])
    values, samples, mask = sounds([400, 2000, 400], body)
    seen = []
    body.encoder.layers[1].feed_forward.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    with attention.packed_rows(layout_of(mask)), torch.inference_mode():
        packed(values, attention_mask=samples)
    assert seen == [(1, int(mask.sum()), 32)]


def test_layers_may_be_dropped_in_training():
    body = made("wav2vec2", layerdrop=0.5).train()
    packed = packed_layers(body, "encoder", [f"encoder.layers.{number}" for number in range(3)]).train()
    values, samples, mask = sounds([400, 900], body)
    torch.manual_seed(0)
    with attention.packed_rows(layout_of(mask)):
        for _ in range(12):
            assert packed(values, attention_mask=samples).last_hidden_state.shape[:2] == mask.shape


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_for_rows_end_to_end_is_told_where_rows_end(monkeypatch, causal):
    """There is no GPU here: a stand-in computes what the kernel's documentation says, row by row."""
    calls = []

    def kernel(q, k, v, ends_q, ends_k, longest_q, longest_k, *, scale, window_size):
        calls.append((ends_q.tolist(), longest_q, window_size))
        assert ends_q.dtype == torch.int32
        parts = []
        for start, stop in zip(ends_q[:-1].tolist(), ends_q[1:].tolist(), strict=True):
            row = [t[start:stop].transpose(0, 1) for t in (q, k, v)]
            out = torch.nn.functional.scaled_dot_product_attention(*row, is_causal=window_size == (-1, 0), scale=scale)
            parts.append(out.transpose(0, 1))
        return torch.cat(parts)

    name = "Llama" if causal else "Bert"
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    body = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes)).eval()
    attention.register()
    body.set_attn_implementation(attention.NAME)
    mask = torch.arange(9) < torch.tensor([4, 9, 1])[:, None]
    layout = layout_of(mask)
    ids = layout.pack(torch.randint(3, 50, mask.shape))
    places = layout.pack(torch.arange(9).expand(3, -1))
    outs = []
    for has in (False, True):
        monkeypatch.setattr(attention, "_has_varlen", lambda _, has=has: has)
        monkeypatch.setattr(attention, "_varlen_kernel", lambda: kernel)
        with attention.packed_rows(layout), torch.inference_mode():
            outs.append(body(input_ids=ids, position_ids=places).last_hidden_state)
    assert (outs[0] - outs[1]).abs().max() <= 1e-5
    assert calls == [([0, 1, 5, 14], 9, (-1, 0) if causal else (-1, -1))] * 2

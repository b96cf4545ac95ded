"""Prompt tuning against PEFT's own: the same answers, the same five steps, a folder that PEFT opens; no merge."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from adapted_nets import given, headed, outputs, tuned
from tiny_families import FAMILIES
from torch.nn import functional as F

from regraft.errors import ArtifactError, OptionsError, UsageError
from regraft.models import POOLINGS, transform
from regraft.models.backbones import Backbone, Shapes
from regraft.models.net import BACKBONE_FOLDER, save_net
from regraft.models.packing import run_padded

TOKENS = 4
NAMES = [name if name in ("bert", "gpt2", "t5") else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_vectors_in_front_of_the_text_and_leaves_them_out(name):
    net, bare, (inputs, mask) = tuned(name, "prompt", tokens=TOKENS), headed(name), given(name)
    body, architecture = bare.backbone.body, bare.backbone.architecture
    table, prompt = body.get_input_embeddings(), net.backbone.body.get_input_embeddings().prompt
    with torch.no_grad():
        for row in range(len(mask)):  # one row at a time, so that nothing but the text stands behind the prompt
            length = int(mask[row].sum())
            seen = {}

            def instead(_m, _i, out, prompt=prompt, seen=seen):
                seen["once"] = True
                return torch.cat([prompt[None], out[:, TOKENS:]], dim=1)

            tables = [one for one in body.modules() if getattr(one, "weight", None) is table.weight]
            handles = [one.register_forward_hook(instead) for one in tables]
            ids = torch.cat([torch.full((1, TOKENS), 5), inputs["input_ids"][row : row + 1, :length]], dim=1)
            types = torch.cat([torch.zeros(1, TOKENS).long(), inputs["token_type_ids"][row : row + 1, :length]], dim=1)
            given_row = {"input_ids": ids, "token_type_ids": types}
            expected = run_padded(body, architecture, given_row, torch.ones_like(ids).bool())[0, TOKENS:]
            for handle in handles:
                handle.remove()
            assert seen
            found = net.features(inputs, mask).sequence_BTD[row, :length]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    whole = outputs(net, (inputs, mask))
    for shapes in ("padded", "fixed"):
        net.backbone.shapes = Shapes(shapes, 20 if shapes == "fixed" else None)
        torch.testing.assert_close(outputs(net, (inputs, mask)), whole, rtol=1e-5, atol=1e-5)
        assert net.backbone.shapes.length == (20 if shapes == "fixed" else None)


def test_it_begins_as_vectors_of_tokens_and_without_it_the_base_answers_as_it_came():
    net, rows = tuned("bert", "prompt", filled=False, tokens=TOKENS), given("bert")
    table = net.backbone.body.get_input_embeddings()
    for vector in table.prompt:
        assert (table.weight == vector).all(dim=1).any()
    again, other = (tuned("bert", "prompt", seed, filled=False, tokens=TOKENS) for seed in (0, 1))
    assert torch.equal(again.backbone.body.get_input_embeddings().prompt, table.prompt)
    assert not torch.equal(other.backbone.body.get_input_embeddings().prompt, table.prompt)
    before = outputs(headed("bert"), rows)
    assert not torch.allclose(outputs(net, rows), before)
    bare = transform.original(net)
    assert torch.equal(outputs(bare, rows), before)
    assert not transform.added_names(bare)
    assert outputs(net, rows).shape == before.shape, "the network itself is left as it is"
    assert transform.added_names(net) == {"backbone.body.embeddings.word_embeddings.prompt"}


def test_a_merge_is_refused_with_the_reason():
    net = tuned("bert", "prompt")
    with pytest.raises(UsageError) as caught:
        transform.folded(net)
    for text in ("a prompt cannot be merged", "positions in front of every text", "--tuning lora"):
        assert text in str(caught.value)


def test_where_there_is_no_room_or_no_text_it_is_refused():
    net = headed("bert")
    limit = net.backbone.body.config.max_position_embeddings
    from adapted_nets import batch_of

    from regraft.tuning.prompt import Prompt, PromptOptions

    net.backbone.shapes = Shapes("packed", limit - 3)
    with pytest.raises(OptionsError) as caught:
        Prompt(PromptOptions(tokens=4)).prepare(net, iter([batch_of(*given("bert"))]), 0)
    for text in ("no room for a prompt", f"4 + {limit - 3} positions", f"set modality.max_length to {limit - 4} or less"):
        assert text in str(caught.value)
    assert not net.transforms
    with pytest.raises(OptionsError, match=r"reads no tokens(.|\n)*choose another tuning"):
        tuned("vit", "prompt")


def test_plans_of_other_networks_are_refused():
    for name, plan, text in (
        ("bert", {"tokens": 0}, "plan of the prompt cannot be read"),
        ("vit", {"tokens": 3}, "no place for a prompt"),
    ):
        with pytest.raises(ArtifactError, match=text):
            transform.install(headed(name), [{"name": "prompt", "plan": plan}])
    net = tuned("bert", "prompt")
    with pytest.raises(ArtifactError, match="no place for a prompt"):
        transform.install(net, [applied.to_json() for applied in net.transforms])


def plain_rows():
    """Return rows of one kind of token: PEFT gives the body no kinds."""
    inputs, mask = given("bert")
    return {**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])}, mask


def peft_over(body, count):
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=count)
    config.num_layers = config.num_attention_heads = 1
    config.token_dim, config.num_transformer_submodules = body.get_input_embeddings().embedding_dim, 1
    return peft.PeftModelForFeatureExtraction(body, config)


def answered(wrapped, head, rows, count):
    inputs, mask = rows
    hidden = wrapped(input_ids=inputs["input_ids"], attention_mask=mask.long()).last_hidden_state[:, count:]
    pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return head.linear(pooled)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_answers_and_five_steps_are_pefts():
    net, bare, rows = tuned("bert", "prompt", filled=False, tokens=TOKENS), headed("bert"), plain_rows()
    net.backbone.pooling = POOLINGS.get("mean")(net.backbone.width)
    wrapped = peft_over(bare.backbone.body, TOKENS).eval()
    mine = net.backbone.body.get_input_embeddings().prompt
    theirs = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        theirs.copy_(mine)
    torch.testing.assert_close(outputs(net, rows), answered(wrapped, bare.head, rows, TOKENS), rtol=0, atol=1e-6)
    sides = [(mine, lambda: net(*rows)), (theirs, lambda: answered(wrapped, bare.head, rows, TOKENS))]
    found = []
    for weight, answer in sides:
        optimizer, losses = torch.optim.SGD([weight], lr=20.0, momentum=0.9), []
        for _ in range(5):
            loss = F.cross_entropy(answer(), torch.tensor([0, 1, 2, 1]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        found.append(losses)
    assert found[0][0] - found[0][-1] > 2e-3
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_opens_the_folder_of_an_artifact(tmp_path):
    peft = pytest.importorskip("peft")
    net, (inputs, mask) = tuned("bert", "prompt", tokens=TOKENS), plain_rows()
    save_net(net, tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"], config["token_dim"]) == ("PROMPT_TUNING", TOKENS, 32)
    body = Backbone.load(tmp_path / BACKBONE_FOLDER, net.backbone.spec()).body
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        opened = peft.PeftModel.from_pretrained(body, tmp_path / "adapter").eval()
    with torch.no_grad():
        hidden = opened(input_ids=inputs["input_ids"], attention_mask=mask.long()).last_hidden_state[:, TOKENS:]
        ours = net.features(inputs, mask).sequence_BTD
    torch.testing.assert_close(hidden[mask], ours[mask], rtol=0, atol=2e-6)

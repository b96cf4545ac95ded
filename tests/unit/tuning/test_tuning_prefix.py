"""Prefix tuning against PEFT's own past keys and values: the same answers, the same steps, a folder that PEFT opens; no merge."""

from __future__ import annotations

import copy
import json
import re
import warnings

import pytest
import torch
from adapted_nets import batch_of, given, headed, outputs, tuned
from tiny_families import FAMILIES
from torch.nn import functional as F

from regraft.errors import ArtifactError, OptionsError, UsageError
from regraft.models import POOLINGS, transform
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Shapes
from regraft.models.net import BACKBONE_FOLDER, save_net
from regraft.models.packing import run_padded
from regraft.models.recomputed import Recompute, recomputable
from regraft.tuning.prefix import Prefix, PrefixOptions

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TOKENS = 4
ABLE = [name for name in FAMILIES if ARCHITECTURES[name].keys_values]
QUICK = ("bert", "roberta", "llama", "gpt2")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ABLE]


def plain_rows(name):
    """Return rows of one kind of token: PEFT gives the body no kinds."""
    inputs, mask = given(name)
    return {**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])}, mask


def body_of(name):
    """Return the body alone; PEFT asks it for a table of positions that a family may not have."""
    return headed(name).backbone.body


def opened(body, folder):
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.PeftModel.from_pretrained(body, folder).eval()


@pytest.mark.parametrize("name", EACH)
def test_peft_opens_the_folder_of_an_artifact_and_answers_alike(name, tmp_path):
    net, (inputs, mask) = tuned(name, "prefix", tokens=TOKENS), plain_rows(name)
    save_net(net, tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"], config["num_layers"]) == ("PREFIX_TUNING", TOKENS, 3)
    theirs = opened(Backbone.load(tmp_path / BACKBONE_FOLDER, net.backbone.spec()).body, tmp_path / "adapter")
    bare = headed(name).features(inputs, mask).sequence_BTD
    with torch.no_grad():
        hidden = theirs(input_ids=inputs["input_ids"], attention_mask=mask.long()).last_hidden_state
        assert hidden.shape[1] == mask.shape[1]
        for shapes in (Shapes("packed"), Shapes("padded"), Shapes("fixed", 20)):
            net.backbone.shapes = shapes
            ours = net.features(inputs, mask).sequence_BTD
            torch.testing.assert_close(ours[mask], hidden[mask], rtol=1e-5, atol=5e-6)
            assert float((ours - bare)[mask].abs().max()) > 1e-2


def peft_over(name, net):
    """Return PEFT's own prefix over the same body, holding the same numbers."""
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(
        body_of(name), peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=TOKENS)
    ).eval()
    weight = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(prefix_of(net))
    return wrapped, weight


def prefix_of(net):
    """Return the prefix as PEFT lays it out: of each layer the keys, then the values."""
    names = sorted(transform.added_names(net), key=lambda key: (int(re.search(r"\d+", key)[0]), key))
    return torch.cat([dict(net.named_parameters())[name] for name in names], dim=1)


def answered(wrapped, head, rows):
    inputs, mask = rows
    hidden = wrapped(input_ids=inputs["input_ids"], attention_mask=mask.long()).last_hidden_state
    pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return head.linear(pooled)


@pytest.mark.parametrize(("name", "rate"), [("bert", 200.0), ("llama", 2.0), ("gpt2", 20.0)])
def test_answers_and_five_steps_are_pefts(name, rate):
    net, rows = tuned(name, "prefix", filled=False, tokens=TOKENS), plain_rows(name)
    net.backbone.pooling = POOLINGS.get("mean")(net.backbone.width)
    wrapped, weight = peft_over(name, net)
    head = copy.deepcopy(net.head)
    torch.testing.assert_close(outputs(net, rows), answered(wrapped, head, rows), rtol=0, atol=2e-6)
    added = transform.added_names(net)
    mine = [value for key, value in net.named_parameters() if key in added]
    found = []
    for weights, answer in ((mine, lambda: net(*rows)), ([weight], lambda: answered(wrapped, head, rows))):
        optimizer, losses = torch.optim.SGD(weights, lr=rate, momentum=0.9), []
        for _ in range(5):
            loss = F.cross_entropy(answer(), torch.tensor([0, 1, 2, 1]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        found.append(losses)
    assert found[0][0] - found[0][-1] > 2e-3
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    torch.testing.assert_close(prefix_of(net), weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_it_begins_as_tokens_in_front_of_the_text(name):
    """Where no position sees those behind it, keys and values of tokens are those tokens."""
    net, (inputs, mask) = tuned(name, "prefix", filled=False, tokens=TOKENS), given(name)
    body, architecture = headed(name).backbone.body, net.backbone.architecture
    table = body.get_input_embeddings()
    from regraft.models.prefix import _STREAM

    drawn = torch.randint(table.num_embeddings, (1, TOKENS), generator=torch.Generator().manual_seed(_STREAM % 2**63))
    longer = torch.cat([drawn.expand(len(mask), -1), inputs["input_ids"]], dim=1)
    whole = torch.cat([torch.ones(len(mask), TOKENS).bool(), mask], dim=1)
    with torch.no_grad():
        expected = run_padded(body, architecture, {"input_ids": longer}, whole)[:, TOKENS:]
        found = net.features(inputs, mask).sequence_BTD
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=5e-6)
    again, other = (tuned(name, "prefix", seed, filled=False, tokens=TOKENS) for seed in (0, 1))
    assert torch.equal(prefix_of(again), prefix_of(net))
    assert not torch.equal(prefix_of(other), prefix_of(net))


@pytest.mark.parametrize("shapes", [Shapes("packed"), Shapes("fixed", 20)])
def test_computed_a_second_time_on_the_way_back_it_learns_the_same(shapes):
    found = []
    for on in (False, True):
        net, rows = tuned("bert", "prefix", tokens=TOKENS), given("bert")
        net.backbone.shapes = shapes
        learning = recomputable(net, Recompute(on))
        F.cross_entropy(learning(*rows), torch.tensor([0, 1, 2, 1])).backward()
        found.append([value.grad for key, value in net.named_parameters() if key in transform.added_names(net)])
    assert all(value.any() for value in found[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_learns_in_bf16():
    net, rows = tuned("llama", "prefix", tokens=TOKENS), given("llama")
    whole = outputs(net, rows)
    learnt = {key: value for key, value in net.named_parameters() if key in transform.added_names(net)}
    F.cross_entropy(net(*rows), torch.tensor([0, 1, 2, 1])).backward()
    expected = {key: value.grad for key, value in learnt.items()}
    net.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(*rows)
    torch.testing.assert_close(found.float(), whole, rtol=0.1, atol=0.1)
    F.cross_entropy(found.float(), torch.tensor([0, 1, 2, 1])).backward()
    for key, value in learnt.items():
        assert value.grad.dtype == torch.float32
        near = F.cosine_similarity(value.grad.flatten(), expected[key].flatten(), dim=0)
        assert float(near) > 0.99, key


def test_without_it_the_base_answers_as_it_came():
    net, rows = tuned("bert", "prefix", tokens=TOKENS), given("bert")
    before = outputs(headed("bert"), rows)
    with_it = outputs(net, rows)
    bare = transform.original(net)
    assert torch.equal(outputs(bare, rows), before)
    assert not transform.added_names(bare)
    assert torch.equal(outputs(net, rows), with_it), "the network itself is left as it is"
    ends = ("key.prefix", "value.prefix")
    assert transform.added_names(net) == {
        f"backbone.body.encoder.layer.{n}.attention.self.{end}" for n in range(3) for end in ends
    }


def test_a_merge_is_refused_with_the_reason():
    with pytest.raises(UsageError) as caught:
        transform.folded(tuned("bert", "prefix"))
    for text in ("a prefix cannot be merged", "keys and values in front of every text", "--tuning lora"):
        assert text in str(caught.value)


@pytest.mark.parametrize("name", ["t5", "gpt_neox", "deberta", "qwen3", "vit", "modernbert"])
def test_a_base_with_other_keys_and_values_is_refused(name):
    with pytest.raises(OptionsError) as caught:
        tuned(name, "prefix")
    for text in (
        "no keys and values that a prefix could stand in front of",
        "bert, camembert, electra",
        "choose another tuning",
    ):
        assert text in str(caught.value)


def test_where_there_is_no_room_it_is_refused():
    net = headed("bert")
    limit = net.backbone.body.config.max_position_embeddings
    net.backbone.shapes = Shapes("packed", limit - 3)
    with pytest.raises(OptionsError) as caught:
        Prefix(PrefixOptions(tokens=4)).prepare(net, iter([batch_of(*given("bert"))]), 0)
    for text in ("no room for a prefix", f"4 + {limit - 3} positions", "make the prefix shorter"):
        assert text in str(caught.value)
    assert not net.transforms


def test_plans_of_other_networks_are_refused():
    for name, plan, text in (
        ("bert", {"tokens": 0}, "plan of the prefix cannot be read"),
        ("t5", {"tokens": 3}, "no place for a prefix"),
        ("vit", {"tokens": 3}, "no place for a prefix"),
    ):
        with pytest.raises(ArtifactError, match=text):
            transform.install(headed(name), [{"name": "prefix", "plan": plan}])
    net = tuned("bert", "prefix")
    with pytest.raises(ArtifactError, match="no place for a prefix"):
        transform.install(net, [applied.to_json() for applied in net.transforms])

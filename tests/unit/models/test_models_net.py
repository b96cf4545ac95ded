"""What of a network lies where, and its digest."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import tiny_model

from regraft.errors import ArtifactError
from regraft.models.backbones import Backbone, PoolingChoice, open_body
from regraft.models.heads import LinearHead
from regraft.models.net import Headed, load_outside, outside_backbone_folder, save_net, weights_digest

OUTSIDE = ["backbone.pooling.query_D", "head.linear.bias", "head.linear.weight"]


@pytest.fixture
def net(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path / "base")
    backbone = Backbone(open_body(tmp_path / "base"), PoolingChoice("attention", "test"))
    torch.nn.init.normal_(backbone.pooling.query_D, generator=torch.Generator().manual_seed(0))
    return Headed(backbone, LinearHead(32, 3, 0.1, torch.Generator().manual_seed(1)))


def test_what_the_hubs_folder_does_not_hold(net):
    outside = outside_backbone_folder(net)
    assert list(outside) == OUTSIDE
    inside = {name for name in net.state_dict() if name.startswith("backbone.body.")}
    assert inside | set(outside) == set(net.state_dict())
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in outside.values())


def test_save_and_load_are_bit_equal(net, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    save_net(net, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["backbone", "weights.safetensors"]
    again = Headed(Backbone.load(folder / "backbone", net.backbone.spec()), LinearHead(32, 3, 0.1))
    assert weights_digest(again) != weights_digest(net)
    load_outside(again, folder / "weights.safetensors")
    assert weights_digest(again) == weights_digest(net)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    first = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    save_net(again, folder)
    assert first == {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (
            lambda w: w.pop("head.linear.bias"),
            "the weight 'head.linear.bias' does not fit\n  where: .*\n  got: nothing\n  expected: float32 .3.",
        ),
        (
            lambda w: w.update(x=torch.zeros(1)),
            "the weight 'x' does not fit\n  where: .*\n  got: float32 .1.\n  expected: nothing",
        ),
        (lambda w: w.update({"head.linear.bias": torch.zeros(4)}), "got: float32 .4.\n  expected: float32 .3."),
        (lambda w: w.update({"head.linear.bias": torch.zeros(3).half()}), "got: float16 .3."),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed(net, tmp_path, edit, text):
    weights = outside_backbone_folder(net)
    edit(weights)
    save_file(weights, tmp_path / "w.safetensors")
    before = weights_digest(net)
    with pytest.raises(ArtifactError, match=text):
        load_outside(net, tmp_path / "w.safetensors")
    assert weights_digest(net) == before


def test_the_digest_is_what_it_says(net):
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name}\0float32 {list(tensor.shape)}\0".encode() + tensor.numpy().tobytes())
    assert weights_digest(net) == digest.hexdigest()
    with torch.no_grad():
        net.head.linear.bias[1] += 1e-7
    assert weights_digest(net) != digest.hexdigest()


def test_the_digest_does_not_depend_on_strides(net, tmp_path):
    before = weights_digest(net)
    net.head.linear.weight = torch.nn.Parameter(net.head.linear.weight.detach().t().contiguous().t())
    assert not net.head.linear.weight.is_contiguous()
    assert weights_digest(net) == before
    save_file(outside_backbone_folder(net), tmp_path / "w.safetensors")
    assert torch.equal(load_file(tmp_path / "w.safetensors")["head.linear.weight"], net.head.linear.weight)

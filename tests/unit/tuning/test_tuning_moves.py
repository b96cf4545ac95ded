"""Every tuning on text, pictures and sound: what it names moves and nothing else does; kept, opened and merged it is the same."""

from __future__ import annotations

import copy
import hashlib
import json

import adapted_nets
import pytest
import torch
from adapted_nets import given, headed, outputs, tuned
from torch.nn import functional as F

from regraft.errors import OptionsError, UsageError
from regraft.models import TRANSFORMS, transform
from regraft.models.backbones import Backbone, PoolingChoice, open_body
from regraft.models.heads import LinearHead
from regraft.models.net import BACKBONE_FOLDER, WEIGHTS_FILE, Headed, load_outside, save_net, weights_digest
from regraft.options import build
from regraft.regularizers.regularizer import Scene
from regraft.training.freeze import learning
from regraft.training.optimizers import parameter_groups, peak_rates
from regraft.training.options import TrainOptions
from regraft.tuning import TUNINGS
from regraft.tuning.parts import Decided, new_parameters
from tunings_here import tunings_here

NAMES = ("bert", "vit", "wav2vec2")


def digest(net, names):
    found = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        if key in names:
            found.update(key.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def fitted(net, tuning, rows, steps=3):
    """Train some steps as the loop does, with rates that decay from layer to layer."""
    names = Decided(tuning.trainable(net), tuning.shares(net)).trainable(net)
    rates = peak_rates(TrainOptions(learning_rate=1e-2), pretrained=True, only_new=False)
    with learning(net, names):
        optimizer = torch.optim.SGD(parameter_groups(net, names, new_parameters(net), rates, 0.0), momentum=0.9)
        following = [part for _, part in tuning.follows()]
        for part in following:
            part.begin(Scene(net=net, trainable=frozenset(names), task=None, objective=None), steps, steps)
        for step in range(1, steps + 1):
            F.cross_entropy(net(*rows), torch.tensor([0, 1, 2, 1])).backward()
            for part in following:
                part.pull(1.0)
            optimizer.step()
            for part in following:
                part.updated(step)
            optimizer.zero_grad()
    net.eval()


def check(name, base, folder):
    """Fit, keep, open, merge and unfreeze one tuning on one base."""
    rows = given(base)
    cls = TUNINGS.get(name)
    if not cls.needs <= headed(base).backbone.provides:
        with pytest.raises(OptionsError, match="choose another tuning"):
            tuned(base, name)
        return
    net = tuned(base, name, filled=False)
    tuning = cls(build(cls.Options, {}))
    names, before = tuning.trainable(net), {key: value.clone() for key, value in net.state_dict().items()}
    rest = before.keys() - names
    was = digest(net, rest)
    fitted(net, tuning, rows)
    assert digest(net, rest) == was, "what is not named has the same bits"
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert moved <= names
    assert len(moved) >= 0.8 * len(names), "all that is named has moved but biases of keys, whose gradient is zero"
    save_net(net, folder)
    again = Headed(Backbone.load(folder / BACKBONE_FOLDER, net.backbone.spec()), copy.deepcopy(net.head))
    transform.install(again, json.loads(json.dumps([applied.to_json() for applied in net.transforms])))
    load_outside(again, folder / WEIGHTS_FILE)
    transform.load(again, folder)
    assert weights_digest(again) == weights_digest(net)
    assert torch.equal(outputs(again, rows), outputs(net, rows))
    if not all(TRANSFORMS.get(applied.name).foldable for applied in net.transforms):
        with pytest.raises(UsageError, match="cannot be merged"):
            transform.folded(net)
        return
    merged = transform.folded(net)
    assert not merged.transforms
    torch.testing.assert_close(outputs(merged, rows), outputs(net, rows), rtol=0, atol=1e-6)
    whole = TUNINGS.get("full")(build(TUNINGS.get("full").Options, {}))
    start = weights_digest(merged)
    fitted(merged, whole, rows, steps=1)
    assert weights_digest(merged) != start
    assert all(torch.isfinite(value).all() for value in merged.state_dict().values())


@pytest.mark.parametrize("base", NAMES)
@pytest.mark.parametrize("name", tunings_here())
def test_on_text_pictures_and_sound(name, base, tmp_path):
    check(name, base, tmp_path)


@pytest.mark.slow
@pytest.mark.base
@pytest.mark.parametrize("name", tunings_here())
def test_on_minilm(name, minilm, tmp_path, monkeypatch):
    def opened(_):
        head = LinearHead(384, 3, 0.0, torch.Generator().manual_seed(0))
        return Headed(Backbone(open_body(minilm.folder()), PoolingChoice("mean", "")), head).eval()

    monkeypatch.setattr(adapted_nets, "headed", opened)
    check(name, "bert", tmp_path)


def test_the_networks_here_are_of_text_pictures_and_sound():
    assert [headed(name).backbone.architecture.reads for name in NAMES] == ["text", "image", "audio"]

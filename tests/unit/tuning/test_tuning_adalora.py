"""AdaLoRA against PEFT's own over whole trainings: losses, weights, and which directions are left; and its refusals."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adapted_nets import batch_of, given, headed, outputs, tuned
from torch import nn
from torch.nn import functional as F

from regraft.errors import OptionsError
from regraft.models.adalora import decomposed
from regraft.objectives.objective import Objective
from regraft.objectives.supervised import SupervisedOptions
from regraft.options import build
from regraft.regularizers.regularized import regularized
from regraft.regularizers.regularizer import Scene
from regraft.tasks.task import Loss
from regraft.training.events import StepEvent
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning import TUNINGS
from regraft.tuning.adalora import AdaLora, AdaLoraOptions, Ranks, _gradient

STEPS, RATE, EPSILON, CLIP = 20, 0.05, 0.01, 0.5
TARGETS = np.array([0, 1, 2, 1])
OPTIONS = {"rank": 4, "target_rank": 2, "alpha": 6.0, "warmup": 0.2, "settling": 0.25}


class Given(Objective):
    """Other rows at each update, in two micro-batches."""

    Options = SupervisedOptions

    def __init__(self, name):
        super().__init__(SupervisedOptions())
        self.rows = [given(name, seed) for seed in range(STEPS)]

    def attach(self, rows, targets, task):
        return self

    def batches(self, epoch, batch_size, micro_batch_size, rng, first=0):
        for inputs, mask in self.rows[first:]:
            whole = batch_of(inputs, mask)
            yield [
                SimpleNamespace(
                    inputs={key: values[at] for key, values in whole.inputs.items()},
                    mask_BT=whole.mask_BT[at],
                    targets=TARGETS[at],
                    size=2,
                )
                for at in (slice(0, 2), slice(2, 4))
            ]

    def rows_per_epoch(self):
        return 4 * STEPS

    def steps_per_epoch(self, batch_size):
        return STEPS

    def loss(self, net, batch):
        total = F.cross_entropy(net(*net.tensors(batch)), torch.from_numpy(batch.targets), reduction="sum")
        return Loss(total, torch.tensor(float(batch.size))), {}


class Whole(nn.Module):
    """A network that says its loss, as PEFT wants to have it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, rows):
        loss = F.cross_entropy(self.net(*rows), torch.from_numpy(TARGETS))
        self.plain = float(loss.detach())
        return SimpleNamespace(loss=loss + 0.0)


def theirs(name, net, every, orthogonality):
    """Return PEFT's own training of the same network: losses, learnt weights, what was left after each update."""
    peft = pytest.importorskip("peft")
    bare = headed(name)
    bare.head.load_state_dict(net.head.state_dict())
    bare.backbone.shapes = net.backbone.shapes
    config = peft.AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=6.0,
        tinit=4,
        tfinal=5,
        deltaT=every,
        total_step=STEPS,
        orth_reg_weight=orthogonality,
        target_modules=[f"net.backbone.body.{path}" for path in net.transforms[0].plan["layers"]],
        fan_in_fan_out=name == "gpt2",
    )
    model = peft.AdaLoraModel(Whole(bare), config, "default")
    kinds = ("lora_A", "lora_B", "lora_E")
    ours = dict(net.named_parameters())
    learning = {}
    for key, value in model.model.net.named_parameters():
        if key.startswith("head.") or any(f".{kind}." in key for kind in kinds):
            learning[key.removesuffix(".default")] = value
            value.data.copy_(ours[key.removesuffix(".default")])
        value.requires_grad_(key.removesuffix(".default") in learning)
    optimizer = torch.optim.AdamW(learning.values(), lr=RATE, eps=EPSILON, weight_decay=0.0)
    losses, left = [], []
    model.eval()
    for step, rows in enumerate(Given(name).rows, start=1):
        optimizer.zero_grad()
        model(rows).loss.backward()
        losses.append(model.model.plain)
        nn.utils.clip_grad_norm_(learning.values(), CLIP)
        optimizer.step()
        model.update_and_allocate(step)
        left.append({key: value.ne(0).flatten().tolist() for key, value in learning.items() if key.endswith("lora_E")})
    return losses, {key: value.detach() for key, value in learning.items()}, left


def calm(net):
    """Take every dropout out: each of the two would draw its own."""
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return net


def left_of(net):
    return {f"{path}.lora_E": layer.lora_E.ne(0).flatten().tolist() for path, layer in decomposed(net).items()}


@pytest.mark.parametrize(
    ("name", "every", "orthogonality"),
    [("bert", 1, 0.5), ("bert", 4, 0.0), ("gpt2", 3, 0.5), ("vit", 1, 0.1), ("wav2vec2", 2, 0.5)],
)
def test_a_training_is_pefts(name, every, orthogonality):
    options = {**OPTIONS, "every": every, "orthogonality": orthogonality}
    tuning = AdaLora(build(AdaLoraOptions, options))
    net = calm(tuned(name, "adalora", filled=False, **options))
    expected, weights, kept = theirs(name, net, every, orthogonality)
    plain = {key: value.clone() for key, value in net.state_dict().items()}
    objective = regularized(Given(name), (), tuning.follows()).attach(None, None, None)
    values = {"epochs": 1, "batch_size": 4, "clip_norm": CLIP, "learning_rate": RATE, "head_learning_rate": RATE}
    values |= {"weight_decay": 0.0, "schedule": "constant", "warmup_share": 0.0}
    options = build(TrainOptions, {**values, "optimizer": {"name": "adamw", "epsilon": EPSILON}})
    losses, left = [], []
    for event in train(net, objective, tuning, options):
        if isinstance(event, StepEvent):
            losses.append(event.loss)
            left.append(left_of(net))
    assert losses == pytest.approx(expected, abs=1e-5)
    assert abs(losses[0] - losses[-1]) > 0.01, "something is learnt"
    assert left == kept
    count = [sum(map(sum, one.values())) for one in left]
    layers = len(net.transforms[0].plan["layers"])
    assert (count[0], count[-1]) == (4 * layers, 2 * layers)
    assert len({sum(one) for one in left[-1].values()}) > 1, "layers have ranks of their own"
    learnt = dict(net.named_parameters())
    for key, value in weights.items():
        torch.testing.assert_close(learnt[key], value, rtol=1e-4, atol=1e-5)
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, plain[key])}
    assert moved <= weights.keys()
    assert {key for key in weights.keys() - moved if not key.endswith("lora_E")} == set(), "all of A, B and the head has moved"
    assert f"adalora: {2 * layers} of {4 * layers} directions are left" in objective.notes[0]


def test_the_pull_is_the_gradient_of_the_penalty():
    generator = torch.Generator().manual_seed(0)
    for rows in (torch.randn(3, 7, generator=generator), 0.02 * torch.randn(7, 3, generator=generator)):
        p = rows.clone().requires_grad_()
        torch.linalg.matrix_norm(p @ p.t() - torch.eye(len(p))).backward()
        torch.testing.assert_close(_gradient(rows), p.grad, rtol=1e-5, atol=1e-6)
    assert not _gradient(torch.eye(3, 7)).any(), "at the minimum there is no way down"


def scene_of(net):
    return Scene(net=net, trainable=frozenset(), task=None, objective=None)


def test_weights_may_be_kept_once_the_budget_has_come_down():
    net = tuned("bert", "adalora", **OPTIONS)
    for settling, first in ((0.25, 15), (0.0, 20)):
        part = Ranks(AdaLoraOptions(**{**OPTIONS, "settling": settling}))
        part.begin(scene_of(net), 20, 20)
        ripe = []
        for step in range(1, 21):
            for value in net.parameters():
                value.grad = torch.full_like(value, 0.1 * step)
            part.updated(step)
            ripe.append(part.may_be_kept)
        assert ripe.index(True) + 1 == first
        assert all(ripe[first - 1 :])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_however_short_a_training_is_it_ends_with_the_budget(steps):
    net = tuned("bert", "adalora", **OPTIONS)
    part = Ranks(AdaLoraOptions(**{**OPTIONS, "warmup": 0.0, "settling": 0.9}))
    part.begin(scene_of(net), steps, steps)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        for value in net.parameters():
            value.grad = torch.randn(value.shape, generator=generator)
        part.updated(step)
    assert sum(map(sum, left_of(net).values())) == 2 * len(decomposed(net))


def test_a_step_that_leaves_a_layer_out_counts_for_the_others():
    net = tuned("bert", "adalora", **OPTIONS)
    part = Ranks(AdaLoraOptions(**OPTIONS))
    part.begin(scene_of(net), 20, 20)
    layers = list(decomposed(net).values())
    for value in net.parameters():
        value.grad = torch.ones_like(value)
    for value in (layers[0].lora_A, layers[0].lora_B, layers[0].lora_E):
        value.grad = None
    part.updated(1)
    seen = part.tensors()
    assert [bool(value.any()) for name, value in seen.items() if "sensitivity" in name] == [False] * 3 + [True] * 3 * (
        len(layers) - 1
    )
    part.pull(1.0)
    assert layers[0].lora_A.grad is not None, "the penalty is of all weights"


def test_what_cannot_be_is_said_at_once():
    cls = TUNINGS.get("adalora")
    with pytest.raises(OptionsError) as caught:
        cls(cls.Options(rank=8, target_rank=8, warmup=0.5, settling=0.5))
    said = str(caught.value)
    assert len(caught.value.problems) == 2
    for text in (
        "adapters would have no direction to give up",
        "less than tuning.rank, 8",
        "choose the tuning lora",
        "no updates are left in which directions could be given up",
        "0.5 and 0.5",
        "together less than 1",
    ):
        assert text in said


def test_two_thirds_are_left_if_nothing_is_said():
    cls = TUNINGS.get("adalora")
    assert [cls(cls.Options(rank=rank)).asked().target_rank for rank in (2, 3, 4, 8, 12)] == [1, 2, 3, 5, 8]
    ((name, part),) = cls(cls.Options(rank=12)).follows()
    assert (name, part.options.target_rank) == ("adalora", 8)
    assert tuned("bert", "adalora", rank=6).transforms[0].plan["target"] == 4


def test_a_direction_that_was_given_up_adds_nothing():
    net, rows = tuned("bert", "adalora", **OPTIONS), given("bert")
    layer = next(iter(decomposed(net).values()))
    with torch.no_grad():
        layer.lora_E[1] = 0.0
        before = outputs(net, rows)
        layer.lora_A[1], layer.lora_B[:, 1] = 3.0, -2.0
    assert torch.equal(outputs(net, rows), before)

"""Number formats: what is rounded, what stays float32, and how auto decides without a wall clock."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tiny_net import tiny_net, tiny_objective
from torch import nn

from regraft.errors import OptionsError
from regraft.models.view import view
from regraft.options import build
from regraft.training import precision as room
from regraft.training.freeze import learning
from regraft.training.loop import train
from regraft.training.machine import Profile
from regraft.training.options import ComputeOptions, TrainOptions
from regraft.training.precision import Precision, Workload, check_precision, choose
from regraft.tuning.full import Full, FullOptions

CPU = torch.device("cpu")
BF16 = Precision("bf16")


def a_batch(objective):
    (batch,) = next(objective.batches(0, 8, 8, np.random.default_rng(0)))
    return batch


def spied(net):
    """Record the type of every product's result."""
    seen = []
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, given, out: seen.append((given[0].dtype, out.dtype)))
    return seen


def test_products_are_in_bf16_and_answers_losses_and_gradients_in_float32():
    net, objective = tiny_net(), tiny_objective()
    batch = a_batch(objective)
    full, seen = net(*net.tensors(batch)), spied(net)
    mixed = BF16.network(net)
    answer = mixed(*mixed.tensors(batch))
    assert [out for _, out in seen] == [torch.bfloat16] * 2
    assert answer.dtype == torch.float32
    assert 0.0 < float((answer - full).detach().abs().max()) < 0.05
    features = mixed.features(*mixed.tensors(batch))
    assert features.sequence_BTD.dtype == features.pooled_BD.dtype == torch.float32
    loss, _ = objective.loss(mixed, batch)
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    assert {parameter.grad.dtype for parameter in net.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_rounding_is_what_rounding_the_factors_by_hand_gives():
    linear = nn.Linear(64, 64, bias=False)
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    with BF16.autocast():
        found = linear(x)
    by_hand = (x.bfloat16().double() @ linear.weight.bfloat16().double().T).bfloat16()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, by_hand, rtol=2**-7, atol=1e-3)
    with Precision().autocast():
        assert linear(x).dtype == torch.float32


def test_float32_is_the_network_itself():
    net = tiny_net()
    assert Precision().network(net) is net


def test_a_mixed_network_shares_weights_and_can_be_viewed_again():
    net, objective = tiny_net(), tiny_objective()
    mixed = BF16.network(net)
    assert type(net).__name__ == "Headed"
    assert [(n, p.data_ptr()) for n, p in mixed.named_parameters()] == [(n, p.data_ptr()) for n, p in net.named_parameters()]
    assert isinstance(mixed, type(net))
    head = copy.deepcopy(net.head)
    nn.init.zeros_(head.linear.weight)
    nn.init.ones_(head.linear.bias)
    again = view(mixed, {"head": head})
    batch = a_batch(objective)
    assert torch.equal(again(*again.tensors(batch)), torch.ones(8, 2))
    assert not torch.equal(net(*net.tensors(batch)), torch.ones(8, 2))


def test_a_network_of_another_class_keeps_its_own_answers():
    class Doubled(type(tiny_net())):
        def forward(self, inputs, mask_BT):
            return 2.0 * super().forward(inputs, mask_BT)

    net, objective = tiny_net(), tiny_objective()
    batch = a_batch(objective)
    doubled = Doubled(net.backbone, net.head)
    mixed = BF16.network(doubled)
    assert isinstance(mixed, Doubled)
    assert torch.equal(mixed(*mixed.tensors(batch)), 2.0 * BF16.network(net)(*net.tensors(batch)))


def test_training_in_bf16_learns_what_float32_learns():
    chosen = build(TrainOptions, {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2})
    ends = []
    for precision in (Precision(), BF16):
        net, objective = tiny_net(dropout=0.1), tiny_objective(60)
        events = list(train(precision.network(net), objective, Full(FullOptions()), chosen, seed=1))
        ends.append((events[1].loss, events[-2].loss, net))
    (before, full, net), (_, mixed, other) = ends
    assert full < 0.8 * before
    assert mixed == pytest.approx(full, abs=0.05)
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    assert not any(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


class Toy:
    """A machine on which a pass takes as long as it is told."""

    def __init__(self, full_s=1.0, bf16_s=0.5, passes=1000, positions=100, threads=1):
        self.net, self.objective, self.now, self.asked = tiny_net(dropout=0.3), tiny_objective(), 0.0, []
        self.net.register_buffer("seen", torch.zeros(1))
        self.full_s, self.bf16_s = full_s, bf16_s
        self.workload = Workload(
            loss=self.loss,
            trainable={name for name, _ in self.net.named_parameters()},
            passes=passes,
            positions=positions,
            threads=threads,
        )

    def loss(self, network):
        loss, _ = self.objective.loss(network, a_batch(self.objective))
        mixed = isinstance(network, room._Mixed)
        self.asked.append("bf16" if mixed else "fp32")
        self.net.seen.add_(1.0)
        seconds = self.bf16_s if mixed else self.full_s
        self.now += seconds[len(self.asked) % len(seconds)] if isinstance(seconds, list) else seconds
        return loss.total

    def choose(self, folder, wanted="auto"):
        self.notes, self.asked = [], []
        kept = Profile(folder / "profile.json", {})
        return choose(self.net, wanted, self.workload, kept, self.notes.append, lambda: self.now)


@pytest.fixture
def has_bf16(monkeypatch):
    monkeypatch.setattr(room, "bf16_in_hardware", lambda device: True)


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize(("bf16_s", "name"), [(0.5, "bf16"), (0.86, "bf16"), (0.88, "fp32"), (1.0, "fp32"), (3.0, "fp32")])
def test_bf16_is_taken_where_it_gains_fifteen_percent(tmp_path, bf16_s, name):
    toy = Toy(1.0, bf16_s)
    chosen = toy.choose(tmp_path)
    assert (chosen.name, chosen.scale) == (name, 1.0)
    assert toy.notes == [
        f"training in {name}: bf16 is {1 / bf16_s:.2f} times as fast here ({1000 * bf16_s:.3g} ms a pass against 1e+03 ms in "
        "fp32); it is taken from 1.15 on"
    ]
    # Two looks and a warm-up of each, then one round where all is clear, more where it is not.
    assert toy.asked[2:] == ["fp32", "bf16"] * (2 if bf16_s in (0.5, 1.0, 3.0) else 8)


@pytest.mark.usefixtures("has_bf16")
def test_a_busy_moment_does_not_decide():
    for disturbed in range(4):  # one of the passes that would decide at once
        times = [1.0] * 4
        times[disturbed] = 50.0
        toy = Toy()
        toy.full_s = toy.bf16_s = [*times[-1:], *times[:-1], *[1.0] * 96]  # a pass is taken by how many were asked for
        found = room._Trial(toy.net, toy.workload, lambda: toy.now).interleaved(1e9)  # noqa: B023 - called at once
        assert found == {"fp32_s": 1.0, "bf16_s": 1.0}


@pytest.mark.usefixtures("has_bf16")
def test_a_measurement_is_kept_and_decides_later_runs(tmp_path):
    assert Toy(1.0, 0.5).choose(tmp_path).name == "bf16"
    later = Toy(1.0, 2.0)
    assert later.choose(tmp_path).name == "bf16"
    assert later.asked == []
    assert "2.00 times as fast here (500 ms a pass against 1e+03 ms in fp32, as measured earlier)" in later.notes[0]
    for other in (Toy(1.0, 2.0, threads=2), Toy(1.0, 2.0, positions=1000)):
        assert other.choose(tmp_path).name == "fp32"
        assert other.asked
    assert Toy(1.0, 2.0, positions=120).choose(tmp_path).name == "bf16"  # about as large a batch
    frozen = Toy(1.0, 2.0)
    frozen.workload = Workload(loss=frozen.loss, trainable={"head.linear.weight"}, passes=1000, positions=100, threads=1)
    assert frozen.choose(tmp_path).name == "fp32"


@pytest.mark.usefixtures("has_bf16")
def test_short_training_is_not_worth_a_measurement(tmp_path):
    toy = Toy(0.05, 0.01, passes=50)
    assert toy.choose(tmp_path).name == "fp32"
    assert toy.asked == ["fp32"]
    assert toy.notes == ["training in fp32: training takes about 2 s, too little to find out whether bf16 gains"]
    again = Toy(5.0, 0.1, passes=50)  # slower now, decided as before
    assert (again.choose(tmp_path).name, again.asked) == ("fp32", [])


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize(
    ("full_s", "passes", "name"), [(0.9, 8, "bf16"), (1.1, 8, "fp32"), (1.1, 79, "fp32"), (1.1, 81, "bf16")]
)
def test_a_measurement_takes_four_seconds_or_a_twentieth_of_the_training(tmp_path, full_s, passes, name):
    toy = Toy(full_s, 0.1, passes=passes)
    assert toy.choose(tmp_path).name == name
    assert len(toy.asked) == (6 if name == "bf16" else 1)


@pytest.mark.usefixtures("has_bf16")
def test_a_repeated_command_decides_alike_whatever_was_measured_between(tmp_path):
    short, long = 5, 500
    names = [Toy(0.5, 0.1, passes=passes).choose(tmp_path).name for passes in (short, long, short, long)]
    assert names == ["fp32", "bf16", "fp32", "bf16"]
    slow_start = Toy([0.1, 0.2, 0.2] + [0.1] * 40, 0.05, passes=40, threads=2)
    assert slow_start.choose(tmp_path).name == "bf16"  # it looked like 8 s
    assert Toy(0.1, 0.05, passes=40, threads=2).choose(tmp_path).name == "bf16"


def test_nothing_is_measured_where_the_processor_has_no_bf16(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "bf16_in_hardware", lambda device: False)
    toy = Toy(1.0, 0.1)
    assert toy.choose(tmp_path).name == "fp32"
    assert toy.asked == []
    assert toy.notes == ["training in fp32: this processor has no bf16 arithmetic"]
    assert toy.choose(tmp_path, "bf16").name == "bf16"
    assert "as asked for; this processor has no bf16 arithmetic, so it will be many times slower" in toy.notes[0]


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize("kept", [3, {"look_s": "slow"}, {"look_s": -1.0}, {"look_s": 1.0, "extra": 2.0}, {"fp32_s": 1.0}])
def test_a_kept_measurement_that_is_none_is_taken_again(tmp_path, kept):
    toy = Toy(1.0, 0.5)
    toy.choose(tmp_path)
    path = tmp_path / "profile.json"
    (kind,) = (profile := Profile(path, {}))._entries
    (key,) = profile._entries[kind]
    profile.remember(kind, key, kept)
    again = Toy(1.0, 2.0)
    assert again.choose(tmp_path).name == "fp32"
    assert again.asked


@pytest.mark.usefixtures("has_bf16")
def test_trying_leaves_no_trace(tmp_path):
    toy = Toy(1.0, 0.5)
    for parameter in toy.net.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    toy.net.head.linear.weight.requires_grad_(False)
    toy.net.eval()
    weights = {name: tensor.clone() for name, tensor in toy.net.state_dict().items()}
    state = torch.get_rng_state()
    toy.choose(tmp_path)
    assert len(toy.asked) > 4
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in toy.net.state_dict().items())
    assert all(bool((parameter.grad == 7.0).all()) for parameter in toy.net.parameters())
    assert not toy.net.head.linear.weight.requires_grad
    assert not any(module.training for module in toy.net.modules())


def test_what_is_asked_for_is_taken(tmp_path):
    toy = Toy()
    assert toy.choose(tmp_path, "fp32").name == "fp32"
    assert toy.notes == ["training in fp32: as asked for"]
    assert not (tmp_path / "profile.json").exists()


def test_fp16_is_refused_without_a_gpu(tmp_path):
    with pytest.raises(OptionsError) as caught:
        Toy().choose(tmp_path, "fp16")
    for part in (
        "fp16 cannot be trained without a GPU",
        "where: precision",
        "'fp16' on 'cpu', where it is about 100 times slower than fp32",
        "expected: 'auto', 'fp32' or 'bf16'",
        "leave 'precision' out",
    ):
        assert part in str(caught.value)
    check_precision("fp16", torch.device("cuda"))
    with pytest.raises(OptionsError, match="precision"):
        build(ComputeOptions, {"precision": "fp8"})


def weights_with(gradient):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, gradient])
    return [weight, nn.Parameter(torch.zeros(1))]


def test_the_scale_of_fp16_halves_on_overflow_and_grows_after_2000_good_steps():
    precision = Precision("fp16")
    assert precision.scale == 65536.0
    assert not precision.settled(weights_with(math.inf))
    assert not precision.settled(weights_with(math.nan))
    assert precision.scale == 16384.0
    assert all(precision.settled(weights_with(1.0)) for _ in range(1999))
    assert precision.scale == 16384.0
    assert precision.settled(weights_with(1.0))
    assert precision.scale == 32768.0
    precision.scale = 1.0
    assert precision.settled(weights_with(math.nan))  # not the format's fault: the loop's own check is to find it
    assert precision.scale == 1.0


def test_other_formats_are_always_settled():
    for name in ("fp32", "bf16"):
        assert Precision(name).settled(weights_with(math.inf))
        assert Precision(name).scale == 1.0


def test_scaled_gradients_in_real_fp16_do_not_vanish():
    """What the scale is for: a gradient of 1e-6 is below the smallest fp16 step of about 6e-8 times its partners."""
    x = torch.full((4, 8), 2e-5)
    grads = {}
    for scale in (1.0, Precision("fp16").scale):
        linear = nn.Linear(8, 4, bias=False)
        with torch.autocast("cpu", dtype=torch.float16):
            out = linear(x)
        (out.float().sum() * 1e-4 * scale).backward()
        grads[scale] = linear.weight.grad / scale
    true = 4 * 2e-5 * 1e-4
    assert float(grads[65536.0].mean()) == pytest.approx(true, rel=0.01)
    assert abs(float(grads[1.0].mean()) - true) > 0.5 * true


def test_learning_works_through_a_mixed_network():
    net = tiny_net()
    mixed = BF16.network(net)
    with learning(mixed, {"head.linear.weight"}):
        assert [name for name, p in net.named_parameters() if p.requires_grad] == ["head.linear.weight"]
        assert not net.backbone.mix.training
        assert net.head.training
    assert all(p.requires_grad for p in net.parameters())

"""GradNorm against numpy: gradient norms in closed form, the weights of every update, what is scaled no longer swamps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from regraft.errors import OptionsError
from regraft.models.blocks import Blocks
from regraft.models.heads import HeadsOfTargets, LinearHead
from regraft.models.net import Headed
from regraft.objectives.gradnorm import RATE, GradNorm, last_shared
from regraft.objectives.supervised import Supervised, SupervisedOptions
from regraft.options import build
from regraft.tasks.multi_target import MultiTarget, MultiTargetOptions
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning.parts import Decided
from regraft.types import Batch, Features, Ledger

WIDE, SHARED = 4, 3
RNG = np.random.default_rng(0)


class Shared(nn.Module):
    """Two linear layers and a scale that learns, which is what the heads share."""

    provides, convex = frozenset({"pooled"}), False
    blocks = Blocks(embeddings=("first",), layers=("layers.0",), final=("scale",))

    def __init__(self, dtype, width):
        super().__init__()
        self.width = width
        torch.manual_seed(0)
        self.pooling = nn.Identity()
        self.pooling.head_bias = True
        self.first = nn.Linear(WIDE, WIDE, dtype=dtype)
        self.layers = nn.ModuleList([nn.Linear(WIDE, width, bias=False, dtype=dtype)])
        self.scale = nn.ParameterList([nn.Parameter(torch.ones(width, dtype=dtype))])

    def forward(self, inputs, mask_BT):
        pooled_BD = self.layers[0](self.first(inputs["x"])) * self.scale[0]
        return Features(sequence_BTD=pooled_BD[:, None], mask_BT=mask_BT, pooled_BD=pooled_BD)


def net_for(task, dtype=torch.float32, width=SHARED):
    return Headed(Shared(dtype, width), task.head(width, 0.0, 1).to(dtype))


class Rows:
    """Numbers as rows, with a tensor of them."""

    def __init__(self, x, dtype=np.float32):
        self.x, self.lengths = np.asarray(x, dtype=dtype), np.ones(len(x), dtype=np.int64)

    def __len__(self):
        return len(self.x)

    def batch(self, rows, targets=None):
        mask = np.ones((len(rows), 1), dtype=bool)
        return Batch(inputs={"x": self.x[rows]}, mask_BT=mask, targets=targets[rows], rows_B=rows)

    def drawn(self, rng):
        return self


def problem(n=48, lacking=False, **options):
    x = RNG.normal(size=(n, WIDE))
    values = [{"wide": float(3 * a + b), "tall": float(a - 2 * b)} for a, b, *_ in x]
    if lacking:
        values = [{**value, "tall": None if row % 3 else value["tall"]} for row, value in enumerate(values)]
    tasks = {"wide": "regression", "tall": "regression"}
    task = MultiTarget(build(MultiTargetOptions, {"targets": tasks, "weighting": "gradnorm", **options}))
    task.learn(values, Ledger())
    return task, x, task.targets(values)


def by_hand(weights, first, losses, norms, alpha):
    """Return what the weights are asked for: the gradient of sum |G - mean(G) r^alpha| by log w, targets held fast."""
    lengths, rates = weights * norms, losses / first
    wanted = lengths.mean() * (rates / rates.mean()) ** alpha
    return np.sign(lengths - wanted) * lengths


@pytest.mark.parametrize("micro", [48, 7])
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_norms_and_weights_are_those_of_the_closed_form(alpha, lacking, micro):
    """For y = a . (scale * W h), squared errors: dL / dW = mean over rows of 2 (y - t) (a * scale) h^T."""
    task, x, targets = problem(lacking=lacking, alpha=alpha)
    net, objective = net_for(task, torch.float64), Supervised(SupervisedOptions()).attach(Rows(x, float), targets, task)
    weigher, moments = objective._gradnorm, torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer, expected, first = torch.optim.Adam([moments], lr=RATE), np.ones(2), None
    for epoch in range(6):
        updates = objective.batches(epoch, 48, micro, np.random.default_rng(epoch))
        update = next(updates)
        total = weight = 0.0
        for batch in update:
            loss, logs = objective.loss(net, batch)
            assert logs == pytest.approx({"weight.wide": expected[0], "weight.tall": expected[1]})
            total, weight = total + loss.total, weight + loss.weight
        rows = np.concatenate([batch.rows_B for batch in update])
        hidden = net.backbone.first(torch.from_numpy(x[rows])).detach().numpy()
        scale = net.backbone.scale[0].detach().numpy()
        pooled = hidden @ net.backbone.layers[0].weight.detach().numpy().T * scale
        losses, norms = [], []
        for place, head in enumerate(net.head.heads):
            part, own = task.parts[place], ~np.isnan(targets[rows, place])
            a, bias = head.linear.weight.detach().numpy()[0], head.linear.bias.detach().numpy()[0]
            wanted = (targets[rows, place] - part.task.mean) / part.task.scale
            errors = (pooled @ a + bias - wanted)[own]
            losses.append((errors**2).mean())
            slope = (2 * errors[:, None, None] * (a * scale)[None, :, None] * hidden[own][:, None, :]).mean(0)
            norms.append(np.linalg.norm(slope))
        losses, norms = np.array(losses), np.array(norms)
        first = losses if first is None else first
        assert float(total.detach() / weight.detach()) == pytest.approx(expected @ losses, rel=1e-6)
        moments.grad = torch.from_numpy(by_hand(expected, first, losses, norms, alpha))
        with torch.no_grad():
            moments.copy_(torch.from_numpy(np.log(expected)))
        optimizer.step()
        expected = np.exp(moments.detach().numpy())
        expected = 2 * expected / expected.sum()
        assert next(updates, None) is None  # the update ends
        np.testing.assert_allclose(weigher.weights_K, expected, rtol=1e-5)
        assert weigher.weights_K.sum() == pytest.approx(2)
        with torch.no_grad():
            for weight_ in net.parameters():
                weight_.add_(0.05 * torch.randn(weight_.shape, generator=torch.Generator().manual_seed(epoch)))


def test_the_loss_of_the_network_learns_with_weights_that_are_constants():
    task, x, targets = problem()
    net, objective = net_for(task), Supervised(SupervisedOptions()).attach(Rows(x), targets, task)
    objective._gradnorm.weights_K = np.array([0.5, 1.5])
    (batch,) = next(objective.batches(0, 48, 48, np.random.default_rng(0)))
    loss, _ = objective.loss(net, batch)
    loss.total.backward()
    found = net.backbone.first.weight.grad.clone()
    net.zero_grad()
    output, wanted = net(*net.tensors(batch)), torch.from_numpy(batch.targets)
    losses = task.losses(output, wanted, batch.scales)
    (0.5 * losses["wide"] + 1.5 * losses["tall"]).backward()
    torch.testing.assert_close(found, net.backbone.first.weight.grad)


class Loud(MultiTarget):
    """The loss of one target counts a thousand times."""

    def losses(self, output, targets, scales):
        found = super().losses(output, targets, scales)
        return {**found, "wide": 1000.0 * found["wide"]}

    def scaled_loss(self, output, targets, scales):
        found = super().scaled_loss(output, targets, scales)
        return found._replace(total=sum(self.losses(output, targets, scales).values()))


def trained_loud(weighting):
    """Return what is left of both losses, and how they were weighed, where all that is shared is one number a row."""
    quiet, x, targets = problem(weighting=weighting)
    task = Loud.restore(quiet.options, quiet.state())
    net, objective = net_for(task, width=1), Supervised(SupervisedOptions()).attach(Rows(x), targets, task)
    options = TrainOptions(epochs=500, batch_size=48, learning_rate=5e-3, head_learning_rate=5e-3, validation={"every": 100})
    names = {name for name, _ in net.named_parameters()}
    events = [event for event in train(net, objective, Decided(names), options, seed=0) if hasattr(event, "logs")]
    with torch.no_grad():
        output = net(torch_inputs(x), torch.ones(len(x), 1, dtype=torch.bool))
        losses = quiet.losses(output, torch.from_numpy(targets), None)
    return {name: float(loss) / len(x) for name, loss in losses.items()}, [event.logs for event in events], objective.notes


def torch_inputs(x):
    return {"x": torch.from_numpy(x.astype(np.float32))}


def test_a_loss_a_thousand_times_as_large_no_longer_swamps_the_other():
    """Both are standardised: 1 is what the mean leaves. The two ask for nearly orthogonal numbers of the one that is there."""
    swamped, logs, notes = trained_loud("static")
    assert swamped["wide"] < 0.01
    assert swamped["tall"] > 0.9
    assert (logs[0], logs[-1], notes) == ({}, {}, ())
    shared, logs, notes = trained_loud("gradnorm")
    assert shared["tall"] < 0.7
    assert shared["wide"] < 0.7
    assert logs[0] == {"weight.wide": 1.0, "weight.tall": 1.0}
    assert logs[-1]["weight.wide"] < 0.02
    assert sum(logs[-1].values()) == pytest.approx(2)
    assert "weights of the losses by GradNorm, at the start, after each quarter of 500 updates: wide 1, 0.00" in notes[0]


def test_gradients_are_brought_to_one_length_where_alpha_is_0():
    weigher = GradNorm(["a", "b", "c"], 0.0)
    norms = np.array([1000.0, 1.0, 0.1])
    for _ in range(600):
        weigher.move(np.ones(3), norms)
    lengths = weigher.weights_K * norms
    assert lengths.max() / lengths.min() < 1.15
    assert weigher.weights_K.sum() == pytest.approx(3)


def test_the_slow_target_is_helped_by_alpha():
    plain, helped = GradNorm(["fast", "slow"], 0.0), GradNorm(["fast", "slow"], 1.5)
    for weigher in (plain, helped):
        weigher.move(np.ones(2), np.ones(2))
        for _ in range(80):
            weigher.move(np.array([0.1, 0.9]), np.ones(2))
    assert plain.weights_K.tolist() == pytest.approx([1.0, 1.0])
    assert helped.weights_K[1] > 1.5


def test_a_target_that_no_row_of_the_update_has_keeps_its_share_against_the_others():
    weigher = GradNorm(["a", "b", "c"], 1.5)
    weigher.move(np.array([1.0, np.nan, 1.0]), np.array([5.0, np.nan, 1.0]))
    a, b, c = weigher.weights_K
    assert a < b < c
    assert a * c == pytest.approx(b * b)
    weigher.move(np.full(3, np.nan), np.full(3, np.nan))
    assert weigher.weights_K.tolist() == [a, b, c]


def test_a_micro_batch_that_is_computed_again_counts_once():
    task, x, targets = problem()
    net, objective = net_for(task), Supervised(SupervisedOptions()).attach(Rows(x), targets, task)
    found = []
    for times in (1, 3):
        (batch,) = next(objective.batches(0, 48, 48, np.random.default_rng(0)))
        for _ in range(times):
            objective.loss(net, batch)
        found.append(objective._gradnorm._losses_K.copy())
    np.testing.assert_array_equal(*found)


def test_an_update_that_begins_again_in_smaller_pieces_counts_once():
    task, x, targets = problem(lacking=True)
    net, objective = net_for(task, torch.float64), Supervised(SupervisedOptions()).attach(Rows(x, float), targets, task)
    found = []
    for again in (False, True):
        update = next(objective.batches(0, 48, 24, np.random.default_rng(0)))
        if again:
            objective.loss(net, update[0])  # then there is no more memory
            update = objective.split(update, 5)
            assert [batch.size for batch in update] == [5, 5, 5, 5, 4] * 2
        for batch in update:
            objective.loss(net, batch)
        found.append(objective._gradnorm._losses_K.copy())
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_the_last_shared_weights_are_the_matrices_of_the_last_layer_that_learns():
    task, *_ = problem()
    net = net_for(task)
    assert [id(weight) for weight in last_shared(net)] == [id(net.backbone.layers[0].weight)]
    net.backbone.layers[0].weight.requires_grad_(False)
    assert [id(weight) for weight in last_shared(net)] == [id(net.backbone.first.weight)]
    net.backbone.first.requires_grad_(False)
    assert [id(weight) for weight in last_shared(net)] == [id(net.backbone.scale[0])]
    net.backbone.requires_grad_(False)
    assert last_shared(net) == []


def test_where_nothing_shared_learns_it_is_refused_in_words():
    task, *_ = problem()
    net, objective = net_for(task), Supervised(SupervisedOptions())
    heads = {name for name, _ in net.named_parameters() if name.startswith("head.")}
    objective.check(net, {*heads, "backbone.first.weight"}, task)
    objective.check(net, heads, problem(weighting="static")[0])
    with pytest.raises(OptionsError, match="of which nothing learns here") as caught:
        objective.check(net, heads, task)
    assert "--tuning top-k, lora or full" in str(caught.value)


def test_what_gradnorm_leaves_no_room_for_is_refused():
    with pytest.raises(OptionsError, match="GradNorm finds the weights of the losses by itself") as caught:
        problem(weights={"wide": 0.5})
    assert "wide = 0.5" in str(caught.value)
    with pytest.raises(OptionsError, match="alpha is an option of GradNorm, which was not asked for"):
        problem(weighting="uncertainty", alpha=0.5)
    left_out, *_ = problem(weights={"wide": 0.0})
    assert left_out.by_gradients.names == ("tall",)
    assert not isinstance(net_for(left_out).head, LinearHead)
    assert isinstance(net_for(left_out).head, HeadsOfTargets)
    assert net_for(left_out).head.log_variances_K is None

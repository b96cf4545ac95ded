"""Regularisers against closed forms and what is computed by hand: L2-SP, R-Drop, mixtures, depth, dropout; and together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from regular import Pictures, around, first_batch, five_steps_alike, frozen_net, picture_net, scene_of, task_of, words
from test_training_adversarial import above
from test_training_checkpoint import Memory
from tiny_net import tiny_net, tiny_objective
from torch.nn import functional

from regraft.errors import OptionsError
from regraft.models.backbones import Shapes
from regraft.options import Pick, build, describe, to_json
from regraft.regularizers import REGULARIZERS
from regraft.regularizers.dropout_places import places
from regraft.regularizers.layers import with_layers
from regraft.regularizers.regularized import regularized
from regraft.training.events import StepEvent
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.training.precision import Precision
from regraft.tuning.full import Full, FullOptions

FULL = Full(FullOptions())


def fit(picks, steps=6, net=None, objective=None, keeper=None, precision="fp32", **values):
    net = net or frozen_net(dropout=0.2)
    objective = objective or words(picks)
    given = {"epochs": 9, "max_steps": steps, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values}
    options = build(TrainOptions, given)
    more = {} if keeper is None else {"keeper": keeper}
    events = list(train(Precision(precision).network(net), objective, FULL, options, seed=3, **more))
    losses = [event.loss for event in events if isinstance(event, StepEvent)]
    return {name: value.detach().clone() for name, value in net.state_dict().items()}, losses


def test_l2_sp_pulls_by_the_gradients_of_both_terms():
    """One step of plain descent, held against autograd through the whole penalty."""
    net, rate, alpha, beta = tiny_net(), 0.5, 0.3, 0.2
    start = {name: value.detach().clone() for name, value in net.named_parameters()}
    plain = tiny_objective()
    made = regularized(plain, [Pick("l2-sp", {"alpha": alpha, "beta": beta})])
    made.attach(plain._rows, plain._targets, plain._task)
    sgd = {"optimizer": {"name": "sgd", "momentum": 0.0}, "learning_rate": rate, "head_learning_rate": rate}
    values = {"weight_decay": 0.0, "clip_norm": None, "schedule": "constant", "warmup_share": 0.0, "epochs": 9, **sgd}
    expected = tiny_net()
    for micro in (8, 3):
        net = tiny_net()
        list(
            train(
                net,
                made,
                FULL,
                build(TrainOptions, {**values, "batch_size": 8, "micro_batch_size": micro, "max_steps": 5}),
                seed=3,
            )
        )
        if micro == 8:
            from regraft.training.seed import row_generator

            batches = [update[0] for epoch in range(2) for update in plain.batches(epoch, 8, 8, row_generator(3, epoch))]
            for batch in batches[:5]:
                loss, _ = plain.loss(expected, batch)
                weights = dict(expected.named_parameters())
                penalty = sum(
                    beta / 2 * value.square().sum()
                    if name.startswith("head.")
                    else alpha / 2 * (value - start[name]).square().sum()
                    for name, value in weights.items()
                )
                grads = torch.autograd.grad(loss.total / loss.weight + penalty, list(weights.values()))
                with torch.no_grad():
                    for value, grad in zip(weights.values(), grads, strict=True):
                        value -= rate * grad
        for (name, found), wanted in zip(net.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6, msg=f"{name} {micro}")


def test_l2_sp_also_pulls_at_weights_that_no_row_touched():
    net = tiny_net()
    plain = tiny_objective()
    made = regularized(plain, ["l2-sp"] and [Pick("l2-sp", {"alpha": 2.0})])
    made.attach(plain._rows, plain._targets, plain._task)
    made.begin(net, {name for name, _ in net.named_parameters()}, 1, 1)
    with torch.no_grad():
        net.backbone.words.weight.add_(1.0)
    made.pull(4.0)
    torch.testing.assert_close(net.backbone.words.weight.grad, torch.full_like(net.backbone.words.weight, 8.0))


def test_r_drop_is_the_mean_loss_of_two_passes_and_what_is_between_them():
    net = frozen_net(dropout=0.4).train()
    objective = words([Pick("r-drop", {"alpha": 0.7})], class_weights={"a": 2.0})
    batch = first_batch(objective)
    torch.manual_seed(5)
    found, logs = objective.loss(net, batch)
    torch.manual_seed(5)
    p, q = (net(*net.tensors(batch)) for _ in range(2))
    wanted, weights = torch.from_numpy(batch.targets), torch.tensor([2.0, 1.0])
    losses = [functional.cross_entropy(output, wanted, weight=weights, reduction="sum") for output in (p, q)]
    p, q = p.softmax(-1), q.softmax(-1)
    between = 0.5 * ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1))
    expected = 0.5 * sum(losses) + 0.7 * (weights[wanted] * between).sum()
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found.weight.item() == pytest.approx(weights[wanted].sum().item())
    assert logs["divergence"] == pytest.approx(between.mean().item(), abs=1e-6)


def test_five_steps_of_r_drop():
    weights = torch.tensor([2.0, 1.0], dtype=torch.float64)

    def by_hand(net, batch):
        wanted = torch.from_numpy(batch.targets)
        p, q = (net(*net.tensors(batch)) for _ in range(2))
        losses = [functional.cross_entropy(output, wanted, weight=weights, reduction="sum") for output in (p, q)]
        p, q = p.softmax(-1), q.softmax(-1)
        between = 0.5 * ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1))
        return 0.5 * sum(losses) + 0.7 * (weights[wanted] * between).sum()

    objective = words([Pick("r-drop", {"alpha": 0.7})], class_weights={"a": 2.0})
    five_steps_alike(frozen_net(dropout=0.4).train(), objective, first_batch(objective), by_hand)


def drawn(alpha, rows):
    return float(torch.distributions.Beta(alpha, alpha).sample()), torch.randperm(rows)


def cross_entropy(output, batch):
    return functional.cross_entropy(output, torch.from_numpy(batch.targets), reduction="sum")


def test_mixup_is_the_mixed_loss_of_the_mixed_input():
    net, pictures = picture_net(), Pictures()
    objective = around([Pick("mixup", {"alpha": 0.6})], pictures, pictures.targets)
    batch = first_batch(objective)
    torch.manual_seed(3)
    found, _ = objective.loss(net, batch)
    torch.manual_seed(3)
    share, order = drawn(0.6, batch.size)
    pixels = torch.from_numpy(batch.inputs["pixel_values"])
    output = net({"pixel_values": share * pixels + (1 - share) * pixels[order]}, torch.from_numpy(batch.mask_BT))
    other = replace(batch, targets=batch.targets[order.numpy()])
    expected = share * cross_entropy(output, batch) + (1 - share) * cross_entropy(output, other)
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-5)
    # The same as one cross-entropy against mixed targets, as the paper has it.
    hot = functional.one_hot(torch.from_numpy(batch.targets), 2).float()
    soft = functional.cross_entropy(output, share * hot + (1 - share) * hot[order], reduction="sum")
    assert found.total.item() == pytest.approx(soft.item(), abs=1e-5)

    def by_hand(net, batch):
        share, order = drawn(0.6, batch.size)
        pixels = torch.from_numpy(batch.inputs["pixel_values"])
        output = net({"pixel_values": share * pixels + (1 - share) * pixels[order]}, torch.from_numpy(batch.mask_BT))
        hot = functional.one_hot(torch.from_numpy(batch.targets), 2).double()
        return functional.cross_entropy(output, share * hot + (1 - share) * hot[order], reduction="sum")

    five_steps_alike(net, objective, batch, by_hand)


def test_cutmix_puts_a_rectangle_in_and_counts_its_area():
    net, pictures = picture_net("resnet"), Pictures()
    objective = around(["cutmix"], pictures, pictures.targets)
    batch = first_batch(objective)
    seen = []
    inner = objective._inner.output
    objective._inner.output = lambda net, mixed: seen.append(mixed) or inner(net, mixed)
    shares = []
    for seed in range(12):
        torch.manual_seed(seed)
        found, _ = objective.loss(net, batch)
        torch.manual_seed(seed)
        _, order = drawn(1.0, batch.size)
        own, mixed = batch.inputs["pixel_values"], seen[-1].inputs["pixel_values"]
        changed = (mixed != own).any(axis=(0, 1))
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert changed.sum() == len(rows) * len(columns), "what was put in is no rectangle"
        assert (mixed[..., changed] == own[order.numpy()][..., changed]).all()
        share = 1 - changed.mean()
        output = net({"pixel_values": torch.from_numpy(mixed)}, torch.from_numpy(batch.mask_BT))
        other = replace(batch, targets=batch.targets[order.numpy()])
        expected = share * cross_entropy(output, batch) + (1 - share) * cross_entropy(output, other)
        assert found.total.item() == pytest.approx(expected.item(), abs=1e-4)
        shares.append(share)
    assert min(shares) < 0.7 < max(shares)
    assert len(set(shares)) > 6

    def by_hand(net, batch):
        share, order = drawn(1.0, batch.size)
        own = torch.from_numpy(batch.inputs["pixel_values"])
        # The paper's appendix: the centre is drawn, the sides are those of the picture times the root of 1 - lambda.
        centre = [int(torch.randint(side, ())) for side in own.shape[-2:]]
        half = [int(side * np.sqrt(1 - share)) // 2 for side in own.shape[-2:]]
        inside = torch.zeros(own.shape[-2:], dtype=torch.bool)
        inside[max(0, centre[0] - half[0]) : centre[0] + half[0], max(0, centre[1] - half[1]) : centre[1] + half[1]] = True
        output = net({"pixel_values": torch.where(inside, own[order], own)}, torch.from_numpy(batch.mask_BT))
        left = 1 - inside.double().mean()
        other = replace(batch, targets=batch.targets[order.numpy()])
        return left * cross_entropy(output, batch) + (1 - left) * cross_entropy(output, other)

    objective._inner.output = inner
    five_steps_alike(net, objective, batch, by_hand)


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_manifold_mixup_mixes_what_enters_the_head(kind):
    net, objective = frozen_net(shapes=Shapes(kind)), words(["manifold-mixup"])
    batch = first_batch(objective)
    torch.manual_seed(3)
    found, _ = objective.loss(net, batch)
    torch.manual_seed(3)
    share, order = drawn(2.0, batch.size)
    pooled = net.features(*net.tensors(batch)).pooled_BD
    output = net.head.linear(share * pooled + (1 - share) * pooled[order])
    other = replace(batch, targets=batch.targets[order.numpy()])
    expected = share * cross_entropy(output, batch) + (1 - share) * cross_entropy(output, other)
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-5)

    def by_hand(net, batch):
        share, order = drawn(2.0, batch.size)
        pooled = net.features(*net.tensors(batch)).pooled_BD
        output = net.head.linear(share * pooled + (1 - share) * pooled[order])
        other = replace(batch, targets=batch.targets[order.numpy()])
        return share * cross_entropy(output, batch) + (1 - share) * cross_entropy(output, other)

    five_steps_alike(net, objective, batch, by_hand)


def test_manifold_mixup_mixes_the_output_of_a_layer_that_is_drawn():
    net, pictures = picture_net(), Pictures()
    objective = around([Pick("manifold-mixup", {"at": "layers"})], pictures, pictures.targets)
    batch, layers = first_batch(objective), net.backbone.blocks.layers
    chosen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found, _ = objective.loss(net, batch)
        torch.manual_seed(seed)
        share, order = drawn(2.0, batch.size)
        place = int(torch.randint(len(layers), ()))
        chosen.add(place)
        layer = net.backbone.get_submodule(layers[place])
        hook = layer.register_forward_hook(lambda _m, _i, out, s=share, o=order: s * out + (1 - s) * out[o])
        output = net(*net.tensors(batch))
        hook.remove()
        other = replace(batch, targets=batch.targets[order.numpy()])
        expected = share * cross_entropy(output, batch) + (1 - share) * cross_entropy(output, other)
        assert found.total.item() == pytest.approx(expected.item(), abs=1e-5)
    assert chosen == {0, 1}

    def by_hand(net, batch):
        share, order = drawn(2.0, batch.size)
        layer = net.backbone.get_submodule(layers[int(torch.randint(len(layers), ()))])
        hook = layer.register_forward_hook(lambda _m, _i, out: share * out + (1 - share) * out[order])
        output = net(*net.tensors(batch))
        hook.remove()
        other = replace(batch, targets=batch.targets[order.numpy()])
        return share * cross_entropy(output, batch) + (1 - share) * cross_entropy(output, other)

    five_steps_alike(net, objective, batch, by_hand)


def test_mixtures_of_weighted_rows_and_several_targets_weigh_as_the_batch_does():
    objective = words(["manifold-mixup"], class_weights={"a": 4.0})
    batch = first_batch(objective)
    found, _ = objective.loss(frozen_net(), batch)
    assert found.weight.item() == pytest.approx(objective._task.weight(batch.targets))


def depth(rate=0.9, **more):
    return Pick("stochastic-depth", {"rate": rate, **more})


@pytest.mark.parametrize("kind", ["packed", "padded", "fixed"])
def test_layers_are_left_out_and_what_others_add_is_divided_by_their_chance(kind):
    net, objective = frozen_net(shapes=Shapes(kind)).train(), words([depth(0.6)])
    batch, layers = first_batch(objective), net.backbone.blocks.layers
    seen = set()
    objective.loss(net, batch)
    for seed in range(10):
        torch.manual_seed(seed)
        found, _ = objective.loss(net, batch)
        torch.manual_seed(seed)
        chances = [1 - 0.6 * (place + 1) / 3 for place in range(3)]
        runs = [float(torch.rand(())) < chance for chance in chances]
        seen.add(tuple(runs))
        hooks = [
            net.backbone.get_submodule(path).register_forward_hook(
                lambda _m, args, out, run=run, chance=chance: args[0] + (out - args[0]) / chance if run else args[0]
            )
            for path, run, chance in zip(layers, runs, chances, strict=True)
        ]
        expected = cross_entropy(net(*net.tensors(batch)), batch)
        for hook in hooks:
            hook.remove()
        assert found.total.item() == pytest.approx(expected.item(), abs=1e-4)
    assert len(seen) > 3

    def by_hand(net, batch):
        chances = [1 - 0.6 * (place + 1) / 3 for place in range(3)]
        runs = [float(torch.rand(())) < chance for chance in chances]
        hooks = [
            net.backbone.get_submodule(path).register_forward_hook(
                lambda _m, args, out, run=run, chance=chance: args[0] + (out - args[0]) / chance if run else args[0]
            )
            for path, run, chance in zip(layers, runs, chances, strict=True)
        ]
        total = cross_entropy(net(*net.tensors(batch)), batch)
        for hook in hooks:
            hook.remove()
        return total

    five_steps_alike(net, objective, batch, by_hand)


def test_a_layer_that_is_left_out_is_not_computed_and_has_no_gradient():
    net, objective = frozen_net().train(), words([depth(0.9)])
    batch = first_batch(objective)
    objective.loss(net, batch)
    for seed in range(20):
        torch.manual_seed(seed)
        runs = [float(torch.rand(())) < chance for chance in (0.7, 0.4, 0.1)]
        if runs == [True, True, False]:
            break
    calls = []
    hooks = [
        net.backbone.get_submodule(f"{path}.attention").register_forward_hook(lambda *_, path=path: calls.append(path))
        for path in net.backbone.blocks.layers
    ]
    torch.manual_seed(seed)
    objective.loss(net, batch)[0].total.backward()
    for hook in hooks:
        hook.remove()
    assert calls == list(net.backbone.blocks.layers[:2])
    grads = [[w.grad is not None for w in net.backbone.get_submodule(path).parameters()] for path in net.backbone.blocks.layers]
    assert [all(one) for one in grads] == [True, True, False]


def test_networks_that_answer_are_whole():
    net, objective = frozen_net().eval(), words([depth(0.9)])
    batch = first_batch(objective)
    plain = objective._inner.loss(net, batch)[0].total.item()
    assert {objective.loss(net, batch)[0].total.item() for _ in range(5)} == {plain}


def test_blocks_inside_stages_are_left_out_where_stages_change_the_size():
    from regraft.regularizers.blocks import same_shaped

    net, pictures = picture_net("resnet"), Pictures()
    objective = around([depth(0.5)], pictures, pictures.targets)
    found = same_shaped(net, *net.tensors(first_batch(objective)))
    assert found == {
        "body.encoder.stages.0.layers.0": 0,
        "body.encoder.stages.0.layers.1": 0,
        "body.encoder.stages.0.layers.2": 0,
        "body.encoder.stages.1.layers.1": 1,
    }
    objective.check(net, {name for name, _ in net.named_parameters()}, objective._task)
    assert torch.isfinite(objective.loss(net.train(), first_batch(objective))[0].total)


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_above_a_cut_the_lowest_layer_always_runs(kind):
    net, objective = frozen_net(shapes=Shapes(kind)), words([depth(0.99)])
    upper, cached = above(net, 1, objective, first_batch(objective))
    upper.train()
    for parameter in net.backbone.body.embeddings.parameters():
        parameter.requires_grad_(False)
    blocks = objective._parts["stochastic-depth"]._blocks(upper, cached)
    assert blocks == {"body.encoder.layer.2": 2}
    assert torch.isfinite(objective.loss(upper, cached)[0].total)


def test_dropout_is_found_by_part_and_set_for_the_fit_alone():
    net = frozen_net(dropout=0.1)
    found = {part: [place.path.removeprefix("backbone.body.") for place in there] for part, there in places(net).items()}
    assert found["embeddings"] == ["embeddings.dropout"]
    assert found["attention"] == [f"encoder.layer.{n}.attention.self.dropout" for n in range(3)]
    layers = [f"encoder.layer.{n}.{path}" for n in range(3) for path in ("attention.output.dropout", "output.dropout")]
    assert found["layers"] == layers
    objective = words([Pick("dropout", {"attention": 0.5, "layers": 0.0})])
    made = objective.prepared(net)
    rates = {path: module.p for path, module in made.named_modules() if hasattr(module, "p")}
    assert rates["backbone.body.embeddings.dropout"] == 0.1
    assert rates["backbone.body.encoder.layer.1.attention.self.dropout"] == 0.5
    assert rates["backbone.body.encoder.layer.1.output.dropout"] == 0.0
    assert {module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert all(one is other for one, other in zip(made.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_rates_of_attention_take_effect(kind):
    net, objective = frozen_net(shapes=Shapes(kind)).train(), words([Pick("dropout", {"attention": 0.5})])
    made, batch = objective.prepared(net), first_batch(objective)
    whole = {objective.loss(net, batch)[0].total.item() for _ in range(3)}
    thinned = {objective.loss(made, batch)[0].total.item() for _ in range(3)}
    assert len(whole) == 1
    assert len(thinned) == 3


@pytest.mark.parametrize(
    ("pick", "net", "said"),
    [
        (Pick("dropout"), frozen_net, ["no rate was given", "train.regularize.dropout.layers=0.2"]),
        (Pick("dropout", {"attention": 0.1}), lambda: picture_net("resnet"), ["no dropout in its attention"]),
        (Pick("mixup"), frozen_net, ["tokens or categories have no average", "train.regularize=manifold-mixup"]),
        (Pick("cutmix"), frozen_net, ["cuts rectangles out of pictures", "manifold-mixup"]),
        (Pick("manifold-mixup", {"at": "layers"}), frozen_net, ["rows have different lengths", "leave 'at' out"]),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(pick, net, said):
    made = net()
    with pytest.raises(OptionsError) as refused:
        words([pick]).check(made, {name for name, _ in made.named_parameters()}, task_of([0, 1, 0, 1]))
    for text in said:
        assert text in str(refused.value)


def test_depth_is_refused_where_only_the_head_learns():
    with pytest.raises(OptionsError) as refused:
        words([depth()]).check(frozen_net(), {"head.linear.weight"}, task_of([0, 1, 0, 1]))
    assert "no layer that learns can be left out" in str(refused.value)
    assert "3 such layers in the base, none of which learns" in str(refused.value)


def test_of_a_block_that_shares_more_than_hidden_states_the_rest_is_left_out():
    """T5's attention hands its bias on; its feed-forward parts stand by themselves."""
    from regraft.regularizers.blocks import same_shaped

    net, objective = frozen_net("t5"), words([depth()])
    found = same_shaped(net, *net.tensors(first_batch(objective)))
    assert found == {f"body.encoder.block.{place}.layer.1": place for place in range(3)}
    assert torch.isfinite(objective.loss(net.train(), first_batch(objective))[0].total)


def test_what_cannot_stand_together_is_refused_at_once():
    net = picture_net()
    objective = around(["mixup", "cutmix", "fgm"], Pictures(), Pictures().targets)
    with pytest.raises(OptionsError) as refused:
        objective.check(net, {name for name, _ in net.named_parameters()}, objective._task)
    assert "mixup and cutmix both mix rows" in str(refused.value)
    assert "mixup mixes rows anew at every pass, and fgm holds several passes" in str(refused.value)


def test_mixing_stands_within_whatever_else_changes_the_loss():
    assert list(words(["manifold-mixup", depth(), "ema"])._parts) == ["stochastic-depth", "ema", "manifold-mixup"]


@pytest.mark.parametrize("name", ["r-drop", "smart", "mixup", "cutmix", "manifold-mixup"])
def test_tasks_without_an_output_of_each_row_are_refused(name):
    net, objective = frozen_net(), words([name])
    scene = scene_of(net, objective)

    class Paired:
        paired, name, by_gradients = True, "retrieval", None

    class ByGradients:
        paired, name, by_gradients = False, "multi-target", (("a", "b"), 1.0)

    for task, said in (
        (Paired(), "holds the rows of a batch against each other"),
        (ByGradients(), "weighed by their gradients"),
    ):
        with pytest.raises(OptionsError, match=said):
            objective._parts[name].check(replace(scene, task=task))


TOGETHER = {
    "fgm": ["fgm"],
    "pgd": [Pick("pgd", {"steps": 2})],
    "smart": ["smart"],
    "r-drop": ["r-drop"],
    "l2-sp": ["l2-sp"],
    "depth": [depth(0.5)],
    "manifold": ["manifold-mixup"],
    "several": ["ema", depth(0.3), "l2-sp", "r-drop", "fgm"],
    "mixed": ["swa", depth(0.3), "l2-sp", "manifold-mixup"],
}


@pytest.mark.parametrize("name", TOGETHER)
def test_training_repeats_itself_goes_on_to_the_same_bits_and_learns(name):
    """With dropout, packed rows and micro-batches; interrupted after half of the updates."""
    memory = Memory()
    whole, losses = fit(TOGETHER[name], keeper=memory, micro_batch_size=4, steps=6)
    again, _ = fit(TOGETHER[name], micro_batch_size=4, steps=6)
    resumed, _ = fit(TOGETHER[name], keeper=Memory(start=memory.kept[3]), micro_batch_size=4, steps=6)
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
        assert torch.equal(value, resumed[key]), key
    plain, _ = fit([], micro_batch_size=4, steps=6)
    assert any(not torch.equal(value, plain[key]) for key, value in whole.items()), "it changed nothing"
    _, longer = fit(TOGETHER[name], steps=24)
    assert np.mean(longer[-5:]) < np.mean(longer[:5])


@pytest.mark.parametrize("name", ["fgm", "smart", "several", "mixed", "mixup"])
def test_it_learns_in_bf16_and_on_pictures(name):
    pictures = Pictures()
    picks = TOGETHER.get(name, [name])
    objective = around(picks, pictures, pictures.targets)
    _, losses = fit(picks, net=picture_net(dropout=0.1), objective=objective, precision="bf16", steps=30)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_each_says_in_a_line_what_it_does_and_what_can_be_chosen():
    for name in REGULARIZERS:
        cls = REGULARIZERS.get(name)
        assert (cls.__doc__ or "").splitlines()[0].endswith(".")
        assert all(row.help for row in describe(cls.Options))
        made = build(TrainOptions, {"regularize": {name: {}}})
        assert build(TrainOptions, json.loads(json.dumps(to_json(made)))) == made


def test_a_layer_is_run_otherwise_through_a_view_alone():
    net = frozen_net()
    path = net.backbone.blocks.layers[1]
    made = with_layers(net, {path: lambda layer, args, kwargs: args[0]})
    assert type(net.backbone.get_submodule(path)).__name__ == "BertLayer"
    assert type(made.backbone.get_submodule(path)).__name__ == "OtherBertLayer"
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize(("picks", "kept"), [(["cutmix"], False), (["manifold-mixup"], True), ([], True)])
def test_nothing_is_kept_of_rows_that_a_regulariser_changes(monkeypatch, picks, kept):
    from contextlib import contextmanager
    from types import SimpleNamespace

    from regraft import learning
    from regraft.training.options import ComputeOptions
    from regraft.training.stages import Stages

    pictures, told, settings = Pictures(), [], []

    @contextmanager
    def noting(net, trainable, needs, rows, setting, progress):
        settings.append(setting)
        yield SimpleNamespace(net=net)

    monkeypatch.setattr("regraft.training.frozen_parts.learner", noting)
    wanted = SimpleNamespace(
        tuning=Pick("head"),
        objective=Pick("supervised"),
        train=build(TrainOptions, {"regularize": picks}),
        machine=ComputeOptions(),
    )
    plan = SimpleNamespace(
        wanted=wanted,
        task=task_of(pictures.targets),
        rows={"train": pictures, "valid": pictures},
        preprocessing="p",
        base=SimpleNamespace(name="tiny"),
    )
    with learning.learner(picture_net(), plan, Stages(told.append)):
        pass
    assert settings[0].cache.enabled is kept
    said = [event.text for event in told if "a regulariser changes rows" in getattr(event, "text", "")]
    assert bool(said) is not kept

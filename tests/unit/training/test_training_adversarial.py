"""Moves of what enters a network: FGM, PGD and SMART recomputed by hand, on words, pictures and above a cut, however rows lie."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from regular import Pictures, around, first_batch, five_steps_alike, frozen_net, picture_net, scene_of, task_of, words
from torch.nn import functional

from regraft.errors import OptionsError
from regraft.models.backbones import Shapes
from regraft.models.cuts import HIDDEN, halves
from regraft.models.net import Headed
from regraft.objectives.supervised import Supervised
from regraft.options import Pick
from regraft.regularizers.entrance import Tap, rows_of, steepest, tapped
from regraft.types import Batch

EPSILON = 0.1


def fgm(**options):
    return Pick("fgm", {"epsilon": EPSILON, **options})


def row_loss(net, vectors, batch, row):
    """Return the loss of one row of a padded BERT from vectors of its words."""
    hidden = net.backbone.body(inputs_embeds=vectors, attention_mask=torch.ones(vectors.shape[:2])).last_hidden_state
    return functional.cross_entropy(net.head.linear(hidden.mean(dim=1)), torch.from_numpy(batch.targets[row : row + 1]))


def by_hand(net, batch, epsilon=EPSILON):
    """Return loss and loss of moved rows of a padded BERT, the move found through `inputs_embeds`, a row at a time."""
    ids, mask = torch.from_numpy(batch.inputs["input_ids"]), torch.from_numpy(batch.mask_BT)
    body, totals = net.backbone.body, [0.0, 0.0]
    for row in range(len(ids)):
        length = int(mask[row].sum())
        vectors = body.embeddings.word_embeddings(ids[row : row + 1, :length]).detach().requires_grad_()

        clean = row_loss(net, vectors, batch, row)
        (gradient,) = torch.autograd.grad(clean, vectors)
        move = epsilon * vectors.detach().norm() * gradient / gradient.norm()
        totals = [totals[0] + clean.item(), totals[1] + row_loss(net, vectors.detach() + move, batch, row).item()]
    return totals


@pytest.mark.parametrize("shapes", [Shapes("packed"), Shapes("padded"), Shapes("fixed"), Shapes("fixed", 20)], ids=str)
def test_fgm_is_the_loss_at_the_normalised_gradient_of_each_row(shapes):
    """In fixed shapes ten rows are two blocks of eight, the second filled up."""
    net, objective = frozen_net(shapes=shapes), words([fgm(weight=0.5)])
    batch = first_batch(objective, 10)
    found, logs = objective.loss(net, batch)
    clean, moved = by_hand(net, batch)
    assert (found.total).item() == pytest.approx(clean + 0.5 * moved, abs=2e-5)
    assert logs["adversarial"] == pytest.approx(moved / batch.size, abs=1e-5)
    assert moved > clean + 0.01

    def whole(net, batch):
        ids, mask = torch.from_numpy(batch.inputs["input_ids"]), torch.from_numpy(batch.mask_BT)
        total = 0.0
        for row in range(len(ids)):
            length = int(mask[row].sum())
            vectors = net.backbone.body.embeddings.word_embeddings(ids[row : row + 1, :length])
            held = vectors.detach().requires_grad_()
            clean = row_loss(net, held, batch, row)
            (gradient,) = torch.autograd.grad(clean, held)
            move = EPSILON * held.detach().norm() * gradient / gradient.norm()
            total = total + row_loss(net, vectors, batch, row) + 0.5 * row_loss(net, vectors + move, batch, row)
        return total

    five_steps_alike(net, objective, batch, whole)


def gradients(net, loss):
    net.zero_grad()
    loss.total.backward()
    return {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}


def test_gradients_of_fgm_are_those_of_both_losses_with_the_move_held_fast():
    net, objective = frozen_net(), words([fgm()])
    batch = first_batch(objective)
    found = gradients(net, objective.loss(net, batch)[0])
    tap = Tap("input")
    clean, _ = objective._inner.loss(tapped(net, tap), batch)
    rows = rows_of(net, batch, "input")
    moves = [EPSILON * move for move in rows.directions(steepest(clean.total, net, tap.zeros, keep=False), tap.entered)]
    expected = gradients(net, objective._inner.loss(net, batch)[0])
    for name, more in gradients(net, objective._inner.loss(tapped(net, Tap("input", moves)), batch)[0]).items():
        expected[name] += more
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6)


def test_packed_rows_are_moved_as_padded_ones():
    totals = []
    for kind in ("packed", "padded", "fixed"):
        objective = words([fgm()])
        totals.append((objective.loss(frozen_net(shapes=Shapes(kind)), first_batch(objective))[0].total).item())
    assert totals[1:] == pytest.approx(totals[:1] * 2, abs=1e-5)


@pytest.mark.parametrize("at", ["input", "pooled"])
@pytest.mark.parametrize("name", ["fgm", "smart"])
def test_micro_batches_add_up_to_the_batch(name, at):
    """What is random in SMART is its first noise, which is as good as nothing beside a step."""
    net = frozen_net(shapes=Shapes("padded"))
    chosen = {"at": at} if name == "fgm" else {"at": at, "noise": 1e-4, "steps": 4}
    objective = words([Pick(name, chosen)], class_weights={"a": 3.0})
    sums = []
    for micro in (16, 4, 1):
        torch.manual_seed(0)
        pieces = next(objective.batches(0, 16, micro, np.random.default_rng(1)))
        made = [objective.loss(net, batch)[0] for batch in pieces]
        sums.append(sum((loss.total).item() for loss in made) / sum(float(loss.weight) for loss in made))
    assert sums[1:] == pytest.approx(sums[:1] * 2, rel=1e-5 if name == "fgm" else 2e-2)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_pictures_are_moved_pixel_by_pixel(kind):
    net, pictures = picture_net(kind), Pictures()
    objective = around([fgm()], pictures, pictures.targets)
    batch = first_batch(objective)
    found, _ = objective.loss(net, batch)
    pixels = torch.from_numpy(batch.inputs["pixel_values"]).requires_grad_()
    wanted = torch.from_numpy(batch.targets)
    mask = torch.from_numpy(batch.mask_BT)

    def total(pixels):
        return functional.cross_entropy(net({"pixel_values": pixels}, mask), wanted, reduction="sum")

    (gradient,) = torch.autograd.grad(total(pixels), pixels)
    norms = [part.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for part in (pixels.detach(), gradient)]
    moved = total(pixels.detach() + EPSILON * norms[0] * gradient / norms[1])
    assert (found.total).item() == pytest.approx((total(pixels) + moved).item(), abs=1e-4)
    assert batch.inputs["pixel_values"].tobytes() == pixels.detach().numpy().tobytes(), "rows themselves must stay"

    def whole(net, batch):
        def total(pixels):
            return functional.cross_entropy(net({"pixel_values": pixels}, mask), wanted, reduction="sum")

        pixels = torch.from_numpy(batch.inputs["pixel_values"]).requires_grad_()
        (gradient,) = torch.autograd.grad(total(pixels), pixels)
        norms = [part.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for part in (pixels.detach(), gradient)]
        return total(pixels.detach()) + total(pixels.detach() + EPSILON * norms[0] * gradient / norms[1])

    five_steps_alike(net, objective, batch, whole)


def above(net, cut, objective, batch):
    """Return the upper half of a network and the batch as it takes it."""
    parts = halves(net.backbone, cut)
    inputs, mask = net.tensors(batch)
    with torch.no_grad():
        hidden = parts.prefix(inputs, mask)
    upper = Headed(parts.suffix, net.head)
    cached = Batch(inputs={HIDDEN: hidden.numpy()}, mask_BT=batch.mask_BT, targets=batch.targets, rows_B=batch.rows_B)
    return upper, cached


@pytest.mark.parametrize("name", ["fgm", "pgd", "smart"])
@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_above_a_cut_what_enters_there_is_moved(name, kind):
    net, objective = frozen_net(shapes=Shapes(kind)), words([name])
    upper, cached = above(net, 2, objective, first_batch(objective))
    taps = Tap("input")
    objective._inner.loss(tapped(upper, taps), cached)
    assert [tuple(value.shape) for value in taps.entered] == [cached.inputs[HIDDEN].shape]
    plain = (objective._inner.loss(upper, cached)[0].total).item()
    found, _ = objective.loss(upper, cached)
    assert (found.total).item() > plain
    learnt = gradients(upper, found)
    assert {name.split(".")[1] for name in learnt} >= {"body", "linear"}


def test_pgd_climbs_higher_than_fgm_and_stays_in_its_ball(monkeypatch):
    net = frozen_net()
    one, several = (
        words([fgm()]),
        words([Pick("pgd", {"epsilon": EPSILON, "steps": 8, "step_size": 0.03, "random_start": False})]),
    )
    batch = first_batch(one)
    seen = []
    inner = Supervised.loss

    def listening(self, net, batch):
        seen.append([tap for tap in getattr(net, "taps", ()) if tap.moves is not None])
        return inner(self, net, batch)

    monkeypatch.setattr(Supervised, "loss", listening)
    torch.manual_seed(0)
    higher = objective_logs(several, net, batch)
    assert higher >= objective_logs(one, net, batch) - 1e-4
    rows = rows_of(net, batch, "input")
    last = [taps[0] for taps in seen if taps][8]
    far, sizes = rows.lengths(last.moves)[0], rows.lengths(last.entered)[0]
    assert (far <= EPSILON * sizes * (1 + 1e-5)).all()
    assert (far > 0.5 * EPSILON * sizes).all()


def objective_logs(objective, net, batch):
    return objective.loss(net, batch)[1]["adversarial"]


def test_one_step_of_pgd_as_long_as_the_radius_is_fgm():
    net = frozen_net()
    pgd = words([Pick("pgd", {"epsilon": EPSILON, "steps": 1, "step_size": EPSILON, "random_start": False})])
    batch = first_batch(pgd)
    assert (pgd.loss(net, batch)[0].total).item() == pytest.approx((words([fgm()]).loss(net, batch)[0].total).item(), abs=1e-5)


def test_a_random_start_is_drawn_from_torchs_generator_inside_the_ball():
    net, objective = frozen_net(), words([Pick("pgd", {"steps": 1, "step_size": 1e-9, "epsilon": EPSILON})])
    batch, found = first_batch(objective), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append((objective.loss(net, batch)[0].total).item())
    assert found[0] == found[1] != found[2]


def test_smart_is_the_symmetric_divergence_at_a_step_up_of_it():
    net, objective = frozen_net(shapes=Shapes("padded")), words([Pick("smart", {"weight": 2.0, "steps": 1})])
    batch = first_batch(objective)
    torch.manual_seed(4)
    found, logs = objective.loss(net, batch)
    ids, mask = net.tensors(batch)
    table = net.backbone.body.embeddings.word_embeddings
    vectors = table(ids["input_ids"]).detach()

    def logits(move):
        embedded = {"inputs_embeds": vectors + move, "attention_mask": mask.long()}
        hidden = net.backbone.body(**embedded).last_hidden_state
        weights = mask.unsqueeze(-1).float()
        return net.head.linear((hidden * weights).sum(1) / weights.sum(1))

    def apart(p, q):
        one = functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none")
        other = functional.kl_div(p.log_softmax(-1), q.log_softmax(-1), log_target=True, reduction="none")
        return (one + other).sum(dim=-1)

    torch.manual_seed(4)
    noise = torch.randn_like(vectors) * mask.unsqueeze(-1)
    sizes = torch.stack([vectors[row, : int(mask[row].sum())].square().mean().sqrt() for row in range(len(vectors))])
    sizes = sizes.view(-1, 1, 1)
    move = (2e-4 * sizes * noise).requires_grad_()
    clean = logits(torch.zeros_like(vectors)).detach()
    (gradient,) = torch.autograd.grad(apart(logits(move), clean).sum(), move)
    top = gradient.abs().flatten(1).amax(1).view(-1, 1, 1)
    moved = (move.detach() + 0.02 * sizes * gradient / top).clamp(-0.02 * sizes, 0.02 * sizes)
    change = apart(logits(moved), clean)
    expected = functional.cross_entropy(clean, torch.from_numpy(batch.targets), reduction="sum") + 2.0 * change.sum()
    assert (found.total).item() == pytest.approx((expected).item(), abs=1e-4)
    assert logs["change"] == pytest.approx((change.mean()).item(), rel=1e-3)


def test_five_steps_of_smart():
    """With moves that are large enough to weigh something."""

    def apart(p, q):
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        return ((p.exp() - q.exp()) * (p - q)).sum(dim=-1)  # both divergences in one

    def by_hand(net, batch):
        ids, mask = net.tensors(batch)
        own = net.backbone.body.embeddings.word_embeddings(ids["input_ids"])
        vectors, real = own.detach(), mask.unsqueeze(-1).double()

        def logits(vectors):
            hidden = net.backbone.body(inputs_embeds=vectors, attention_mask=mask.long()).last_hidden_state
            return net.head.linear((hidden * real).sum(1) / real.sum(1))

        noise = torch.randn_like(vectors) * real
        sizes = ((vectors.square() * real).sum((1, 2)) / (real.sum((1, 2)) * vectors.shape[-1])).sqrt().view(-1, 1, 1)
        clean, move = logits(own), (2e-4 * sizes * noise).requires_grad_()
        (gradient,) = torch.autograd.grad(apart(logits(vectors + move), clean.detach()).sum(), move)
        top = gradient.abs().flatten(1).amax(1).view(-1, 1, 1)
        moved = (move.detach() + 0.5 * sizes * gradient * real / top).clamp(-0.4 * sizes, 0.4 * sizes)
        wanted = torch.from_numpy(batch.targets)
        return functional.cross_entropy(clean, wanted, reduction="sum") + 50.0 * apart(logits(own + moved), clean).sum()

    objective = words([Pick("smart", {"weight": 50.0, "steps": 1, "step_size": 0.5, "epsilon": 0.4})])
    five_steps_alike(frozen_net(shapes=Shapes("padded")), objective, first_batch(objective), by_hand)


def test_five_steps_of_pgd():
    """Two steps up, the second of which leaves the ball and is put back on it."""

    def by_hand(net, batch):
        ids, mask = torch.from_numpy(batch.inputs["input_ids"]), torch.from_numpy(batch.mask_BT)
        total = 0.0
        for row in range(len(ids)):
            length = int(mask[row].sum())
            vectors = net.backbone.body.embeddings.word_embeddings(ids[row : row + 1, :length])
            held, move = vectors.detach(), torch.zeros_like(vectors)
            for _ in range(2):
                at = (held + move).requires_grad_()
                (gradient,) = torch.autograd.grad(row_loss(net, at, batch, row), at)
                move = move + 0.08 * held.norm() * gradient / gradient.norm()
                move = move * min(1.0, float(EPSILON * held.norm() / move.norm()))
            total = total + row_loss(net, vectors, batch, row) + row_loss(net, vectors + move, batch, row)
        return total

    objective = words([Pick("pgd", {"epsilon": EPSILON, "steps": 2, "step_size": 0.08, "random_start": False})])
    five_steps_alike(frozen_net(), objective, first_batch(objective), by_hand)


def test_passes_of_smart_draw_the_same_dropout():
    """With dropout and next to no move nothing changes, so that what SMART sees is due to the move alone."""
    net = frozen_net(dropout=0.5).train()
    objective = words([Pick("smart", {"epsilon": 1e-7, "noise": 1e-7, "step_size": 1e-7})])
    _, logs = objective.loss(net, first_batch(objective))
    assert abs(logs["change"]) < 1e-6
    _, logs = words(["r-drop"]).loss(net, first_batch(objective))
    assert logs["divergence"] > 1e-3


def test_several_parts_are_refused_with_what_can_be_done():
    class Parts:
        part_widths = (3, 4)

    net, objective = frozen_net(), words(["fgm"])
    scene = scene_of(net, objective)
    stand_in = copy.copy(net)
    stand_in.__dict__["_modules"] = {"head": net.head}
    stand_in.__dict__["backbone"] = Parts()
    for name, part in {"fgm": "fgm", "pgd": "pgd", "smart": "smart"}.items():
        made = words([name])._parts[part]
        with pytest.raises(OptionsError) as refused:
            made.check(type(scene)(net=stand_in, trainable=scene.trainable, task=scene.task, objective=scene.objective))
        assert "reads several parts" in str(refused.value)
        assert f"--set train.regularize.{name}.at=pooled" in str(refused.value)
        words([Pick(name, {"at": "pooled"})])._parts[part].check(
            type(scene)(net=stand_in, trainable=scene.trainable, task=scene.task, objective=scene.objective)
        )


def test_weights_of_rows_count_in_the_change_too():
    net = frozen_net()
    plain, heavy = words(["smart"]), words(["smart"], class_weights={"a": 5.0, "b": 5.0})
    batch = first_batch(plain)
    found = []
    for objective in (plain, heavy):
        torch.manual_seed(0)
        loss, _ = objective.loss(net, batch)
        found.append((loss.total / loss.weight).item())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_task_that_is_asked_is_that_of_the_objective():
    task = task_of([0, 1, 0, 1])
    assert words(["smart"], task=task)._parts["smart"].task is task


def test_a_step_inside_the_ball_is_not_drawn_out_to_its_radius():
    net = frozen_net()
    pgd = words([Pick("pgd", {"epsilon": EPSILON, "steps": 1, "step_size": EPSILON / 4, "random_start": False})])
    near, batch = words([fgm(epsilon=EPSILON / 4)]), first_batch(pgd)
    assert pgd.loss(net, batch)[0].total.item() == pytest.approx(near.loss(net, batch)[0].total.item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["packed", "padded", "fixed"])
def test_rows_without_a_gradient_stay_and_tiny_gradients_are_followed(kind):
    net, objective = frozen_net(shapes=Shapes(kind)), words([fgm()])
    batch = first_batch(objective)
    tap = Tap("input")
    loss, _ = objective._inner.loss(tapped(net, tap), batch)
    rows = rows_of(net, batch, "input")
    gradients = steepest(loss.total, net, tap.zeros, keep=False)
    expected = rows.directions(gradients, tap.entered)
    for one, other in zip(rows.directions([grad * 1e-30 for grad in gradients], tap.entered), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for none in rows.directions([torch.zeros_like(grad) for grad in gradients], tap.entered):
        assert not none.any()


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize(
    "picks", [["fgm", "smart"], ["fgm", "stochastic-depth"], ["pgd", "r-drop", "smart", "stochastic-depth"]]
)
def test_several_stand_within_each_other(picks, cut):
    """Whatever runs only to see how the network does is not moved: the first loss is that of a second look."""
    net, objective = frozen_net(dropout=0.2).train(), words(picks)
    batch = first_batch(objective)
    if cut:
        net, batch = above(net, cut, objective, batch)
        net.train()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        loss, _ = objective.loss(net, batch)
        assert all(torch.isfinite(gradient).all() for gradient in gradients(net, loss).values())
        found.append(loss.total.item())
    assert found[0] == found[1]

"""How parts are joined: every style against its formula in numpy, missing parts, and modality dropout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from regraft.models.joinings import JOININGS, LateHead, Sizes, weights_of
from regraft.tasks import TASKS
from regraft.types import Features, Ledger

SIZES = Sizes(widths=(3, 5), width=4, layers=2, heads=2, dropout=0.3, part_dropout=0.4)
THERE = torch.tensor([[True, True], [True, False], [False, True], [True, True], [False, False]])


def parts(rows=5, positions=(4, 1), seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for width, length in zip(SIZES.widths, positions, strict=True):
        sequence = torch.randn(rows, length, width, generator=generator)
        made.append(Features(sequence, torch.ones(rows, length, dtype=torch.bool), sequence.mean(dim=1)))
    return made


def joining(style, sizes=SIZES):
    torch.manual_seed(3)
    made = JOININGS[style](sizes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.eval()


def normal(x, norm):
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + norm.eps)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def mapped(x, linear):
    return x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def vectors(made, found):
    """The vector of each part in numpy, the learnt one where it is missing."""
    told = zip(found, made.norms, made.absent, strict=True)
    return [
        np.where(THERE.numpy()[:, place, None], normal(part.pooled_BD.numpy(), norm), absent.detach().numpy())
        for place, (part, norm, absent) in enumerate(told)
    ]


def softmax_over(scores, there):
    exponents = np.exp(scores) * there
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_concat_is_its_formula():
    made, found = joining("concat"), parts()
    expected = gelu(mapped(np.concatenate(vectors(made, found), axis=1), made.mixing))
    np.testing.assert_allclose(made(found, THERE).detach().numpy(), expected, atol=1e-5)


def test_gated_is_its_formula():
    made, found = joining("gated"), parts()
    each = vectors(made, found)
    whole = np.concatenate(each, axis=1)
    gates = [1 / (1 + np.exp(-mapped(whole, gate))) for gate in made.gates]
    expected = sum(gate * np.tanh(mapped(x, map_)) for gate, x, map_ in zip(gates, each, made.maps, strict=True))
    np.testing.assert_allclose(made(found, THERE).detach().numpy(), expected, atol=1e-5)


def test_weighted_is_its_formula_over_the_parts_that_are_there():
    made, found = joining("weighted"), parts()
    there = THERE.numpy().copy()
    there[4] = True  # a row without any part weighs all of them
    weights = softmax_over(made.scores_P.detach().numpy(), there)
    each = [
        mapped(normal(part.pooled_BD.numpy(), norm), map_)
        for part, norm, map_ in zip(found, made.norms, made.maps, strict=True)
    ]
    expected = sum(weights[:, place, None] * x for place, x in enumerate(each))
    np.testing.assert_allclose(made(found, THERE).detach().numpy(), expected, atol=1e-5)


def test_late_mixes_the_probabilities_of_the_heads():
    cls = TASKS.get("classification")
    task = cls(cls.Options())
    task.learn(["a", "b", "c"] * 5, Ledger())
    made, found = joining("late"), parts()
    head = made.head(task, 0.5, seed=2).eval()
    assert isinstance(head, LateHead)
    with torch.no_grad():
        head.scores_P.copy_(torch.tensor([0.7, -0.4]))
        for parameter in head.heads.parameters():
            parameter.normal_()
        joined = made(found, THERE)
        output = head(Features(joined[:, None], torch.ones(5, 1, dtype=torch.bool), joined)).numpy()
    logits = [mapped(part.pooled_BD.numpy(), one.linear) for part, one in zip(found, head.heads, strict=True)]
    shares = [np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in logits]
    there = THERE.numpy().copy()
    there[4] = True
    weights = softmax_over(head.scores_P.detach().numpy(), there)
    expected = sum(weights[:, place, None] * share for place, share in enumerate(shares))
    np.testing.assert_allclose(task.probabilities(output), expected, atol=1e-6)
    one, two = (linear.weight for linear in (head.heads[0].linear, made.head(task, 0.5, seed=2).heads[0].linear))
    assert one.shape == two.shape == (3, 3)


def test_heads_of_parts_are_drawn_apart():
    cls = TASKS.get("classification")
    task = cls(cls.Options())
    task.learn(["a", "b"] * 5, Ledger())
    head = JOININGS["late"](Sizes(widths=(3, 3))).head(task, 0.0, seed=0)
    assert not torch.equal(head.heads[0].linear.weight, head.heads[1].linear.weight)


def test_early_attends_to_real_positions_of_parts_that_are_there_alone():
    made = joining("early")
    found = parts(positions=(4, 2))
    plain = made(found, THERE)
    longer = []
    for part in found:
        rubbish = 1e3 * torch.ones(5, 3, part.sequence_BTD.shape[2])
        mask = torch.cat([part.mask_BT, torch.zeros(5, 3, dtype=torch.bool)], dim=1)
        longer.append(Features(torch.cat([part.sequence_BTD, rubbish], dim=1), mask, part.pooled_BD))
    torch.testing.assert_close(made(longer, THERE), plain, atol=1e-5, rtol=1e-5)
    changed = [found[0], Features(found[1].sequence_BTD.flip(2), found[1].mask_BT, found[1].pooled_BD)]
    moved = (made(changed, THERE) - plain).abs().amax(dim=1) > 1e-4
    assert moved.tolist() == THERE[:, 1].tolist()


def test_early_is_attention_as_torch_has_it():
    made, found = joining("early"), parts()
    layer = made.layers[0]
    x = torch.randn(2, 6, 4)
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    query, key, value = layer.taken(layer.before(x)).chunk(3, dim=-1)
    split = [one.view(2, 6, 2, 2).transpose(1, 2) for one in (query, key, value)]
    seen = functional.scaled_dot_product_attention(*split, attn_mask=mask[:, None, None]).transpose(1, 2).reshape(2, 6, 4)
    middle = x + layer.given(seen)
    expected = middle + layer.narrow(functional.gelu(layer.wide(layer.after(middle))))
    torch.testing.assert_close(layer(x, mask), expected)
    assert made(found, THERE).shape == (5, 4)


@pytest.mark.parametrize("style", ["concat", "gated", "weighted", "early"])
def test_what_stands_where_a_part_is_missing_means_nothing(style):
    made, found = joining(style), parts()
    there = THERE[:4]
    other = []
    for place, part in enumerate(found):
        lacking = ~there[:, place]
        sequence, pooled = part.sequence_BTD[:4].clone(), part.pooled_BD[:4].clone()
        sequence[lacking], pooled[lacking] = 7.0, -9.0
        other.append(Features(sequence, part.mask_BT[:4], pooled))
    cut = [Features(part.sequence_BTD[:4], part.mask_BT[:4], part.pooled_BD[:4]) for part in found]
    torch.testing.assert_close(made(other, there), made(cut, there))


@pytest.mark.parametrize("style", ["concat", "gated", "weighted", "early"])
def test_rows_without_any_part_give_finite_numbers_and_gradients(style):
    made = joining(style).train()
    made([*parts()], torch.zeros(5, 2, dtype=torch.bool)).sum().backward()
    gradients = [parameter.grad for parameter in made.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_parts_are_left_out_in_training_alone_and_never_all_of_a_row():
    made = joining("concat")
    there = torch.ones(4000, 2, dtype=torch.bool)
    there[:1000, 1] = False
    assert torch.equal(made.kept(there), there)
    made.train()
    torch.manual_seed(5)
    first = made.kept(there)
    torch.manual_seed(5)
    assert torch.equal(made.kept(there), first), "the generator alone decides"
    assert not torch.equal(made.kept(there), first)
    assert first.any(dim=1).all()
    assert not (first & ~there).any(), "what is missing stays so"
    assert torch.equal(first[:1000], there[:1000]), "the only part of a row stays"
    # Of two parts that are there, one is left out with p (1 - p), and both with p^2, which keeps both.
    lost = (~first[1000:]).float().mean()
    assert float(lost) == pytest.approx(0.4 * 0.6, abs=0.02)


def test_weights_are_a_softmax_over_what_is_there():
    scores = torch.tensor([1.0, 2.0, 3.0])
    there = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    weights = weights_of(scores, there)
    low = 1 / (1 + math.exp(2.0))
    torch.testing.assert_close(weights[0], torch.tensor([low, 0.0, 1 - low]))
    torch.testing.assert_close(weights[1], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(weights[2], scores.softmax(dim=0))

"""What follows an update: gradients as the optimiser saw them, and weights that may not be kept yet."""

from __future__ import annotations

import pytest
import torch
from tiny_net import tiny_net, tiny_objective
from torch import nn

from regraft.errors import MissingExtraError, OptionsError
from regraft.options import Pick, build
from regraft.regularizers.regularized import Regularized, regularized
from regraft.regularizers.regularizer import Regularizer
from regraft.training import OPTIMIZERS
from regraft.training.events import EndEvent, ValidEvent
from regraft.training.loop import Validation, train
from regraft.training.offload import Offload
from regraft.training.options import TrainOptions
from regraft.training.savings import Savings, with_savings
from regraft.tuning.full import Full, FullOptions

FULL = Full(FullOptions())
CLIP = 0.3


class Watching(Regularizer):
    """Remembers the gradients before and after each update, and from which step on weights may be kept."""

    def __init__(self, ripe=0):
        super().__init__(None)
        self.before, self.after, self.step, self.ripe = [], [], 0, ripe

    def begin(self, scene, total_steps, steps_per_epoch):
        self._weights = list(scene.weights().values())

    def pull(self, weight):
        self.before.append([value.grad.detach().clone() / weight for value in self._weights])

    def updated(self, step):
        self.step = step
        self.after.append([None if value.grad is None else value.grad.detach().clone() for value in self._weights])

    @property
    def may_be_kept(self):
        return self.step >= self.ripe


def around(part, *picks):
    plain = tiny_objective()
    made = regularized(plain, picks, [("watching", part)])
    assert isinstance(made, Regularized)
    return made.attach(plain._rows, plain._targets, plain._task)


def fit(net, objective, steps=4, validation=None, **values):
    given = {"epochs": 20, "max_steps": steps, "batch_size": 8, "clip_norm": CLIP, "warmup_share": 0.0, **values}
    return list(train(net, objective, FULL, build(TrainOptions, given), validation=validation, seed=3))


@pytest.mark.parametrize("clip", [CLIP, None])
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_gradients_after_an_update_are_the_clipped_ones_of_the_mean_loss(name, clip):
    factory = OPTIMIZERS.get(name)
    try:
        factory(factory.Options()).check(tiny_net(), {key for key, _ in tiny_net().named_parameters()})
    except MissingExtraError as error:
        pytest.skip(str(error))
    except OptionsError:
        pass  # it would do as another does
    seen = Watching()
    fit(tiny_net(), around(seen), optimizer=name, clip_norm=clip, micro_batch_size=3)
    assert len(seen.before) == len(seen.after) == 4
    clipped = 0
    for before, after in zip(seen.before, seen.after, strict=True):
        weights = [nn.Parameter(torch.zeros_like(value)) for value in before]
        for weight, value in zip(weights, before, strict=True):
            weight.grad = value.clone()
        norm = float(nn.utils.clip_grad_norm_(weights, clip or 1e9))
        clipped += clip is not None and norm > clip
        for weight, value in zip(weights, after, strict=True):
            torch.testing.assert_close(value, weight.grad, rtol=1e-5, atol=1e-8)
    assert clip is None or clipped


def test_so_they_are_where_the_state_of_the_optimiser_lies_in_files(tmp_path):
    plain, held = Watching(), Watching()
    offload = Offload(tmp_path)
    offload.on = True
    fit(tiny_net(), around(plain))
    fit(with_savings(tiny_net(), Savings(None, offload)), around(held))
    for one, other in zip(plain.after, held.after, strict=True):
        assert all(map(torch.equal, one, other))


def test_no_gradient_is_left_after_training():
    net = tiny_net()
    fit(net, around(Watching()))
    assert all(weight.grad is None for weight in net.parameters())


def judged(part, scores, **validation):
    """Train with a validation after every update that gives these scores, and return what happens."""
    left = iter(scores)
    given = Validation(run=lambda: {"score": next(left)}, metric="score", higher_is_better=True)
    values = {"epochs": 20, "max_steps": len(scores), "batch_size": 8, "validation": {"every": 1, **validation}}
    events = list(train(tiny_net(), around(part), FULL, build(TrainOptions, values), validation=given, seed=3))
    assert isinstance(events[-1], EndEvent)
    return [event.best for event in events if isinstance(event, ValidEvent)], events[-1].best_step


@pytest.mark.parametrize(
    ("ripe", "flags", "best"), [(0, [1, 0, 0, 0], 1), (3, [0, 0, 1, 1], 4), (4, [0, 0, 0, 1], 4), (9, [0, 0, 0, 0], 4)]
)
def test_weights_that_may_not_be_kept_yet_are_not_the_best(ripe, flags, best):
    assert judged(Watching(ripe), [0.9, 0.8, 0.3, 0.5]) == ([bool(flag) for flag in flags], best)


def test_patience_waits_for_weights_that_may_be_kept():
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert judged(Watching(), scores, patience=2) == ([True, False, False], 1)
    assert judged(Watching(4), scores, patience=2) == ([False, False, False, True, False, False], 4)


def test_what_sets_weights_is_not_averaged():
    part = Watching()
    part.sets = True
    made = around(part, Pick("ema"))
    with pytest.raises(OptionsError, match=r"watching sets weights to zero(.|\n)*averages which ema keeps"):
        made.check(tiny_net(), frozenset(), made._task)

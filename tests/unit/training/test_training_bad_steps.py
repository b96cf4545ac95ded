"""Updates that are not finite or explode: stopped, left out or gone back from, as asked, and said."""

import numpy as np
import pytest
import torch
from tiny_net import tiny_net, tiny_objective

from regraft.errors import GateError
from regraft.options import build
from regraft.training.events import EndEvent, NoteEvent, StepEvent
from regraft.training.loop import train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions


class Spoilt:
    """An objective whose loss is multiplied at some updates, counted from 0."""

    def __init__(self, spoilt, by):
        self._inner, self._spoilt, self._by, self._asked = tiny_objective(), set(spoilt), by, -1

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def batches(self, *given):
        for made in self._inner.batches(*given):
            self._asked += 1
            yield made

    def loss(self, net, batch):
        part, logs = self._inner.loss(net, batch)
        return (part._replace(total=part.total * self._by), logs) if self._asked in self._spoilt else (part, logs)


def fit(spoilt, by=float("nan"), watch=lambda net, event: None, **values):
    net = tiny_net(dropout=0.3)
    given = {"epochs": 5, "max_steps": 16, "batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, **values}
    events = []
    for event in train(net, Spoilt(spoilt, by), Full(FullOptions()), build(TrainOptions, given), seed=3):
        events.append(event)
        watch(net, event)
    return net, events


def weights(net):
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def test_stop_is_what_happens_if_nothing_is_said():
    with pytest.raises(GateError, match="the loss is not a finite number"):
        fit([4])


@pytest.mark.parametrize("by", [float("nan"), float("inf")])
def test_a_skipped_update_changes_nothing_and_is_counted(by):
    path = {}
    net, events = fit([4, 9], by, lambda net, event: path.setdefault(event.step, weights(net)), bad_steps={"policy": "skip"})
    assert all(torch.equal(path[5][name], path[4][name]) for name in path[4])
    assert not all(torch.equal(path[6][name], path[5][name]) for name in path[4])
    assert [event.step for event in events if isinstance(event, StepEvent)] == [n for n in range(1, 17) if n not in (5, 10)]
    notes = [event for event in events if isinstance(event, NoteEvent)]
    assert [note.level for note in notes] == ["warning"] * 2
    assert notes[0].text.startswith("step 5 of 16, training rows")
    assert notes[0].text.endswith(f"the loss is not a finite number ({by}); the update was left out")
    assert isinstance(events[-1], EndEvent)
    assert events[-1].left_out == 2


def test_running_statistics_forget_a_bad_forward_pass():
    path = {}

    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, values):
            if self.training:
                self.seen += 1
            return values

    net = tiny_net()
    net.backbone.mix.append(Normed())
    options = {"epochs": 5, "max_steps": 6, "batch_size": 8, "bad_steps": {"policy": "skip"}}
    for event in train(net, Spoilt([2], float("nan")), Full(FullOptions()), build(TrainOptions, options), seed=3):
        path[event.step] = float(net.backbone.mix[-1].seen)
    assert path == {0: 0.0, 1: 1.0, 2: 2.0, 3: 2.0, 4: 3.0, 5: 4.0, 6: 5.0}


def test_roll_back_puts_weights_and_moments_back_and_lowers_the_rate():
    path, rates = {}, {}

    def watch(net, event):
        path[event.step] = weights(net)
        if isinstance(event, StepEvent):
            rates[event.step] = event.learning_rate

    policy = {"policy": {"name": "roll-back", "every": 3, "lower": 0.25}}
    _, events = fit([5], float("nan"), watch, schedule="constant", warmup_share=0.0, bad_steps=policy)
    # States are held after steps 1 and 4; the sixth update is bad.
    assert all(torch.equal(path[6][name], path[4][name]) for name in path[4])
    assert rates[5] == pytest.approx(1e-2)
    assert rates[7] == pytest.approx(0.25e-2)
    (note,) = [event for event in events if isinstance(event, NoteEvent)]
    assert note.text.endswith("weights and optimiser are those after step 4 again, learning rates are 0.25 of what they were")


def test_after_the_limit_training_stops_with_the_diagnosis():
    with pytest.raises(GateError) as stopped:
        fit([2, 4, 6], bad_steps={"policy": "skip", "limit": 2})
    said = str(stopped.value)
    assert "2 bad updates before it were borne, and more are not (train.bad_steps.limit)" in said
    assert "step 7 of 16, training rows" in said


def test_an_exploding_gradient_is_told_from_the_unrest_of_the_beginning():
    _, events = fit([1, 12], 1e6, bad_steps={"policy": "skip", "exploding": 100.0})
    notes = [event for event in events if isinstance(event, NoteEvent)]
    assert [note.step for note in notes] == [13]  # the second update is too early to tell
    assert "the gradient is far longer than those before it (a norm of" in notes[0].text


def test_the_row_that_explodes_is_named():
    class Loud(Spoilt):
        """One row is a million times as loud, from the ninth update on."""

        def loss(self, net, batch):
            part, logs = self._inner.loss(net, batch)
            places = [place for place, row in enumerate(batch.rows_B) if row == 7 and self._asked >= 8]
            if places:
                alone, _ = self._inner.loss(net, self._inner.part(batch, np.array(places)))
                part = part._replace(total=part.total + 1e6 * alone.total)
            return part, logs

    options = build(TrainOptions, {"epochs": 9, "batch_size": 10, "bad_steps": {"exploding": 50.0}})
    with pytest.raises(GateError) as stopped:
        list(train(tiny_net(), Loud([], 1.0), Full(FullOptions()), options, seed=3))
    said = str(stopped.value)
    assert "training row 7 alone (counted from 0), whose gradient has a norm of" in said
    assert "the gradient is far longer than those before it" in said
    assert "raise train.bad_steps.exploding" in said

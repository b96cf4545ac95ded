"""What every task must do, whatever it predicts. Each check takes a registered name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from assembly import assemble, check_error, check_options_class, fit, flat, scratch_bases, task_example

from regraft.errors import DataError, RegraftError
from regraft.evaluation import ANSWERS, METRICS
from regraft.evaluation.answer_kind import fitting_names, kind_for
from regraft.evaluation.options import JudgeOptions
from regraft.modalities import MODALITIES
from regraft.models.fused import load_backbone
from regraft.models.net import BACKBONE_FOLDER, WEIGHTS_FILE, Headed, load_outside, save_net
from regraft.options import build, to_json
from regraft.tasks import TASKS
from regraft.types import Features, Ledger

WIDTH = 6


def features(batch: int, positions: int, padding: int = 0, seed: int = 0) -> Features:
    """Random features; what stands at padded positions must play no part."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(batch, positions, WIDTH, generator=generator)
    rubbish = 1e3 * torch.randn(batch, padding, WIDTH, generator=generator)
    mask = (torch.arange(positions + padding) < positions).repeat(batch, 1)
    return Features(sequence_BTD=torch.cat([real, rubbish], dim=1), mask_BT=mask, pooled_BD=real.mean(1))


def check_it_declares_itself(name):
    cls = TASKS.get(name)
    assert cls.name
    assert cls.needs
    assert cls.answers in ANSWERS
    able = fitting_names(METRICS, cls.answers)
    assert set(cls.metrics) <= set(able), "metrics are registered names, and for such answers"
    assert cls.validation_metric in able
    assert METRICS.get(cls.validation_metric).higher_is_better is not None
    check_options_class(cls.Options)


def check_the_example_is_a_function_of_its_seed(name):
    cls = TASKS.get(name)
    signal, values = cls.example(33, 1)
    again, same = cls.example(33, 1)
    other, _ = cls.example(33, 2)
    assert signal.shape[0] == len(values) == 33
    assert signal.ndim == 2
    assert np.array_equal(signal, again)
    assert values == same
    assert not np.array_equal(signal, other)
    assert ((signal >= 0) & (signal <= 1)).all()


def check_state_survives_json(name):
    task, _, values = task_example(name)
    options = build(type(task).Options, json.loads(json.dumps(to_json(task.options))))
    again = type(task).restore(options, json.loads(json.dumps(task.state(), allow_nan=False)))
    assert again.state() == task.state()
    assert again.names == task.names
    assert np.array_equal(again.targets(values), task.targets(values), equal_nan=True)
    head, same = (made.head(WIDTH, 0.0, seed=4).eval() for made in (task, again))
    with torch.no_grad():
        outputs = [made(features(5, 3)).numpy() for made in (head, same)]
    assert outputs[0].tobytes() == outputs[1].tobytes()
    assert again.decode(outputs[0]) == task.decode(outputs[0])


def check_odd_and_single_shapes(name):
    task, _, values = task_example(name)
    head = task.head(WIDTH, 0.1, seed=0).eval()
    for batch, positions in ((1, 1), (1, 7), (3, 1), (17, 5)):
        output = head(features(batch, positions))
        loss = task.loss(output, torch.from_numpy(task.targets(values[:batch])))
        assert loss.total.shape == loss.weight.shape == ()
        assert torch.isfinite(loss.total)
        assert loss.weight > 0
        numbers = output.detach().numpy()
        assert len(numbers) == batch
        assert np.isfinite(task.probabilities(numbers)).all()
        predictions = task.decode(numbers)
        assert len(predictions) == batch
        json.dumps([prediction.to_json() for prediction in predictions], allow_nan=False)
    assert task.decode(numbers[:0]) == []


def check_answers_of_a_row_do_not_depend_on_its_batch(name):
    task, _, _ = task_example(name)
    head = task.head(WIDTH, 0.0, seed=0).eval()
    numbers = head(features(9, 4)).detach().numpy()
    together = task.decode(numbers)
    assert together == [task.decode(numbers[i : i + 1])[0] for i in range(9)]
    assert [p.value for p in together] == [p.value for p in task.decode(numbers[::-1].copy())][::-1]


def check_padding_changes_nothing_in_the_head(name):
    task, _, _ = task_example(name)
    head = task.head(WIDTH, 0.0, seed=0).eval()
    plain, padded = head(features(3, 4)), head(features(3, 4, padding=5))
    inside = padded[tuple(slice(size) for size in plain.shape)]
    assert torch.allclose(plain, inside, atol=1e-6)


def check_answers_agree_with_what_is_judged(name):
    """What is decided for people, what metrics decide, and the rules of the gates are of one piece."""
    task, _, values = task_example(name)
    numbers = 3 * task.head(WIDTH, 0.0, seed=0)(features(24, 3)).detach().numpy()
    predictions, judged = task.decode(numbers), task.probabilities(numbers)
    kind = kind_for(task)
    for prediction in predictions:
        assert tuple(prediction.numbers) == task.answer_columns
        assert not task.target_problem(json.loads(json.dumps(prediction.value))), "an answer can be a target"
        assert task.same_answer(prediction, prediction, 0.0)
        assert task.alike(prediction.value, prediction.value)
        assert task.cost(prediction.value, prediction.value) == 0.0
    own, judged = kind.checked(task.targets([prediction.value for prediction in predictions]), judged)
    for name, measure in kind.measures(task.metrics).items():
        if measure.higher_is_better is False and name in {"mae", "rmse", "rank-mae"}:
            assert measure.value(own, judged) == pytest.approx(0.0, abs=1e-9), "answers are their own truth"
        if "accuracy" in name:
            assert measure.value(own, judged) == 1.0
    far = [prediction for prediction in predictions if not task.same_answer(predictions[0], prediction, 1e-6)]
    assert far, "answers that are far apart are told apart"
    some = task.targets(values)
    assert len(kind.groups(some)) == len(values)
    assert len(kind.group_names(some)) == len(values)


def check_losses_of_parts_add_up(name):
    task, _, values = task_example(name)
    output = task.head(WIDTH, 0.0, seed=0)(features(12, 4)).detach().double()
    targets = torch.from_numpy(task.targets(values[:12]))
    whole, scales = task.loss(output, targets), task.scales(targets.numpy())
    cuts = (slice(0, 1), slice(1, 6), slice(6, 12))
    parts = [task.scaled_loss(output[cut], targets[cut], scales) for cut in cuts]
    assert float(task.weight(targets.numpy())) == pytest.approx(float(whole.weight), rel=1e-6)
    assert sum(float(part.total) for part in parts) == pytest.approx(float(whole.total), rel=1e-6)
    assert sum(float(part.weight) for part in parts) == pytest.approx(float(whole.weight), rel=1e-6)


def check_targets_are_judged(name):
    task, _, values = task_example(name)
    assert {task.target_problem(value) for value in values} == {""}
    assert task.targets([]).shape[0] == 0
    strange = {"no": ["such", "target"]}
    assert task.target_problem(strange)
    with pytest.raises(DataError) as caught:
        task.targets([*values[:2], strange])
    check_error(caught.value)


def check_nothing_to_learn_from_is_an_error(name):
    task = TASKS.get(name)(TASKS.get(name).Options())
    for values in ([], [{"no": "target"}, {"no": "target"}]):
        with pytest.raises(RegraftError) as caught:
            task.learn(values, Ledger())
        check_error(caught.value)


def check_outputs_of_several_heads_can_be_mixed(name):
    task, _, _ = task_example(name)
    outputs = torch.stack([3 * task.head(WIDTH, 0.0, seed=seed)(features(7, 3, seed=seed)).detach() for seed in range(3)])
    parts = np.stack([task.probabilities(output.numpy()) for output in outputs])
    for place in range(3):
        alone = torch.zeros(7, 3)
        alone[:, place] = 1.0
        np.testing.assert_allclose(task.probabilities(task.mixed(outputs, alone).numpy()), parts[place], atol=1e-5)
    mixed = task.probabilities(task.mixed(outputs, torch.tensor([[0.5, 0.3, 0.2]]).expand(7, 3)).numpy())
    assert (mixed <= parts.max(axis=0) + 1e-5).all()
    assert (mixed >= parts.min(axis=0) - 1e-5).all()


def check_heads_are_drawn_from_their_seed(name):
    task, _, _ = task_example(name)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two, three = (flat(task.head(WIDTH, 0.1, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def check_same_seed_same_bytes(name):
    made = [assemble(name, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(flat(made[0].net), flat(made[1].net))
    assert not torch.equal(flat(made[0].net), flat(made[2].net))
    for one in made[:2]:
        fit(one, steps=5, seed=9)
    assert torch.equal(flat(made[0].net), flat(made[1].net))
    assert not torch.equal(flat(made[0].net), flat(assemble(name, seed=3).net))


def check_save_and_load_are_bit_equal(name, folder):
    made = assemble(name)
    fit(made, steps=3)
    save_net(made.net, folder)
    made.modality.save(folder / BACKBONE_FOLDER)
    facts = json.loads(
        json.dumps(
            {
                "modality": made.modality.spec(),
                "backbone": made.net.backbone.spec(),
                "task": made.task.state(),
                "options": to_json(made.task.options),
            },
            allow_nan=False,
        )
    )
    task = type(made.task).restore(build(type(made.task).Options, facts["options"]), facts["task"])
    modality = type(made.modality).load(folder / BACKBONE_FOLDER, facts["modality"])
    backbone = load_backbone(folder / BACKBONE_FOLDER, facts["backbone"])
    net = Headed(backbone, backbone.head(task, 0.0))
    load_outside(net, folder / WEIGHTS_FILE)
    before = made.outputs(made.raws[:7])
    made.net, made.modality = net, modality
    after = made.outputs(made.raws[:7])
    assert before.tobytes() == after.tobytes()
    assert task.decode(before) == made.task.decode(after)


def check_prediction_works_without_targets_and_whatever_the_padding(name):
    for base in scratch_bases():
        made = assemble(name, base, n=24)
        by_length = sorted(made.raws[:9], key=lambda raw: len(str(raw)))
        alone, together = made.outputs(by_length, batch_size=1), made.outputs(by_length, batch_size=9)
        np.testing.assert_allclose(alone, together, atol=1e-5, err_msg=base)
        assert len(made.task.decode(together)) == 9


def check_it_beats_the_trivial_baseline(name):
    made = assemble(name)
    fit(made, steps=40)
    signal, values = TASKS.get(name).example(60, 1)
    raws = MODALITIES.get(made.modality.name).example(signal, 1)
    output = made.outputs(raws)
    learnt = mean_loss(made.task, output, values)
    blind = mean_loss(made.task, constant_output(made, len(values)), values)
    assert learnt < 0.8 * blind, f"loss {learnt:.3f}, of the best constant answer {blind:.3f}"
    task = made.task
    kind = kind_for(task)
    constant = np.tile(kind.constant(task.targets(made.values)), (len(values), 1))
    targets, judged = kind.checked(task.targets(values), task.probabilities(output))
    verdict = kind.compare(targets, (constant, judged), ("constant", "learnt"), options=JudgeOptions(resamples=500))
    assert verdict.verdict == "better", verdict.sentence()
    answers = [prediction.value for prediction in task.decode(output)]
    cost = mean_cost(task, values, answers)
    best = min(mean_cost(task, values, [value] * len(values)) for value in made.values)
    assert cost < 0.8 * best, f"answers cost {cost:.3f}, of the best one that is the same for every row {best:.3f}"


def mean_cost(task, values, answers):
    return np.mean([task.cost(value, answer) for value, answer in zip(values, answers, strict=True)])


def mean_loss(task, output, values):
    loss = task.loss(torch.from_numpy(output), torch.from_numpy(task.targets(values)))
    return float(loss.total / loss.weight)


def constant_output(made, n):
    """The output that fits the training targets best without looking at a row."""
    output = torch.zeros(1, *made.outputs(made.raws[:2]).shape[1:], requires_grad=True)
    targets = torch.from_numpy(made.task.targets(made.values))
    descent = torch.optim.LBFGS([output], max_iter=50)

    def closure():
        descent.zero_grad()
        loss = made.task.loss(output.expand(len(targets), *output.shape[1:]), targets)
        mean = loss.total / loss.weight
        mean.backward()
        return mean

    descent.step(closure)
    return output.detach().expand(n, *output.shape[1:]).numpy()


CHECKS = (
    check_it_declares_itself,
    check_the_example_is_a_function_of_its_seed,
    check_state_survives_json,
    check_odd_and_single_shapes,
    check_answers_of_a_row_do_not_depend_on_its_batch,
    check_padding_changes_nothing_in_the_head,
    check_answers_agree_with_what_is_judged,
    check_losses_of_parts_add_up,
    check_targets_are_judged,
    check_nothing_to_learn_from_is_an_error,
    check_outputs_of_several_heads_can_be_mixed,
    check_heads_are_drawn_from_their_seed,
    check_same_seed_same_bytes,
    check_prediction_works_without_targets_and_whatever_the_padding,
    check_it_beats_the_trivial_baseline,
)

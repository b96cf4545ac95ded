"""What every task must do whose targets say which rows belong together. Each check takes a registered name."""

from __future__ import annotations

import json

import numpy as np
import torch
from assembly import Assembly, check_error, fit, flat, task_example, tiny_base
from suite_tasks import (
    check_it_declares_itself,
    check_nothing_to_learn_from_is_an_error,
    check_targets_are_judged,
    check_the_example_is_a_function_of_its_seed,
)

from regraft.errors import RegraftError
from regraft.evaluation.answer_kind import kind_of
from regraft.evaluation.options import JudgeOptions
from regraft.modalities import MODALITIES
from regraft.models.fused import load_backbone
from regraft.models.net import BACKBONE_FOLDER, WEIGHTS_FILE, Headed, load_outside, save_net
from regraft.options import build, to_json
from regraft.tasks import TASKS


def paired(name, seed=0, n=96):
    """Return a tiny network of two parts for the task's own example."""
    task, signal, values = task_example(name, n)
    base = tiny_base(f"fusion/{task.parts_style}", layers=2)
    raws = MODALITIES.get(base.modality_name).example(signal, 0)
    modality = base.modality({}, lambda: iter([raws]))
    task.joins(modality.part_names)
    backbone = base.backbone(modality, seed)
    assert task.needs <= backbone.provides
    return Assembly(task, modality, Headed(backbone, backbone.head(task, 0.0, seed)), raws, values)


def check_it_wants_parts(name):
    task, _, _ = task_example(name)
    for parts in ((), ("one",), ("one", "two", "three")):
        try:
            task.joins(parts)
        except RegraftError as error:
            check_error(error)
        else:
            raise AssertionError("a row of other parts was accepted")


def check_state_survives_json(name):
    made = paired(name)
    options = build(type(made.task).Options, json.loads(json.dumps(to_json(made.task.options))))
    again = type(made.task).restore(options, json.loads(json.dumps(made.task.state(), allow_nan=False)))
    assert (again.state(), again.names) == (made.task.state(), made.task.names)
    assert np.array_equal(again.targets(made.values), made.task.targets(made.values))
    outputs = made.outputs(made.raws[:5])
    assert again.decode(outputs) == made.task.decode(outputs)


def check_answers_of_a_row_do_not_depend_on_its_batch(name):
    made = paired(name)
    outputs = made.outputs(made.raws[:9])
    together = made.task.decode(outputs)
    assert together == [made.task.decode(outputs[row : row + 1])[0] for row in range(9)]
    assert all(tuple(one.numbers) == made.task.answer_columns for one in together)
    assert all(made.task.same_answer(one, one, 0.0) and made.task.alike(one.value, one.value) for one in together)
    assert [one for one in together if not made.task.same_answer(together[0], one, 1e-6)]
    json.dumps([one.to_json() for one in together], allow_nan=False)
    assert made.task.decode(outputs[:0]) == []
    np.testing.assert_allclose(made.outputs(made.raws[:9], batch_size=1), outputs, atol=1e-5)


def check_same_seed_same_bytes(name):
    made = [paired(name, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(flat(made[0].net), flat(made[1].net))
    assert not torch.equal(flat(made[0].net), flat(made[2].net))
    for one in made[:2]:
        fit(one, steps=5, seed=9)
    assert torch.equal(flat(made[0].net), flat(made[1].net))


def check_it_beats_chance(name):
    made = paired(name)
    fit(made, steps=40)
    signal, values = TASKS.get(name).example(60, 1)
    raws = MODALITIES.get(made.modality.name).example(signal, 1)
    task = made.task
    kind, targets = kind_of(task.answers, task.names), task.targets(values)
    constant = np.tile(kind.constant(targets), (len(values), 1))
    learnt = kind.checked(targets, task.probabilities(made.outputs(raws)))[1]
    measure = kind.measures([task.validation_metric])[task.validation_metric]
    assert measure.value(targets, learnt) > 1.5 * measure.value(targets, constant)
    for outputs in (constant, learnt):
        kind.judge(task.metrics, *kind.checked(targets, outputs), options=JudgeOptions(resamples=100))


def check_save_and_load_are_bit_equal(name, folder):
    made = paired(name)
    fit(made, steps=3)
    save_net(made.net, folder)
    made.modality.save(folder / BACKBONE_FOLDER)
    facts = json.loads(json.dumps({"modality": made.modality.spec(), "backbone": made.net.backbone.spec()}, allow_nan=False))
    backbone = load_backbone(folder / BACKBONE_FOLDER, facts["backbone"])
    net = Headed(backbone, backbone.head(made.task, 0.0))
    load_outside(net, folder / WEIGHTS_FILE)
    before = made.outputs(made.raws[:7])
    made.net, made.modality = net, type(made.modality).load(folder / BACKBONE_FOLDER, facts["modality"])
    assert before.tobytes() == made.outputs(made.raws[:7]).tobytes()


CHECKS = (
    check_it_declares_itself,
    check_the_example_is_a_function_of_its_seed,
    check_targets_are_judged,
    check_nothing_to_learn_from_is_an_error,
    check_it_wants_parts,
    check_state_survives_json,
    check_answers_of_a_row_do_not_depend_on_its_batch,
    check_same_seed_same_bytes,
    check_it_beats_chance,
)

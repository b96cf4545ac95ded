"""A calibrator in the weights of the last layer answers as the calibrator beside them, and gates know how far moves may grow."""

import dataclasses

import numpy as np
import pytest
from export_making import ROWS, batch_of, make_source, make_task

from regraft.artifact.golden import TOLERANCE, record
from regraft.calibration.isotonic import Isotonic
from regraft.calibration.temperature import Temperature
from regraft.calibration.trust import Trust
from regraft.calibration.vector import Vector
from regraft.exporters.calibrated_head import changes, in_the_head
from regraft.serving.parity import PROBABILITIES, Tolerance
from regraft.serving.runtime_torch import TorchRuntime

VECTOR = Vector(np.array([0.5, 2.0, 1.5]), np.array([0.3, -0.2, -0.1]))
COOL = Temperature(np.array([0.25]))
CURVE = Isotonic([(np.array([-1.0, 1.0]), np.array([-0.5, 2.5]))] * 3)


def source_with(calibrator):
    source = make_source()
    source.task.trust = Trust(calibrator=calibrator, rows=7)
    return source


@pytest.mark.parametrize("calibrator", [VECTOR, COOL])
def test_probabilities_are_the_same_and_the_source_is_not_touched(calibrator):
    source = source_with(calibrator)
    batch = batch_of(source, ROWS)
    before = TorchRuntime(source.net).outputs(batch)
    net, task = in_the_head(source.net, source.task, bias=True)
    after = TorchRuntime(net).outputs(batch)
    np.testing.assert_allclose(task.probabilities(after), source.task.probabilities(before), atol=1e-6)
    assert np.abs(after - before).max() > 0.1
    assert not changes(task)
    assert task.trust.rows == 7, "what else is known stays"
    assert changes(source.task)
    np.testing.assert_array_equal(TorchRuntime(source.net).outputs(batch), before)


def test_what_cannot_stand_in_weights_stays_beside_them():
    for calibrator, bias in ((CURVE, True), (VECTOR, False)):
        source = source_with(calibrator)
        assert in_the_head(source.net, source.task, bias=bias) is None
    cool = source_with(COOL)
    assert in_the_head(cool.net, cool.task, bias=False) is not None, "a factor needs no summand"


def test_gates_let_probabilities_move_as_far_as_calibrating_lets_moves_grow():
    assert Tolerance.of("fp32").probabilities == PROBABILITIES
    assert Tolerance.of("fp32", COOL.steepness).probabilities == pytest.approx(4 * PROBABILITIES)
    assert Tolerance.of("fp32", COOL.steepness).logits == Tolerance.of("fp32").logits, "the network itself has no more room"
    task = make_task()
    assert task.steepness == 1.0
    task.trust = Trust(calibrator=CURVE)
    assert task.steepness == pytest.approx(3.0)


class Answering:
    def answers(self, rows, *, batch_size=32):
        task = make_task()
        outputs = np.zeros((len(rows), 3), dtype=np.float32)
        return outputs, task.decode(outputs)

    def environment(self):
        return {}


def test_golden_rows_know_it_too():
    assert record(Answering(), ["a"]).tolerance == TOLERANCE
    steep = record(Answering(), ["a"], steepness=4.0)
    assert steep.tolerance == pytest.approx(4 * TOLERANCE)
    assert type(steep).from_json(steep.to_json()) == steep


def test_vector_scaling_puts_one_number_on_every_class():
    plain = dataclasses.replace(Trust(), calibrator=VECTOR)
    assert plain.calibrator.scale_and_bias(3)[0].tolist() == [0.5, 2.0, 1.5]
    assert COOL.scale_and_bias(3)[0].tolist() == [4.0, 4.0, 4.0]
    assert CURVE.scale_and_bias(3) is None

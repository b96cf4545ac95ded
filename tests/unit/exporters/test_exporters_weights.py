from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regraft.exporters.weights import weight_faults

WHERE = Path("model.onnx")
RNG = np.random.default_rng(0)
TABLE, MATRIX, BIAS = (RNG.normal(size=shape).astype(np.float32) for shape in ((50, 4), (4, 6), (6,)))
SOURCE = {"table": TABLE, "matrix": MATRIX, "bias": BIAS}


def faults(found: dict) -> list[str]:
    return [str(problem) for problem in weight_faults(SOURCE, list(found.items()), WHERE, {"table"})]


@pytest.mark.parametrize(
    "other", [{"a": MATRIX}, {"a": MATRIX.T}, {"a": MATRIX.reshape(2, 12)}, {"a": np.ascontiguousarray(MATRIX.T)[None]}]
)
def test_any_name_layout_and_shape_is_the_source_s(other):
    assert faults({"t": TABLE, **other, "c": BIAS[None]}) == []


def test_one_number_of_a_table_is_found_under_any_name():
    wrong = TABLE.copy()
    wrong[49, 3] = np.nextafter(wrong[49, 3], np.float32(9))
    (problem,) = faults({"anything": wrong, "matrix": MATRIX, "bias": BIAS})
    assert "the weight 'table' in the exported file is not the source's" in problem
    assert "1 of 200 numbers are others" in problem
    assert "bit for bit" in problem


def test_a_changed_matrix_is_found_in_its_other_layout():
    wrong = np.ascontiguousarray(MATRIX.T)
    wrong[0, 0] += 1
    assert "'matrix'" in faults({"x": TABLE, "y": wrong, "z": BIAS})[0]


def test_a_scaled_tensor_of_the_same_name_is_found():
    assert "6 of 6 numbers are others" in faults({"table": TABLE, "matrix": MATRIX, "bias": BIAS * 2})[0]


def test_what_was_folded_away_is_left_to_the_answers_but_not_a_table():
    assert faults({"table": TABLE, "folded": MATRIX * 0.5}) == []
    assert "no such tensor" in faults({"matrix": MATRIX, "bias": BIAS})[0]
    assert "no such tensor" in faults({"matrix": MATRIX, "bias": BIAS, "half": TABLE[:25]})[0]


def test_another_type_of_number_is_not_the_source_s():
    assert "'table'" in faults({"table": TABLE.astype(np.float16), "matrix": MATRIX, "bias": BIAS})[0]


def test_whole_numbers_and_empty_tensors_are_not_weights():
    source = {"ids": np.arange(4), "none": np.zeros(0, np.float32)}
    assert weight_faults(source, [], WHERE, set()) == []

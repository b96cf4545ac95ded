import numpy as np

from regraft.types import Batch, Encoded, Ledger, Metric, Prediction


def test_shapes_are_read_off_the_arrays():
    encoded = Encoded(inputs={"ids": np.arange(3)}, spans_T2=np.zeros((3, 2)))
    assert encoded.length == 3
    assert Batch(inputs={}, mask_BT=np.ones((4, 2), bool)).size == 4


def test_prediction_as_json():
    right = Prediction(value=True, probabilities={"false": 0.25, "true": 0.75})
    assert right.label is True
    assert right.to_json() == {"prediction": True, "probabilities": {"false": 0.25, "true": 0.75}}
    assert Prediction(value=None, error="no text").to_json() == {"prediction": None, "error": "no text"}


def test_metric_reads_with_its_interval():
    assert str(Metric(0.5, 0.4, 0.6, 100)) == "0.500 [0.400, 0.600]"
    assert Metric(0.5, 0.4, 0.6, 100).to_json() == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}


def test_ledger_adds_up_and_keeps_three_places():
    ledger = Ledger()
    for row in range(5):
        ledger.add("rows without a label", where=f"row {row}")
    other = Ledger()
    other.add("rows without a label", 2, "elsewhere")
    other.add("truncated tokens", 10)
    ledger.include(other)
    assert ledger.to_json() == {
        "rows without a label": {"count": 7, "examples": ["row 0", "row 1", "row 2"]},
        "truncated tokens": {"count": 10, "examples": []},
    }

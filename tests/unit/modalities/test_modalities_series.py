"""Series as arrays: every raw form, gaps, times, scales, lengths; against numpy and pandas done by hand."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from regraft.errors import ArtifactError, DataError
from regraft.modalities import MODALITIES, measurements
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.series import STATE_FILE, Series, SeriesOptions, State, learnt

NAN = float("nan")


def series(channels=1, *, mask=False, window=None, state=None, **options):
    wanted = SeriesOptions(**{"scaling": "none", **options})
    return Series(wanted, state or State(channels=channels, mask=mask), window=window)


def values_of(modality, raw):
    return modality.encode([raw])[0].inputs["values"]


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ONE = [1.0, 2.5, -3.0]
TWO = [[1, 10], [2.5, 20], [-3, 30]]


@pytest.mark.parametrize(
    "raw",
    [ONE, tuple(ONE), np.array(ONE), np.array(ONE, np.float32), np.array(ONE, object), npy(np.array(ONE)), "[1.0, 2.5, -3]"],
)
def test_every_form_of_one_channel(raw):
    assert values_of(series(), raw).tolist() == [[1.0], [2.5], [-3.0]]


@pytest.mark.parametrize(
    "raw", [TWO, np.array(TWO), npy(np.array(TWO)), json.dumps(TWO), [np.array(step) for step in TWO], {"values": TWO}]
)
def test_every_form_of_two_channels(raw):
    row = series(2).encode([raw])[0]
    assert row.inputs["values"].dtype == np.float32
    assert row.inputs["values"].tolist() == TWO
    assert row.spans_T2.tolist() == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "a series is expected, such as [1.0, 2.5], got NoneType"),
        (3.5, "a series is expected, such as [1.0, 2.5], got float (3.5)"),
        ("hello", "the text is no series in JSON, such as [1.0, null, 2.5]: 'hello'"),
        ("[" * 100_000, "the text is no series in JSON"),
        (b"hello", "the bytes are no array in the .npy format"),
        (npy(np.array(ONE))[:-3], "the array in the .npy format is damaged"),
        ([], "the series is empty"),
        ([[], []], "the series is empty"),
        ([None, NAN], "every value of the series is missing"),
        ([[None, NAN], None], "every value of the series is missing"),
        ([1.0, float("inf")], "the series holds an infinite number, at step 2"),
        ("[1, Infinity]", "the series holds an infinite number, at step 2"),
        ([1.0, 2e30], "the series holds a number beyond 1e+30, at step 2"),
        ([1, 10**400], "a series holds numbers: int too large"),
        ([1.0, "x"], "a series holds numbers, got str ('x')"),
        ([1.0, {}], "a series holds numbers"),
        ([[1, 2], [3]], "the series is ragged: step 2 has 1 numbers, step 1 has 2"),
        ([[1, 2], 3], "the series mixes numbers and lists: step 2 is 3"),
        ([[[1]]], "a series has steps and channels, got lists inside the steps"),
        (np.zeros((2, 2, 2)), "a series has steps and perhaps channels, got an array of 3 axes"),
        (np.array(["a"]), "a series holds numbers, got an array of <U1"),
        ({"value": ONE}, 'a series as an object has "values" and perhaps "times", got \'value\''),
        ({"values": ONE, "times": [1, 2]}, "a series has one time a step, got 2 times and 3 steps"),
        ({"values": ONE, "times": [1, 2, 2]}, "the times of a series increase, got 2 at step 3 after 2"),
        ({"values": ONE, "times": [1, 2, None]}, "a time of the series is missing or infinite"),
        ({"values": ONE, "times": ["a", "b", "c"]}, "the times of a series are numbers or dates"),
        (TWO, "a series of 1 channel is expected, got 2 channels"),
    ],
)
def test_says_why_a_value_cannot_be_read(raw, said):
    modality = series()
    assert modality.problem(raw).startswith(said)
    with pytest.raises(DataError, match="a series cannot be used"):
        modality.encode([ONE, raw])


def test_no_object_is_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    assert "damaged" in measurements.unreadable(file.getvalue())


@pytest.mark.parametrize("fill", ["linear", "last"])
def test_gaps_are_filled_as_pandas_fills_them(fill):
    rng = np.random.default_rng(0)
    values = np.where(rng.random((50, 3)) < 0.4, NAN, rng.standard_normal((50, 3)))
    frame = pd.DataFrame(values)
    filled = frame.interpolate().bfill() if fill == "linear" else frame.ffill().bfill()
    found = values_of(series(3, mask=True, fill=fill), values)
    np.testing.assert_allclose(found[:, :3], filled, rtol=1e-6)
    assert np.array_equal(found[:, 3:], ~np.isnan(values))


def test_zero_fills_with_the_mean_of_what_is_there_and_a_missing_channel_is_zeros():
    raw = [[1.0, None], [None, None], [3.0, None]]
    found = values_of(series(2, mask=True, fill="zero", scaling="row"), raw)
    np.testing.assert_allclose(found, [[-1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]])


def test_row_scaling_is_that_of_numpy_and_a_constant_channel_is_zeros():
    values = np.random.default_rng(1).normal(5e6, 1e-3, (40, 2))
    values[:, 1] = 1e9
    found = values_of(series(2, scaling="row"), values)
    np.testing.assert_allclose(found[:, 0], (values[:, 0] - values[:, 0].mean()) / values[:, 0].std(), atol=1e-5)
    assert not found[:, 1].any()


def test_training_scaling_is_that_of_all_rows_together():
    rng = np.random.default_rng(2)
    rows = [np.where(rng.random((n, 2)) < 0.2, NAN, rng.normal([3, -1e5], [2, 10], (n, 2))) for n in (3, 50, 7, 1, 20)]
    state = learnt(SeriesOptions(scaling="train"), [rows[:2], rows[2:]])
    together = np.concatenate(rows)
    np.testing.assert_allclose(state.mean, np.nanmean(together, axis=0))
    np.testing.assert_allclose(state.deviation, np.nanstd(together, axis=0))
    assert (state.channels, state.mask, state.step) == (2, True, None)
    found = values_of(series(state=state, scaling="train"), np.array([[3.0, -1e5], [5.0, -1e5]]))
    np.testing.assert_allclose(found[1, 0] - found[0, 0], 2 / np.nanstd(together[:, 0]), rtol=1e-5)


@pytest.mark.parametrize(("side", "kept"), [("right", [0, 1, 2]), ("left", [2, 3, 4])])
def test_a_longer_series_is_cut_and_counted(side, kept):
    row = series(max_length=3, truncation_side=side).encode([[0.0, 1.0, 2.0, 3.0, 4.0]])[0]
    assert row.inputs["values"][:, 0].tolist() == kept
    assert row.spans_T2.tolist() == [[i, i + 1] for i in kept]
    assert row.dropped == 2


def test_times_are_put_on_an_even_grid():
    raw = {"values": [[0.0, 1.0], [10.0, None], [40.0, 3.0]], "times": [100, 101, 104]}
    row = series(2, mask=True, step=1.0).encode([raw])[0]
    assert row.inputs["values"].tolist() == [[0, 1, 1, 1], [10, 1.5, 1, 0], [20, 2, 0, 0], [30, 2.5, 0, 0], [40, 3, 1, 1]]
    assert row.spans_T2.tolist() == [[0, 1], [1, 2], [0, 0], [0, 0], [2, 3]]


def test_a_grid_is_the_usual_distance_of_the_training_rows_and_dates_are_seconds():
    rows = [{"values": ONE, "times": ["2024-01-01", "2024-01-01T00:10", "2024-01-01T00:20:00"]}]
    state = learnt(SeriesOptions(), [rows])
    assert (state.step, state.mask) == (600.0, True)
    long = {"values": [0.0, 6.0], "times": [0, 3600]}
    assert values_of(series(state=state), long)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert values_of(series(), {"values": [0.0, 1.0, 4.0], "times": [0, 1, 4]})[:, 0].tolist() == pytest.approx(
        [0, 1.5, 3], abs=1
    )


def test_a_century_between_two_times_costs_no_memory():
    row = series(max_length=4, step=1e-6).encode([{"values": [0.0, 1.0], "times": [0, 3e9]}])[0]
    assert row.length == 4
    assert row.dropped > 10**12


def test_rows_of_different_channels_are_refused_before_anything_is_learnt():
    with pytest.raises(DataError) as caught:
        learnt(SeriesOptions(), [[ONE, ONE, TWO]])
    assert "different numbers of channels" in str(caught.value)
    assert "1 in 2 (first in row 1), 2 in 1 (first in row 3)" in str(caught.value)
    with pytest.raises(DataError, match="there is no series to learn from"):
        learnt(SeriesOptions(), [])


def test_batches_are_padded_with_zeros():
    rows = EncodedRows(series(), [[ONE, [7.0]]])
    batch = rows.batch(np.array([1, 0]))
    assert batch.inputs["values"].tolist() == [[[7], [0], [0]], [[1], [2.5], [-3]]]
    assert batch.mask_BT.tolist() == [[True, False, False], [True, True, True]]


def test_a_window_is_one_position_filled_up_on_the_left():
    modality = series(mask=True, window=4)
    rows = EncodedRows(modality, [[[5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0]]])
    assert modality.longest == 1
    assert rows.lengths.tolist() == [1, 1]
    assert rows.dropped == 1
    batch = rows.batch(np.array([0, 1]))
    assert batch.inputs["values"].shape == (2, 4, 2)
    assert batch.inputs["values"][0].tolist() == [[0, 0], [0, 0], [5, 1], [6, 1]]
    assert modality.encode([[5.0, 6.0]])[0].spans_T2.tolist() == [[0, 2]]


def test_json_is_the_same_series_and_a_long_one_is_cut():
    raw = {"values": [[1.0, None], [2.0, 3.0]], "times": [0.5, 1.5]}
    modality = series(2)
    assert json.loads(json.dumps(modality.as_json(raw), allow_nan=False)) == raw
    long = [None] * 5 + list(range(1, 2000))
    short = series().shortened(long, 1000)
    assert short == [float(i) for i in range(1, 51)]
    assert modality.problem(modality.shortened([[None, None]] * 500 + [[1, 2]] * 500, 100)) == ""


def test_saved_and_loaded_it_encodes_the_same(tmp_path):
    modality = series(2, state=learnt(SeriesOptions(), [[TWO, {"values": TWO, "times": [0, 1, 3]}]]), scaling="train", window=8)
    modality.save(tmp_path)
    again = Series.load(tmp_path, json.loads(json.dumps(modality.spec())))
    assert again.state == modality.state
    assert np.array_equal(values_of(again, TWO), values_of(modality, TWO))
    content = json.loads((tmp_path / STATE_FILE).read_text())
    (tmp_path / STATE_FILE).write_text(json.dumps({**content, "deviation": [0.0, 1.0]}))
    with pytest.raises(ArtifactError, match="what was learnt about the series cannot be read"):
        Series.load(tmp_path, modality.spec())


def test_knows_a_column_of_series():
    assert Series.recognises([ONE, TWO, "[1, 2]", {"values": ONE}])
    assert not Series.recognises(["a text", "[another"])
    assert not Series.recognises([1.0, 2.0])
    assert not Series.recognises(["1", "2"])
    assert not Series.recognises([])


def test_an_example_can_be_learnt_back_whatever_scales_it():
    signal = np.random.default_rng(0).random((300, 3))
    modality = series(scaling="row")
    rows = [row.inputs["values"][:, 0] for row in modality.encode(Series.example(signal, 0))]
    first = np.array([row[:12].reshape(3, 4).mean(axis=1) for row in rows])
    spread = np.array([[row.min(), row.max()] for row in rows])
    back = (first - spread[:, :1]) / (spread[:, 1:] - spread[:, :1])
    assert np.abs(back - signal).mean() < 0.05
    three = series(3, state=State(channels=3))
    assert {three.problem(raw) for raw in three.made_up(signal[:5], 0)} == {""}


def test_runs_without_torch():
    code = "import sys; from regraft.modalities.series import Series; assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert MODALITIES.get("series") is Series

"""What the gate of an export calls a difference, against arithmetic by hand; and the fresh process in which it looks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving_making import make_predictor, make_rows

from regraft.artifact.store import Artifact
from regraft.errors import GateError
from regraft.serving import parity
from regraft.serving.parity import Answers, Tolerance, compare_export, difference, said_by
from regraft.tasks.regression import Regression
from regraft.types import Encoded, Ledger

FULL, REDUCED = Tolerance.of("fp32"), Tolerance.of("reduced")
NAMES = ("eggs", "ham", "spam")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def answers(logits: np.ndarray, **changes: object) -> Answers:
    outputs = np.asarray(logits, dtype=np.float32)
    shares = softmax(np.asarray(logits, dtype=np.float64)) if len(outputs) else np.empty((0, 3))
    made = Answers(
        rows=[f"row {i}" for i in range(len(outputs))],
        encoded=[f"{i:032x}" for i in range(len(outputs))],
        outputs=outputs,
        names=list(NAMES),
        probabilities=shares,
        values=[NAMES[i] for i in shares.argmax(axis=1)] if len(outputs) else [],
    )
    return dataclasses.replace(made, **changes)


def refusal(expected: Answers, got: Answers, tolerance: Tolerance = FULL) -> str:
    with pytest.raises(GateError) as caught:
        difference(expected, got, tolerance)
    text = str(caught.value)
    assert "regraft list exporters" in text, "what to do is said"
    return text


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=3.0, size=(40, 3))


def test_equal_answers_pass_and_are_bitwise(logits: np.ndarray):
    found = difference(answers(logits), answers(logits), FULL)
    assert found == {
        "rows": 40,
        "worst_logit": 0.0,
        "worst_probability": 0.0,
        "agreement": 1.0,
        "bitwise": True,
        "tolerance": {"logits": 1e-4, "probabilities": 1e-5, "agreement": 1.0},
    }


def test_moves_are_those_of_numpy(logits: np.ndarray):
    moved = logits + np.random.default_rng(1).uniform(-8e-6, 8e-6, size=logits.shape)
    expected, got = answers(logits), answers(moved)
    found = difference(expected, got, FULL)
    scale = np.maximum(1.0, np.abs(expected.outputs).max(axis=1))
    by_hand = (np.abs(expected.outputs.astype(float) - got.outputs.astype(float)).max(axis=1) / scale).max()
    assert found["worst_logit"] == pytest.approx(by_hand, rel=1e-12)
    assert found["worst_probability"] == pytest.approx(np.abs(expected.probabilities - got.probabilities).max(), rel=1e-12)
    assert found["bitwise"] is False
    assert found["agreement"] == 1.0


@pytest.mark.parametrize(("size", "passes"), [(0.9e-4, True), (1.2e-4, False)])
def test_a_small_raw_output_may_move_by_a_ten_thousandth_and_no_further(size: float, passes: bool):
    """The probabilities are left as they were, so that this is about the raw output alone."""
    expected = answers(np.array([[0.5, 0.2, -0.7], [0.1, 0.3, -0.2]]))
    outputs = expected.outputs.copy()
    outputs[1, 2] += np.float32(size)
    got = dataclasses.replace(expected, outputs=outputs)
    if passes:
        assert difference(expected, got, FULL)["worst_logit"] == pytest.approx(size, rel=1e-3)
    else:
        text = refusal(expected, got)
        assert "a raw output moved by 0.00012" in text
        assert 'where: row 2: "row 1"' in text
        assert "at most 0.0001" in text


@pytest.mark.parametrize(("size", "passes"), [(0.9e-3, True), (1.2e-3, False)])
def test_a_large_raw_output_may_move_in_proportion(size: float, passes: bool):
    expected = answers(np.array([[10.0, 0.0, 0.0]]))
    got = dataclasses.replace(expected, outputs=expected.outputs + np.array([[0, size, 0]], dtype=np.float32))
    if passes:
        difference(expected, got, FULL)
    else:
        assert "a raw output moved" in refusal(expected, got)


def test_a_probability_that_moves_is_named_with_both_answers():
    expected = answers(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 4.0, 0.0]]))
    shares = expected.probabilities.copy()
    shares[1] += [3e-5, 0.0, -3e-5]
    text = refusal(expected, dataclasses.replace(expected, probabilities=shares))
    assert "a probability moved by 3e-05" in text
    assert 'where: row 2: "row 1"' in text
    assert f"got: 'spam' {{'eggs': {round(shares[1, 0], 6)}" in text
    assert f"expected: 'spam' {{'eggs': {round(expected.probabilities[1, 0], 6)}" in text


def test_the_worst_of_many_rows_is_shown(logits: np.ndarray):
    moved = logits.copy()
    moved[5] += [0.01, 0, 0]
    moved[17] += [0.5, 0, 0]
    assert 'row 18: "row 17"' in refusal(answers(logits), answers(moved))


def test_preprocessing_is_named_before_anything_that_follows_from_it(logits: np.ndarray):
    expected = answers(logits)
    encoded = list(expected.encoded)
    encoded[3] = "f" * 32
    got = dataclasses.replace(answers(logits + 1.0), encoded=encoded)
    text = refusal(expected, got)
    assert "the preprocessing makes other arrays of a row" in text
    assert 'row 4: "row 3"' in text
    assert f"got: {'f' * 32}" in text


def test_names_in_another_order_are_refused_even_where_the_network_is_the_same(logits: np.ndarray):
    expected = answers(logits)
    text = refusal(expected, dataclasses.replace(expected, names=["ham", "eggs", "spam"]))
    assert "the labels stand in another order" in text
    assert "got: ham, eggs, spam" in text
    assert "expected: eggs, ham, spam" in text


@pytest.mark.parametrize("shape", [(40, 2), (40, 3, 1), (39, 3)])
def test_outputs_of_another_shape_are_refused(logits: np.ndarray, shape: tuple[int, ...]):
    expected = answers(logits)
    text = refusal(expected, dataclasses.replace(expected, outputs=np.zeros(shape, dtype=np.float32)))
    assert "the outputs have another shape" in text
    assert str(shape) in text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tolerance", [FULL, REDUCED], ids=["fp32", "reduced"])
@pytest.mark.parametrize("where", ["outputs", "probabilities"])
@pytest.mark.parametrize("whose", ["the export", "the source", "both"])
def test_what_is_no_number_is_refused_whatever_the_tolerance(
    logits: np.ndarray, bad: float, tolerance: Tolerance, where: str, whose: str
):
    good = answers(np.repeat(logits, 10, axis=0))
    values = getattr(good, where).copy()
    values[7, 1] = bad
    wrong = dataclasses.replace(good, **{where: values})
    expected, got = {"the export": (good, wrong), "the source": (wrong, good), "both": (wrong, wrong)}[whose]
    text = refusal(expected, got, tolerance)
    assert "gives something that is not a finite number" in text
    assert 'row 8: "row 7"' in text


def test_classes_in_another_order_are_refused_unless_they_were_as_near_as_two_moves():
    expected = answers(np.array([[1.0, 0.5, 0.0]]))
    swapped = dataclasses.replace(expected, probabilities=expected.probabilities[:, [1, 0, 2]], values=["ham"])
    gap = float(expected.probabilities[0, 0] - expected.probabilities[0, 1])
    text = refusal(expected, swapped, Tolerance(logits=1.0, probabilities=0.49 * gap, agreement=1.0))
    assert "the classes are in another order" in text
    assert "got: 'ham'" in text
    text = refusal(expected, swapped, Tolerance(logits=1.0, probabilities=0.51 * gap, agreement=1.0))
    assert "a probability moved by" in text, "near enough to change places, but not to move as far as this"
    difference(expected, swapped, Tolerance(logits=1.0, probabilities=1.01 * gap, agreement=1.0))


def test_an_order_below_the_first_class_counts_too():
    expected = answers(np.array([[5.0, 0.5, 0.0]]))
    swapped = dataclasses.replace(expected, probabilities=expected.probabilities[:, [0, 2, 1]])
    assert swapped.values == ["eggs"]
    assert "the classes are in another order" in refusal(expected, swapped)


def test_equal_shares_may_be_answered_either_way():
    tie = answers(np.array([[1.0, 1.0, 0.0], [1.0, 1.0 + 1e-7, 0.0]]))
    difference(tie, dataclasses.replace(tie, values=["ham", "eggs"]), FULL)


def test_another_answer_with_the_same_shares_is_refused():
    expected = answers(np.array([[3.0, 1.0, 0.0]]))
    text = refusal(expected, dataclasses.replace(expected, values=["spam"]))
    assert "a row is answered otherwise" in text
    assert "got: 'spam'" in text


@pytest.mark.parametrize(("wrong", "passes"), [(1, True), (2, False)])
def test_reduced_precision_asks_for_99_of_100_answers_alike(wrong: int, passes: bool):
    rng = np.random.default_rng(2)
    logits = rng.normal(scale=3.0, size=(100, 3))
    rough = answers(np.round(logits, 1))
    values = list(answers(logits).values)
    got = dataclasses.replace(rough, values=values)
    for row in range(wrong):
        got.values[row] = NAMES[(NAMES.index(values[row]) + 1) % 3]
    if passes:
        found = difference(answers(logits), got, REDUCED)
        assert found["agreement"] == 0.99
        assert found["tolerance"] == {"logits": None, "probabilities": None, "agreement": 0.99}
        assert json.dumps(found)
    else:
        text = refusal(answers(logits), got, REDUCED)
        assert "only 98.00% of the rows are answered alike" in text
        assert 'row 1: "row 0"' in text
        assert "99%" in text


def test_nothing_to_compare_is_no_proof():
    empty = answers(np.empty((0, 3)))
    with pytest.raises(GateError, match="there is no row to hold the export against"):
        difference(empty, empty, FULL)


def test_a_task_without_probabilities_is_held_by_its_outputs():
    outputs = np.array([[1.5], [2.5]], dtype=np.float32)
    plain = {"names": [], "probabilities": np.empty((2, 0)), "values": [1.5, 2.5], "outputs": outputs}
    expected = answers(np.zeros((2, 3)), **plain)
    difference(expected, expected, FULL)
    text = refusal(expected, dataclasses.replace(expected, outputs=outputs + np.float32(0.01)))
    assert "a raw output moved" in text
    assert "got: 2.5 [2.5099" in text or "got: 1.5 [1.5099" in text


def test_a_long_row_is_cut_in_the_message(logits: np.ndarray):
    expected = answers(logits[:1], rows=["x" * 5000])
    text = refusal(expected, answers(logits[:1] + np.array([1.0, 0, 0]), rows=["x" * 5000]))
    assert "x" * 100 in text
    assert "x" * 200 not in text


def test_answers_are_saved_bit_for_bit(tmp_path: Path):
    made = Answers.of(make_predictor(), make_rows(50))
    made.save(tmp_path)
    again = Answers.load(tmp_path)
    assert again.outputs.dtype == np.float32
    assert again.outputs.tobytes() == made.outputs.tobytes()
    assert again.probabilities.tobytes() == made.probabilities.tobytes()
    assert (again.rows, again.names, again.values, again.encoded) == (made.rows, made.names, made.values, made.encoded)
    assert difference(made, again, FULL)["bitwise"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npy"}


def test_the_digest_of_an_encoded_row_is_about_names_types_shapes_and_bytes():
    def digest(**inputs: np.ndarray) -> str:
        return parity.encoded_digest(Encoded(inputs=inputs, spans_T2=np.zeros((2, 2), dtype=np.int32)))

    ids = np.array([1, 2], dtype=np.int32)
    by_hand = hashlib.blake2b(b"input_ids\0int32\0(2,)\0" + ids.tobytes(), digest_size=16).hexdigest()
    assert digest(input_ids=ids) == by_hand
    others = [
        digest(input_ids=ids.astype(np.int64)),
        digest(tokens=ids),
        digest(input_ids=ids[::-1]),
        digest(input_ids=ids, more=ids),
    ]
    assert len({by_hand, *others}) == 5


class Shifty:
    """A predictor whose answers depend on what stands beside a row: a form with fixed shapes, say."""

    def __init__(self, predictor):
        self._predictor = predictor

    def __getattr__(self, name: str):
        return getattr(self._predictor, name)

    def answers(self, rows, *, batch_size=32):
        outputs, _ = self._predictor.answers(rows, batch_size=batch_size)
        if batch_size == 1:
            outputs = outputs + np.float32(0.5) * np.eye(3, dtype=np.float32)[0]
        return outputs, self._predictor.task.decode(outputs)


def test_rows_are_also_answered_one_at_a_time():
    predictor = make_predictor()
    expected = Answers.of(predictor, make_rows(40))
    found = compare_export(predictor, expected, FULL)
    assert found["rows"] == 40
    assert found["environment"] == predictor.environment()
    with pytest.raises(GateError, match="a raw output moved"):
        compare_export(Shifty(predictor), expected, FULL)


# ---- the fresh process ----------------------------------------------------------------------------------------------


@pytest.fixture
def expected(tiny, tmp_path: Path) -> Path:
    folder = tmp_path / "expected"
    folder.mkdir()
    Answers.of(tiny[1], make_rows(20, seed=4)).save(folder)
    return folder


def compare(artifact: Artifact, expected: Path, **options: object) -> dict:
    return parity.compare_in_fresh_process(artifact.path, expected, **{"runtime": "torch", "threads": 1, **options})


def test_a_fresh_process_answers_with_the_same_bits(tiny, expected: Path):
    found = compare(tiny[0], expected, without=frozenset({"datasets", "sklearn", "pandas"}))
    assert (found["rows"], found["bitwise"], found["agreement"]) == (20, True, 1.0)
    assert found["environment"]["library"].startswith("torch ")
    assert "ok" not in found


def test_a_fresh_process_refuses_answers_that_moved(tiny, expected: Path):
    content = json.loads((expected / "rows.json").read_text())
    content["probabilities"][3][0] += 1e-4
    (expected / "rows.json").write_text(json.dumps(content))
    with pytest.raises(GateError) as caught:
        compare(tiny[0], expected)
    problem = caught.value.problems[0]
    assert "a probability moved by 0.0001" in problem.what
    assert problem.where.startswith("row 4: ")
    assert caught.value.exit_code == 1


def test_what_an_export_must_do_without_is_really_not_there(tiny, expected: Path):
    """The network needs torch: if the block leaked, this would answer."""
    with pytest.raises(GateError) as caught:
        compare(tiny[0], expected, without=frozenset({"torch"}))
    assert "torch" in str(caught.value)
    assert "not installed" in str(caught.value)


def test_hidden_packages_look_as_if_they_were_not_installed():
    code = """
import importlib.util, sys
from importlib import metadata
from regraft.serving.absent import hide
hide({"torch", "sklearn"})
from regraft.serving.choice import installed
assert not installed("torch") and installed("numpy")
assert importlib.util.find_spec("sklearn") is None and importlib.util.find_spec("numpy") is not None
for name in ("torch", "torch.nn", "torch._C"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert error.name in ("torch", name), error.name
    else:
        raise SystemExit(f"{name} could be imported")
for name in ("torch", "scikit-learn"):
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
    else:
        raise SystemExit(f"{name} has a version")
assert metadata.version("numpy") and len(list(metadata.distributions())) > 10
assert not {"torch", "sklearn"} & sys.modules.keys()
import numpy.fft, xml.dom.minidom
try:
    hide({"numpy"})
except RuntimeError as error:
    assert "numpy cannot be hidden any more" in str(error)
else:
    raise SystemExit("numpy was hidden behind its users")
print("seen")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "seen\n", done.stderr


def test_the_gate_itself_imports_nothing_that_an_export_may_have_to_do_without():
    """What is imported before the block is put up would slip through it."""
    code = "import sys, regraft.serving.parity; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "huggingface_hub", "onnx", "onnxruntime"}
    assert not heavy & set(done.stdout.split())


def test_an_export_that_cannot_be_opened_is_refused_with_its_own_words(tiny_copy: Artifact, expected: Path):
    (tiny_copy.path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(GateError) as caught:
        compare(tiny_copy, expected)
    assert "a file is not the one that was written" in caught.value.problems[0].what
    assert caught.value.problems[0].fix


def test_a_process_that_dies_says_why(tiny, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Libraries in C die without an exception: what they wrote last is shown."""
    folder = tmp_path / "path"
    folder.mkdir()
    dying = "import os, signal, sys\nsys.stderr.write('kernel: bad pages\\n')\nsys.stderr.flush()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    (folder / "sitecustomize.py").write_text(dying)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(GateError) as caught:
        compare(tiny[0], expected)
    text = str(caught.value)
    assert "the fresh process that holds the export against its source died" in text
    assert "killed by signal 9: kernel: bad pages" in text
    assert str(tiny[0].path) in text
    assert "the artifact was not accepted" in text


def test_a_process_that_hangs_is_stopped(tiny, expected: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parity, "TIMEOUT_S", 0.05)
    with pytest.raises(GateError, match=r"took too long\n  got: no answer after 0\.05 s\n  to do: .*fewer --sample rows"):
        compare(tiny[0], expected)


def test_a_python_that_cannot_be_started_is_named(tiny, expected: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(GateError, match=r"a fresh process could not be started\n  where: /nowhere/python"):
        compare(tiny[0], expected)


def done(code: int, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, out, err)


def test_what_a_process_said_last_counts():
    assert said_by(done(0, 'a library was here\n{"ok": true, "rows": 3}\n'), Path("x"), "looks") == {"rows": 3}
    with pytest.raises(GateError) as caught:
        said_by(done(1, '{"ok": false, "problems": [{"what": "one"}, {"what": "two", "fix": "mend"}]}'), Path("x"), "looks")
    assert [problem.what for problem in caught.value.problems] == ["one", "two"]


@pytest.mark.parametrize(
    ("code", "out", "err", "told"),
    [
        (0, "", "", "exit code 0: it said nothing"),
        (0, "3\n", "warned", "exit code 0: warned"),
        (0, '{"rows": 3}', "", "exit code 0"),
        (1, '{"ok": true, "rows": 3}', "", "exit code 1"),
        (1, "", "Traceback: boom", "exit code 1: Traceback: boom"),
        (-signal.SIGSEGV, "", "", "killed by signal 11: it said nothing"),
    ],
)
def test_anything_but_a_clear_yes_is_a_no(code: int, out: str, err: str, told: str):
    with pytest.raises(GateError) as caught:
        said_by(done(code, out, err), Path("export"), "looks")
    assert told in str(caught.value)
    assert "the fresh process that looks died" in str(caught.value)


@pytest.mark.parametrize(("lost", "passes"), [(2, True), (10, False)])
def test_of_reduced_precision_as_many_answers_must_be_right_as_the_interval_allows(lost: int, passes: bool):
    """Of 2,000 right answers the interval (Wilson, 95 %) begins at 2000 / (2000 + 1.96^2): 99.81 %; both agree in 99 of 100."""
    logits = np.random.default_rng(2).normal(scale=3.0, size=(2000, 3))
    expected = answers(logits)
    expected = dataclasses.replace(expected, truth=expected.values)
    moved = logits.copy()
    moved[:lost] = np.roll(moved[:lost], 1, axis=1)
    if passes:
        right = difference(expected, answers(moved), REDUCED)["right"]
        assert (right["rows"], right["source"], right["export"]) == (2000, 2000, 1998)
        assert right["interval"] == pytest.approx([2000 / (2000 + 1.959964**2), 1.0], abs=1e-6)
    else:
        text = refusal(expected, answers(moved), REDUCED)
        assert "only 1,990 are answered rightly, 2,000 before" in text
        assert "at least 99.81%, the low end of the source's interval" in text
        assert "row 1" in text
    assert "right" not in difference(answers(logits), answers(logits), REDUCED), "where no answer is known nothing is said"


def numbers(raw: np.ndarray, task: Regression, truth: tuple = ()) -> Answers:
    outputs = np.asarray(raw, dtype=np.float32).reshape(-1, 1)
    return Answers(
        rows=[f"row {i}" for i in range(len(outputs))],
        encoded=[f"{i:032x}" for i in range(len(outputs))],
        outputs=outputs,
        names=[],
        probabilities=np.empty((len(outputs), 0)),
        values=[prediction.value for prediction in task.decode(outputs)],
        truth=truth,
    )


@pytest.fixture
def regression() -> Regression:
    task = Regression(Regression.Options())
    task.learn([100.0, 300.0], Ledger())  # mean 200, deviation 100
    return task


def test_numbers_are_held_to_their_raw_outputs(regression: Regression):
    raw = np.array([0.5, -1.0, 30.0])
    found = difference(numbers(raw, regression), numbers(raw + np.array([5e-5, 0, 1e-3]), regression), FULL, regression)
    assert found["worst_logit"] == pytest.approx(5e-5, rel=0.01)
    assert (found["worst_probability"], found["agreement"], found["bitwise"]) == (0.0, 1.0, False)
    expected = numbers(raw, regression)
    with pytest.raises(GateError, match=r"a raw output moved by 0\.0002"):
        difference(expected, numbers(raw + np.array([2e-4, 0, 0]), regression), FULL, regression)
    other = dataclasses.replace(expected, values=[expected.values[0] + 1.0, *expected.values[1:]])
    with pytest.raises(GateError, match="a row is answered otherwise"):
        difference(expected, other, FULL, regression)


def test_numbers_of_reduced_precision_are_held_to_a_tenth_of_a_deviation_and_to_the_truth(regression: Regression):
    rng = np.random.default_rng(0)
    raw, truth = rng.normal(size=200), rng.normal(size=200)
    known = tuple((200 + 100 * truth).tolist())
    expected = numbers(raw, regression, known)
    costs = 100 * np.abs(np.float32(raw) - truth)
    found = difference(expected, numbers(raw + 0.05, regression), REDUCED, regression)
    assert found["agreement"] == 1.0
    assert found["distance"]["source"] == pytest.approx(costs.mean(), rel=1e-6)
    half = 1.959964 * costs.std() / np.sqrt(200)
    assert found["distance"]["interval"] == pytest.approx([costs.mean() - half, costs.mean() + half], rel=1e-5)
    with pytest.raises(GateError, match=r"only 0\.00% of the rows are answered alike"):
        difference(expected, numbers(raw + 0.2, regression), REDUCED, regression)
    near = numbers(raw, regression, tuple((200 + 100 * raw + 0.01).tolist()))
    with pytest.raises(GateError, match="over 200 rows whose answer is known the mean distance from it is"):
        difference(near, numbers(raw + 0.05, regression), REDUCED, regression)

"""Real e-mails, pictures and recordings, answered by their exports in a process that cannot import the training stack."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_core_without_torch import ABSENT, run, said

import regraft as rg
from regraft.data import SAMPLES
from regraft.data.samples.fetched import Fetched
from regraft.errors import DataError

__all__ = ["run"]

pytestmark = [pytest.mark.slow, pytest.mark.large]
RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Case:
    """A sample and a small network for it.

    Args:
        sample: Registered name.
        column: What is read.
        target: What is answered.
        base: Options of the network.
        modality: Options of how rows are read.
        rows: Rows to answer, at most.
    """

    sample: str
    column: str
    target: str
    base: dict[str, Any]
    modality: dict[str, Any]
    rows: int


CASES = (
    Case("spam", "text", "label", {"name": "cnn", "width": 16}, {}, 1000),
    Case("fashion-mnist", "image", "label", {"name": "conv", "widths": [8, 16], "style": "plain"}, {}, 1000),
    Case("spoken-digits", "audio", "digit", {"name": "sound-conv", "width": 16}, {"rate": 8000, "seconds": 2}, 50),
)
CODE = textwrap.dedent("""
    import json, sys
    import pyarrow.parquet
    import regraft
    export, rows, column, runtimes = sys.argv[1:]
    raws = pyarrow.parquet.read_table(rows).column(column).to_pylist()
    found = {}
    for name in runtimes.split(","):
        answers = regraft.Predictor.load(export, runtime=name, threads=1).predict(raws)
        found[name] = {"answers": [one.value for one in answers], "shares": [[*one.probabilities.values()] for one in answers]}
    print(json.dumps({"found": found, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
""")


def files_of(sample: str) -> list[Path]:
    """Return the files of rows of a sample; the test is skipped where it cannot be had."""
    found = SAMPLES.get(sample)
    if not isinstance(found, Fetched):
        return [Path(found)]
    try:
        return sorted(found.folder().glob("*.parquet"))
    except DataError as error:
        pytest.skip(error.problems[0].what)


@pytest.mark.parametrize("case", CASES, ids=[case.sample for case in CASES])
def test_real_rows_are_answered_as_torch_does(case: Case, run: Any, tmp_path: Path):
    table = pq.read_table(files_of(case.sample)[-1]).slice(0, 4 * case.rows).select([case.column, case.target])
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(table.slice(0, case.rows), tmp_path / "rows.parquet")
    artifact = rg.fit(
        tmp_path / "train.parquet",
        target=case.target,
        out=tmp_path / "model",
        base=case.base,
        modality=case.modality,
        train={"epochs": 2, "learning_rate": 3e-3},
        data={"valid_share": 0.0},
        judge={"resamples": 100},
        machine={"threads": 1, "cache": {"disk_mb": 0}},
    )
    rows = str(tmp_path / "rows.parquet")
    export = rg.export(artifact, format="onnx", out=tmp_path / "onnx", rows=rows, machine={"threads": 1})
    raws = table.column(case.column).to_pylist()[: case.rows]
    expected = rg.load(artifact, threads=1).predict(raws)
    shares = np.array([[*one.probabilities.values()] for one in expected])
    given = {"REGRAFT_CACHE": str(tmp_path / "cache")}
    done = said(run("-c", CODE, str(export.path), rows, case.column, ",".join(RUNTIMES), **given))
    assert not set(ABSENT) & set(done["modules"])
    for name in RUNTIMES:
        assert done["found"][name]["answers"] == [one.value for one in expected], name
        np.testing.assert_allclose(np.array(done["found"][name]["shares"]), shares, atol=1e-5, err_msg=name)
    out = tmp_path / "answers.parquet"
    command = ("-m", "regraft", "predict", str(export.path), rows, "--out", str(out), "--json", "--set", "machine.threads=1")
    assert said(run(*command, **given))["answered"] == len(raws)
    assert pq.read_table(out).column("prediction").to_pylist() == [one.value for one in expected]

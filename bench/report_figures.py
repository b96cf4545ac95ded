"""Are the figures of a report page those of the raw answers? Computed again by scikit-learn, which knows nothing of pages.

    python bench/report_figures.py ARTIFACT...

Reads `predictions.parquet` and `report.html` of each artifact: accuracy, balanced accuracy, macro and micro F1, log-loss, ROC
AUC, the confusion matrix, precision, recall, F1 and rows of every class, the number of wrong rows, how sure the worst were.
Leaves with 1 if one figure differs by more than 1e-9.
"""

from __future__ import annotations

import html.parser
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn import metrics

import measure

TOLERANCE = 1e-9


class Numbers(html.parser.HTMLParser):
    """Collect the numbers of a page by their paths."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, float] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a number."""
        given = dict(attrs)
        if tag == "data":
            self.found[str(given["data-path"])] = float(str(given["value"]))


def figures(artifact: Path) -> dict[str, float]:
    """Return what scikit-learn makes of the raw answers, by the paths of the page."""
    table = pq.read_table(artifact / "predictions.parquet")
    shares = {name.partition(".")[2]: name for name in table.column_names if name.startswith("probability.")}
    labels = list(shares)
    truth, answer = (np.array(table.column(name).to_pylist()) for name in ("truth", "prediction"))
    given_NC = np.stack([table.column(name).to_numpy() for name in shares.values()], axis=1)
    assert (np.array(labels)[given_NC.argmax(axis=1)] == answer).all(), "an answer is not the likeliest class"
    order = np.argsort(labels)  # scikit-learn wants its classes sorted
    by_name_NC = given_NC[:, order]
    found = {
        "report/n": float(len(truth)),
        "report/metrics/accuracy/value": metrics.accuracy_score(truth, answer),
        "report/metrics/balanced_accuracy/value": metrics.balanced_accuracy_score(truth, answer),
        "report/metrics/macro_f1/value": metrics.f1_score(truth, answer, labels=labels, average="macro"),
        "report/metrics/micro_f1/value": metrics.f1_score(truth, answer, labels=labels, average="micro"),
        "report/metrics/log_loss/value": metrics.log_loss(truth, by_name_NC, labels=sorted(labels)),
        "worst/wrong": float((truth != answer).sum()),
        "worst/judged": float(len(truth)),
    }
    if len(labels) == 2:
        found["report/metrics/roc_auc/value"] = metrics.roc_auc_score(truth == labels[1], given_NC[:, 1])
    else:
        by_class = metrics.roc_auc_score(truth, by_name_NC, labels=sorted(labels), multi_class="ovr", average="macro")
        found["report/metrics/roc_auc/value"] = by_class
    matrix = metrics.confusion_matrix(truth, answer, labels=labels)
    found |= {f"report/confusion/counts/{i}/{j}": float(rows) for i, row in enumerate(matrix) for j, rows in enumerate(row)}
    parts = metrics.precision_recall_fscore_support(truth, answer, labels=labels, zero_division=np.nan)
    for place in range(len(labels)):
        for name, values in zip(("precision/value", "recall/value", "f1/value", "support"), parts, strict=True):
            found[f"report/per_class/{place}/{name}"] = float(values[place])
    return found | worst(truth, answer, given_NC, labels)


def worst(truth: Any, answer: Any, given_NC: Any, labels: list[str]) -> dict[str, float]:
    """Return confidence of the rows that are most wrong, the worst first."""
    rows = np.arange(len(truth))
    of_truth = given_NC[rows, [labels.index(label) for label in truth]]
    wrong = [row for row in np.argsort(of_truth, kind="stable") if truth[row] != answer[row]][:50]
    return {f"worst/rows/{place}/confidence": float(given_NC[row].max()) for place, row in enumerate(wrong)}


def held(artifact: Path) -> tuple[list[str], int]:
    """Return the figures that differ, and how many were looked at."""
    page = Numbers()
    page.feed((artifact / "report.html").read_text(encoding="utf-8"))
    wrong, looked = [], 0
    for path, expected in figures(artifact).items():
        if math.isnan(expected):
            continue
        looked += 1
        got = page.found.get(path)
        if got is None or abs(got - expected) > TOLERANCE:
            wrong.append(f"{path}: {got} on the page, {expected} from the answers")
    return wrong, looked


def main(artifacts: list[str]) -> int:
    """Hold the pages of artifacts against their answers, and say what was found."""
    lines, found, bad = [], [], 0
    for name in artifacts:
        artifact = Path(name)
        wrong, looked = held(artifact)
        bad += len(wrong)
        report = json.loads((artifact / "report.json").read_text(encoding="utf-8"))
        size = (artifact / "report.html").stat().st_size
        lines += [
            f"{artifact.name}: {looked} figures of {report['n']:,} rows, {len(wrong)} differ; page {size / 1e6:.2f} MB",
            *wrong,
        ]
        accuracy = report["metrics"]["accuracy"]["value"]
        one = {"artifact": artifact.name, "rows": report["n"], "figures": looked, "differ": len(wrong), "accuracy": accuracy}
        found.append({**one, "page_bytes": size, "command": report["about"].get("command")})
    measure.report("report_figures", {"artifacts": found}, "\n".join(lines))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

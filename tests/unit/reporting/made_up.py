"""Made-up reports with every key that a section draws, and a reader of pages that knows nothing of how they are made."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from regraft.reporting.subject import Subject


def metric(value: float, spread: float = 0.02, n: int = 400) -> dict[str, Any]:
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def comparison(verdict: str = "better", **changes: Any) -> dict[str, Any]:
    found = {
        "a": "linear-probe",
        "b": "fitted",
        "verdict": verdict,
        "difference": metric(0.031, 0.015),
        "test": "McNemar, exact binomial, two-sided",
        "p_value": 0.0042,
        "only_a_right": 4,
        "only_b_right": 17,
        "smallest_detectable_difference": 0.0304,
    }
    return {**found, **changes}


def rung(name: str, value: float, against: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    metrics = {"accuracy": metric(value), "log_loss": metric(1 - value, 0.01)}
    return {"name": name, "metrics": metrics, "seconds": 1.25, "note": f"{name} said", "against_previous": against, **more}


def judged(labels: tuple[Any, ...] = ("ham", "spam", "eggs")) -> dict[str, Any]:
    """What is found of one target, with the keys that calibration, slices and groups add."""
    size = len(labels)
    counts = [[100 * (row == column) + 3 * row + column for column in range(size)] for row in range(size)]
    bins = [
        {"low": k / 5, "high": (k + 1) / 5, "confidence": k / 5 + 0.09, "share_right": k / 5 + 0.12, "n": 70 + k}
        | {"share_low": k / 5 + 0.05, "share_high": min(1.0, k / 5 + 0.2)}
        for k in range(5)
    ]
    curve = [
        {"threshold": k / 40, "coverage": 1 - k / 50, "risk": 0.1 - k / 500, "risk_low": 0.05, "risk_high": 0.13}
        for k in range(41)
    ]
    return {
        "n": 400,
        "metrics": {
            "accuracy": metric(0.942),
            "log_loss": metric(0.2134, 0.0123),
            "macro_f1": metric(0.93),
            "mae": metric(12345.6, 5.0),
        },
        "per_class": [
            {"label": label, "precision": metric(0.9), "recall": metric(0.88), "f1": metric(0.89 - k / 100), "support": 130 + k}
            for k, label in enumerate(labels)
        ],
        "confusion": {"labels": list(labels), "counts": counts},
        "ladder": [
            rung("majority", 0.61),
            rung(
                "linear-probe",
                0.91,
                comparison("better", p_value=1e-9),
                cost={"seconds": 3.5, "size_bytes": 1_234_567, "latency_ms": 0.7},
            ),
            rung("fitted", 0.942, comparison(p_holm=0.0126)),
        ],
        "verdict": "better",
        "verdict_detail": comparison(),
        "ablation": [rung("without body", 0.7, comparison("worse", difference=metric(-0.24)))],
        "calibration": {
            "method": "temperature",
            "intervals": {"before": {"ece": [0.07, 0.09]}, "after": {"ece": [0.01, 0.02]}},
            "before": {
                "brier_parts": {"reliability": 0.002, "uncertainty": 0.24},
                "ece": 0.081,
                "brier": 0.19,
                "log_loss": metric(0.31),
            },
            "after": {"ece": 0.012, "brier": 0.17, "log_loss": metric(0.28)},
            "reliability": {"before": bins, "after": bins},
        },
        "conformal": {
            "coverage_wanted": 0.9,
            "coverage_seen": metric(0.913),
            "mean_size": 1.2345,
            "sizes": {"1": 310, "2": 90},
            "by_class": [{"label": "ham", **metric(0.9)}],
            "score": "aps",
        },
        "abstain": {
            "curve": curve,
            "promises": [
                {"precision": 0.99, "threshold": 0.8, "coverage_seen": metric(0.7), "precision_seen": 0.985},
                {"precision": 0.999, "threshold": None},
            ],
        },
        "seeds": {
            "fitted": {
                "metric": "accuracy",
                "seeds": [0, 1],
                "mean": metric(0.94),
                "spread": 0.004,
                "variance": {"seeds": 1.6e-5, "rows": 1.4e-4, "both": 1.5e-4},
            }
        },
        "slices": [
            {"column": "language", "value": value, "n": 40 + k, "metrics": {"accuracy": metric(0.8 + k / 10)}}
            | {"difference": metric(-0.1), "p_value": 0.03, "p_holm": 0.09}
            for k, value in enumerate(["en", "zh"])
        ],
        "weak_slices": [
            {"rule": "length > 300 and language = zh", "n": 31, "share": 0.0775, "metric": "accuracy", "value": 0.71}
            | {"low": 0.55, "high": 0.84, "overall": 0.942, "p_value": 0.0004, "p_holm": 0.012}
        ],
        "fairness": {
            "column": "gender",
            "groups": [
                {
                    "group": name,
                    "n": 200,
                    "too_small": name == "b",
                    "positive_rate": rate,
                    "true_positive_rate": metric(rate + 0.4),
                }
                for name, rate in (("a", 0.4), ("b", 0.5))
            ],
            "differences": [
                {"name": "equal_opportunity_difference", "label": "spam", "between": ["b", "a"]}
                | {"value": 0.1, "low": 0.02, "high": 0.18}
            ],
            "positive": "spam",
        },
    }


def report(**changes: Any) -> dict[str, Any]:
    whole = {
        "kind": "fit",
        "confidence": 0.95,
        **judged(),
        "ledger": {
            "truncated tokens": {"count": 1234, "examples": ["test: 3 of 400 rows", "mails/one.csv"]},
            "a/b~c": {"count": 2, "examples": []},
        },
        "fingerprint": {"train": {"rows": 1400, "rows_digest": "ab" * 32}, "test": {"rows": 400, "rows_digest": "cd" * 32}},
        "seconds": 127.25,
        "seconds_by_stage": {"train": 99.4321, "read": 0.000432},
        "cost": {
            "rows_per_s": 18.05,
            "precision": "bf16",
            "mfu": 0.177,
            "peak_flops": 209400000000.0,
            "peak_memory_mb": 1111.2,
            "threads": 1,
            "mfu_note": "x",
        },
        "notes": ["a note"],
        "about": {
            "base": "minilm",
            "tuning": "full",
            "task": "classification",
            "command": "regraft fit mails.csv --target label --out ARTIFACT",
        },
    }
    return {**whole, **changes}


def events(updates: int = 40) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"event": "begin", "step": 0, "seconds": 0.0}]
    for step in range(1, updates + 1):
        found.append(
            {
                "event": "step",
                "step": step,
                "seconds": step / 4,
                "loss": 1.0 / step,
                "learning_rate": 1e-4 / step,
                "gradient_norm": 2.5 / step,
            }
        )
        if step % 10 == 0:
            found.append(
                {
                    "event": "valid",
                    "step": step,
                    "seconds": step / 4,
                    "metrics": {"accuracy": 0.5 + step / 100},
                    "best": step < 40,
                }
            )
    return [*found, {"event": "end", "step": updates, "seconds": 10.0, "reason": "done", "best_step": 30}]


def row(number: int, pieces: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    found = {
        "row": number,
        "place": f"mails.csv, row {number}",
        "truth": "ham",
        "answer": "spam",
        "confidence": 0.987,
        "cost": 4.25,
    }
    return {**found, "pieces": pieces, **changes}


def pieces() -> list[list[dict[str, Any]]]:
    picture = "data:image/png;base64," + base64.b64encode(b"png").decode()
    sound = "data:audio/wav;base64," + base64.b64encode(b"wav").decode()
    return [
        [{"text": "the beginning of a text", "left_out": 1234}],
        [{"picture": picture, "width": 28, "height": 28}],
        [
            {"sound": sound, "seconds": 1.8, "of": 6.25},
            {"lines": [[0.0, None, 1.0], [0.5, 0.25, 0.0]], "channels": 2, "steps": 900},
        ],
        [{"cells": [["age", "39"], ["job", "clerk"]], "left_out": 3}],
        [{"named": "body", "pieces": [{"text": "inside", "left_out": 0}]}, {"named": "photo", "pieces": []}],
    ]


def worst() -> dict[str, Any]:
    return {"wrong": 23, "judged": 400, "most": 50, "rows": [row(k, piece) for k, piece in enumerate(pieces())]}


def facts() -> dict[str, Any]:
    return {
        "task": {"name": "classification", "state": {}},
        "inputs": [{"column": "text", "modality": "text"}],
        "target": {"column": "label"},
        "base": {"name": "minilm", "licence": "Apache-2.0"},
        "lineage": [{"verb": "fit", "name": "older", "digest": "ef" * 32}],
        "verb": "merge",
        "digest": "12" * 32,
        "weights_digest": "34" * 32,
        "seed": 7,
        "versions": {"regraft": "0.2.0", "torch": "2.13.0"},
        "size_bytes": 91_500_000,
    }


def subject(name: str = "spam-model", **changes: Any) -> Subject:
    values = {"report": report(), "facts": facts(), "events": events(), "worst": worst(), **changes}
    return Subject(name=name, **values)


class Reader(HTMLParser):
    """Read a page: its numbers with where they come from, its elements, and digits in cells that come from nowhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[tuple[dict[str, str], str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.sections: list[str] = []
        self.stray: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self._data: dict[str, str] | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag not in {"meta", "link", "img", "br", "path", "use", "image"}:
            self._open.append(tag)
        if tag == "section":
            self.sections.append(given["id"])
        if tag == "data":
            self._data = given
            self.numbers.append((given, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        if tag == "data":
            self._data = None

    def handle_data(self, text: str) -> None:
        if "style" in self._open:
            return
        self.text += text
        if self._data is not None:
            self.numbers[-1] = (self.numbers[-1][0], self.numbers[-1][1] + text)
        elif "td" in self._open and "code" not in self._open and any(char.isdigit() for char in text):
            self.stray.append((self.sections[-1] if self.sections else "", text))

    def urls(self) -> Iterator[str]:
        for _, given in self.tags:
            yield from (
                given[name] for name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster") if name in given
            )

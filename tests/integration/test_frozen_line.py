"""A whole fit that computes what is frozen once: the same artifact with and without a cache, cold and warm, in every shape."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import SMALL, mails, write_csv
from safetensors.numpy import load_file

import regraft as rg
from regraft import fitting, lifecycle
from regraft.artifact.store import Artifact
from regraft.cli.app import _run
from regraft.data import kept

BASES = {
    "transformer": {"name": "transformer", "width": 32, "layers": 3, "heads": 2, "dropout": 0.1},
    "lstm": {"name": "lstm", "width": 16, "layers": 2, "dropout": 0.1},
}
TUNINGS = {"head": "head", "top-k": {"name": "top-k", "layers": 1}, "full": "full"}
FROZEN = ["head", "top-k"]
BELOW = {
    ("transformer", "head"): ("embeddings.", "encoder."),
    ("transformer", "top-k"): ("embeddings.", "encoder.layer.0.", "encoder.layer.1."),
    ("lstm", "head"): ("embeddings.", "layers.", "norm."),
    ("lstm", "top-k"): ("embeddings.", "layers.0."),
}
SPLIT = {"train": 85, "valid": 12, "test": 23}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("few") / "mails.csv", mails(120, seed=1))


class Fits:
    """Fits of a few rows, what they noted, and what they left in the cache folder."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder, self.cache = data, folder, folder / "cache"
        self.notes: list[str] = []
        self.count = 0

    def __call__(self, base: str = "transformer", tuning: str = "top-k", **options: Any) -> Artifact:
        self.notes, self.count = [], self.count + 1
        options.setdefault("modality", {"max_length": 40})  # fixed shapes compute all of it
        machine = {"threads": 1, "precision": "fp32", **options.pop("machine", {})}
        machine["cache"] = {"folder": str(self.cache), **machine.get("cache", {})}
        train = {"epochs": 1, "batch_size": 8, **options.pop("train", {})}
        sizes = {**BASES[base], **options.pop("sizes", {})}
        chosen = {**SMALL, "base": sizes, "train": train, "machine": machine, **options}
        out = self.folder / f"model-{self.count}"
        return lifecycle.fit(
            str(self.data), target="label", out=str(out), tuning=TUNINGS[tuning], listen=self._listen, **chosen
        )

    def _listen(self, event: Any) -> None:
        if event.to_json()["event"] == "note":
            self.notes.append(event.text)

    @property
    def features(self) -> list[str]:
        return [note for note in self.notes if note.startswith("cache")]


@pytest.fixture
def fits(few: Path, tmp_path: Path) -> Fits:
    return Fits(few, tmp_path)


@pytest.fixture
def quick(fits: Fits, monkeypatch: pytest.MonkeyPatch) -> Fits:
    """Without the replay in a fresh process, which takes longer than all the rest and is seen to in other tests."""
    monkeypatch.setattr(fitting, "gate", lambda *_args, **_options: None)
    return fits


def weights(artifact: Artifact) -> dict[str, np.ndarray]:
    body = load_file(artifact.path / "backbone" / "model.safetensors")
    return {**{f"body.{name}": value for name, value in body.items()}, **load_file(artifact.path / "weights.safetensors")}


def difference(one: Artifact, other: Artifact) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    # The true gradient of a key's bias is zero: AdamW divides rounding by rounding there, and no answer depends on it.
    return max(float(np.abs(first[name] - second[name]).max()) for name in first if not name.endswith("key.bias"))


def test_the_artifact_replays_in_a_fresh_process(fits: Fits) -> None:
    artifact = fits(tuning="top-k")
    assert "0 of 97 rows are there; in memory" in fits.features[0]
    assert artifact.report.about["rows"] == SPLIT
    answers = rg.predict(artifact, [row["body"] for row in mails(20, seed=1)])
    assert not any(answer.error for answer in answers)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("tuning", FROZEN)
def test_cold_warm_and_off_give_the_same_artifact_and_leave_the_base(quick: Fits, base: str, tuning: str) -> None:
    untouched = weights(quick(base, tuning, train={"epochs": 0}, machine={"cache": {"enabled": False}}))
    assert not quick.cache.exists()
    fixed = {"shapes": "fixed"} if base == "transformer" else {}
    cold = quick(base, tuning, machine=fixed)
    assert all(": 0 of " in note for note in quick.features)
    warm = quick(base, tuning, machine=fixed)
    assert ["97 of 97 rows" in quick.features[0], "23 of 23 rows" in quick.features[1]] == [True, True]
    assert warm.weights_digest == cold.weights_digest
    off = quick(base, tuning, machine={**fixed, "cache": {"enabled": False}})
    assert quick.features == []
    if fixed:
        assert off.weights_digest == cold.weights_digest
    assert difference(off, cold) <= 1e-6
    found = weights(cold)
    below = [name for name in found if name.startswith(tuple(f"body.{start}" for start in BELOW[base, tuning]))]
    assert len(below) > 3
    assert all(np.array_equal(found[name], untouched[name]) for name in below)
    assert any(not np.array_equal(found[name], untouched[name]) for name in found)
    ladders = [[rung["metrics"] for rung in one.report.to_json()["ladder"]] for one in (cold, warm, off)]
    assert ladders[0] == ladders[1]
    assert quick(base, tuning, seed=1, machine=fixed).weights_digest != cold.weights_digest


@pytest.mark.parametrize(("base", "tuning"), [*(("transformer", tuning) for tuning in TUNINGS), ("lstm", "top-k")])
def test_every_shape_works_with_every_tuning(quick: Fits, base: str, tuning: str) -> None:
    quiet = {"train": {"epochs": 1, "dropout": 0.0}, "sizes": {"dropout": 0.0}}
    made = {shapes: quick(base, tuning, machine={"shapes": shapes}, **quiet) for shapes in ("packed", "padded", "fixed")}
    texts = [row["body"] for row in mails(20, seed=1)]
    spam = {shapes: [a.probabilities["spam"] for a in rg.predict(artifact, texts)] for shapes, artifact in made.items()}
    for shapes in ("padded", "fixed"):
        assert np.abs(np.subtract(spam[shapes], spam["packed"])).max() <= 1e-3
        assert made[shapes].report.to_json()["verdict"] in {"better", "no evidence", "worse"}


@pytest.mark.parametrize("tuning", ["full", "top-k"])
def test_a_compact_table_gives_the_weights_of_a_whole_one(quick: Fits, tuning: str) -> None:
    compact, whole = (quick(tuning=tuning, machine={"compact": compact}) for compact in (True, False))
    if tuning == "full":
        assert difference(compact, whole) <= 1e-6
    else:
        assert compact.weights_digest == whole.weights_digest, "no table learns"


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_report_says_what_it_cost(quick: Fits, tuning: str) -> None:
    artifact = quick(tuning=tuning)
    cost = artifact.report.to_json()["cost"]
    assert cost["rows_per_s"] > 0
    assert cost["predict_tokens_per_s"] > cost["predict_rows_per_s"] > 0
    assert cost["threads"] == 1
    assert cost["precision"] == "fp32"
    assert cost["peak_memory_mb"] > 50
    stages = cost["seconds_by_stage"]
    assert {"compute what is frozen", "features of the base", "train"} <= stages.keys()
    assert all(0 <= seconds < artifact.report.seconds for seconds in stages.values())
    assert stages == artifact.report.to_json()["seconds_by_stage"] or set(stages) <= set(
        artifact.report.to_json()["seconds_by_stage"]
    )
    if tuning == "head":
        assert cost["tokens_per_s"] in (None, 0)
    else:
        assert 1.0 <= cost["padding_ratio"] < 5
        assert cost["tokens_per_s"] > cost["rows_per_s"]


def test_an_option_of_preprocessing_misses_and_one_of_training_hits(quick: Fits) -> None:
    quick()
    quick(train={"epochs": 1, "learning_rate": 0.02, "dropout": 0.3})
    assert "97 of 97 rows" in quick.features[0]
    quick(modality={"max_length": 20})
    assert "0 of 97 rows" in quick.features[0]
    quick(modality={"max_length": 20})
    assert "97 of 97 rows" in quick.features[0]
    quick(sizes={"lowercase": False})
    assert "0 of 97 rows" in quick.features[0]
    quick(seed=1)  # other weights and another split
    assert ": 0 of " in quick.features[0]


def test_what_was_fitted_before_in_the_same_folder_moves_the_result_by_rounding_only(quick: Fits, tmp_path: Path) -> None:
    """In fixed shapes not even that: a row's features are the same whatever batch they were computed in."""
    for shapes, limit in (("fixed", 0.0), ("packed", 1e-6)):
        alone = quick(tuning="head", machine={"shapes": shapes, "cache": {"folder": str(tmp_path / f"{shapes}-alone")}})
        folder = {"folder": str(tmp_path / f"{shapes}-shared")}
        quick(tuning="full", machine={"shapes": shapes, "cache": folder}, judge={"probe_rows": 20, "resamples": 200})
        after = quick(tuning="head", machine={"shapes": shapes, "cache": folder})
        there = int(quick.features[0].partition("): ")[2].split()[0])
        assert 20 <= there < 97, "some rows were kept by the first fit, others not"
        assert difference(alone, after) <= limit


def test_bf16_features_are_close(quick: Fits) -> None:
    full, half = (quick(machine={"cache": {"dtype": dtype}}) for dtype in ("fp32", "bf16"))
    assert ": 0 of " in quick.features[0]
    texts = [row["body"] for row in mails(20, seed=1)]
    spam = [[answer.probabilities["spam"] for answer in rg.predict(artifact, texts)] for artifact in (full, half)]
    assert 0 < np.abs(np.subtract(*spam)).max() < 0.1


@pytest.mark.parametrize("tuning", FROZEN)
def test_too_little_memory_goes_to_disk_and_too_little_disk_to_nothing(quick: Fits, tuning: str) -> None:
    fixed = {"shapes": "fixed"}
    expected = quick(tuning=tuning, machine=fixed).weights_digest
    for cache, said in (({"memory_mb": 0}, "; on disk: "), ({"memory_mb": 0, "disk_mb": 0}, "off: ")):
        made = quick(tuning=tuning, machine={**fixed, "cache": cache})
        assert said in quick.features[0]
        assert made.weights_digest == expected


def broken(monkeypatch: pytest.MonkeyPatch, fits: Fits, how: str) -> str:
    """Make the cache folder unusable; return what the notes must say."""
    if how == "a file in its place":
        fits.cache.write_text("not a folder")
        return "Not a directory"
    if how == "not ours to write":

        def refused(_folder: Path) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(kept, "_locked", refused)
        return "Permission denied"

    def full(_self: Any, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept.NewFile, "write", full)
    return "No space left on device"


@pytest.mark.parametrize("tuning", FROZEN)
def test_a_cache_folder_that_cannot_be_used_is_said_and_nothing_else(quick: Fits, tuning: str) -> None:
    fixed = {"shapes": "fixed"}
    expected = quick(tuning=tuning, machine=fixed).weights_digest
    cases = [("a full disk", 0), ("not ours to write", 100)]
    if tuning == "head":
        cases += [("a full disk", 100), ("a file in its place", 0)]
    for number, (how, memory_mb) in enumerate(cases):
        quick.cache = quick.folder / f"bad-{number}"
        with pytest.MonkeyPatch.context() as patch:
            said = broken(patch, quick, how)
            made = quick(tuning=tuning, machine={**fixed, "cache": {"memory_mb": memory_mb}})
        place = "in memory only" if memory_mb else "off"
        assert any(note.startswith(f"cache: {place}: the disk gave up") and said in note for note in quick.notes), quick.notes
        assert made.weights_digest == expected
        left = [path for path in quick.cache.rglob("*") if path.is_file()] if quick.cache.is_dir() else []
        assert left == []


def test_the_command_line_switches_the_cache_off(quick: Fits, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["tuning.name=head", "base.width=16", "train.epochs=1", "judge.resamples=200", "machine.threads=1"]
    options += ["machine.precision=fp32", f"machine.cache.folder={quick.cache}"]
    for extra, there in ([["machine.cache.enabled=false"], False], [[], True]):
        sets = [part for option in (*options, *extra) for part in ("--set", option)]
        out = quick.folder / "model"
        assert _run(["fit", str(quick.data), "--target", "label", "--base", "transformer", *sets, "--out", str(out)]) == 0
        said = "".join(capsys.readouterr())
        assert ("cache of pooled features" in said) is there
        assert quick.cache.exists() is there
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["options"]["machine"]["cache"]["enabled"] is there

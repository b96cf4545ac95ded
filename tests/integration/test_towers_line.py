"""The whole line of two towers: things that were never seen are found by picture and by name, in both languages."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import regraft
from regraft.artifact.store import read_artifact
from regraft.cli.app import _run
from regraft.errors import DataError, UsageError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240), "black": (9, 9, 9)}
OTHER = {"red": "rosso", "green": "verde", "blue": "blu", "white": "bianco", "black": "nero"}
SMALL = ["judge.resamples=100", "judge.probe_rows=200", "machine.threads=1", "machine.cache.disk_mb=0"]


def flags_of_things(folder: Path) -> Path:
    """Write pictures of three stripes, each with a name in two languages, one row a name."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    rows = []
    for number, colours in enumerate(itertools.product(COLOURS, repeat=3)):
        stripes = np.repeat(np.array([COLOURS[colour] for colour in colours]), [3, 3, 2], axis=0)
        pixels = np.clip(stripes[None] + rng.integers(-9, 10, (8, 8, 3)), 0, 255).astype(np.uint8)
        path = f"pictures/{number}.png"
        Image.fromarray(pixels).save(folder / path)
        for words in (("left {}", "middle {}", "right {}"), ("sinistra {}", "mezzo {}", "destra {}")):
            told = colours if words[0].startswith("left") else [OTHER[colour] for colour in colours]
            name = " ".join(word.format(colour).replace(" ", "") for word, colour in zip(words, told, strict=True))
            rows.append({"picture": path, "name": name, "thing": f"t{number}"})
    with (folder / "things.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "things.csv"


def command(data: Path, out: Path, *more: str, epochs: int = 14) -> list[str]:
    sizes = ["base.parts.name.width=32", "base.parts.picture.widths=[12]", "modality.size=8", "task.width=16"]
    rates = [
        "train.learning_rate=0.01",
        "train.head_learning_rate=0.01",
        "train.batch_size=50",
        "train.validation.patience=100",
    ]
    said = f"fit {data} --target thing --task retrieval --image picture=conv --text name=mlp --base fusion --epochs {epochs} --out {out}"
    return [*said.split(), *(part for one in (*sizes, *rates, *SMALL, *more) for part in ("--set", one))]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One artifact of two towers, made on the command line."""
    folder = tmp_path_factory.mktemp("towers")
    data = flags_of_things(folder)
    assert _run(command(data, folder / "m")) == 0
    return read_artifact(folder / "m"), data


@pytest.fixture(scope="module")
def by_sigmoid(tmp_path_factory):
    """One artifact of two towers whose pairs were told apart one by one."""
    folder = tmp_path_factory.mktemp("sigmoid")
    data = flags_of_things(folder)
    assert _run(command(data, folder / "m", "task.loss=sigmoid", epochs=8)) == 0
    return read_artifact(folder / "m"), data


def rows_of(data: Path, language: str = "") -> list[dict[str, str]]:
    with data.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if language in row["name"]]


def test_things_that_were_never_seen_are_found_both_ways(fitted):
    report = fitted[0].report.to_json()
    metrics = {name: value["value"] for name, value in report["metrics"].items()}
    assert report["n"] == 50
    assert metrics["recall_at_10"] > 0.9
    assert min(metrics["recall_at_1_there"], metrics["recall_at_1_back"]) > 0.5
    ladder = {step["name"]: step for step in report["ladder"]}
    assert list(ladder) == ["chance", "first-part-alone", "second-part-alone", "fitted"]
    assert ladder["chance"]["metrics"]["recall_at_5_back"]["value"] == pytest.approx(5 / 25)
    assert ladder["second-part-alone"]["note"] == "by 'picture' alone, the 5 nearest training rows"
    assert report["verdict"] == "better"
    assert "split with seed 0, rows of one target together: train 176, valid 24, test 50 rows" in report["notes"]
    assert any("asks with 'name' and looks for 'picture' among 25 things" in note for note in report["notes"])
    assert "ablation" not in report


def test_the_artifact_is_judged_again_against_chance(fitted, capsys):
    artifact, data = fitted
    assert (
        _run(
            ["evaluate", str(artifact.path), str(data), "--set", "judge.resamples=100", "--set", "judge.overlap=keep", "--json"]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["n"] == 250
    assert report["ladder"][0]["name"] == "chance"
    assert report["ladder"][0]["metrics"]["recall_at_10"]["value"] == pytest.approx(10 / 125)
    assert report["metrics"]["recall_at_10"]["value"] > 0.9


def test_each_tower_answers_alone_as_it_answers_in_a_pair(fitted):
    artifact, data = fitted
    row = {**rows_of(data)[0]}
    row["picture"] = (data.parent / row["picture"]).read_bytes()
    predictor = regraft.load(artifact)
    whole, name, picture = predictor.predict([row, {**row, "picture": None}, {**row, "name": None}])
    assert list(whole.value) == ["name", "picture"]
    np.testing.assert_allclose(name.value["name"], whole.value["name"], atol=1e-6)
    np.testing.assert_allclose(picture.value["picture"], whole.value["picture"], atol=1e-6)
    assert (list(name.value), list(picture.value)) == (["name"], ["picture"])
    again = regraft.load(artifact).outputs([row])
    assert again.tobytes() == predictor.outputs([row]).tobytes()


def test_pictures_are_found_by_names_and_names_by_pictures_on_the_command_line(fitted, tmp_path):
    artifact, data = fitted
    every, left = rows_of(data), rows_of(data, "left")
    names = write(tmp_path / "names.csv", left, "name")
    for by, queries, among, asked in (("name", names, data, left), ("picture", data, names, every)):
        out = tmp_path / f"{by}.csv"
        told = ["--among", str(among), "--by", by, "--top", "3", "--out", str(out)]
        assert _run(["retrieve", str(artifact.path), str(queries), *told]) == 0
        with out.open(encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        assert [int(line["row"]) for line in lines] == [row + 1 for row in range(len(asked)) for _ in range(3)]
        assert [line["place"] for line in lines] == ["1", "2", "3"] * len(asked)
        cosines = [float(line["cosine"]) for line in lines]
        assert all(one >= two for place, (one, two) in enumerate(itertools.pairwise(cosines)) if place % 3 < 2)
        there = every if by == "name" else left
        right = [asked[int(line["row"]) - 1]["thing"] == there[int(line["found_row"]) - 1]["thing"] for line in lines]
        assert np.any(np.reshape(right, (-1, 3)), axis=1).mean() > 0.75
        assert lines[0]["asked"].startswith("name=left" if by == "name" else "picture=pictures/0.png; name=left")


def write(path: Path, rows: list[dict[str, str]], *columns: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_names_that_no_row_had_tell_pictures_apart(fitted):
    """Zero-shot: the shares are the softmax of the inner products of the towers' outputs over the list."""
    artifact, data = fitted
    names = ["leftred middlered rightred", "leftblue middleblue rightblue", "leftwhite middlewhite rightwhite"]
    picture = next(row for row in rows_of(data) if row["name"] == names[1])
    pixels = (data.parent / picture["picture"]).read_bytes()
    (found,) = regraft.retrieve(artifact, [{"picture": pixels}], among=names)
    assert names[found.matches[0].row] == names[1]
    predictor = regraft.load(artifact)
    asked, *there = (
        np.split(row, 2)
        for row in predictor.outputs([{"name": None, "picture": pixels}, *({"name": name, "picture": None} for name in names)])
    )
    logits = np.array([asked[1] @ side[0] for side in there], dtype=np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    for match in found.matches:
        assert match.probability == pytest.approx(shares[match.row], rel=1e-4)
        assert match.about == {"name": names[match.row]}
    assert sum(match.probability for match in found.matches) == pytest.approx(1)


def test_with_the_loss_sigmoid_a_pair_has_a_probability_of_its_own(by_sigmoid):
    """Against the weights of the heads as they are stored: t is the product of the towers' scales, b the sum of their biases."""
    artifact, data = by_sigmoid
    metrics = artifact.report.to_json()["metrics"]
    assert metrics["recall_at_10"]["value"] > 0.8
    weights = load_file(artifact.path / "weights.safetensors")
    scale = math.exp(sum(float(array) for name, array in weights.items() if name.endswith("log_scale")))
    biases = [float(array) for name, array in weights.items() if name.count(".") == 3 and name.endswith(".bias")]
    assert len(biases) == 2
    row = rows_of(data)[0]
    pixels = (data.parent / row["picture"]).read_bytes()
    names = [row["name"], *(other["name"] for other in rows_of(data)[2:9])]
    (found,) = regraft.retrieve(artifact, [{"picture": pixels}], among=names)
    answers = regraft.load(artifact).predict([{"name": name, "picture": pixels} for name in names])
    assert all(len(vector) == 16 for answer in answers for vector in answer.value.values())
    for match in found.matches:
        cosine = float(np.dot(answers[match.row].value["name"], answers[match.row].value["picture"]))
        assert match.cosine == pytest.approx(cosine, abs=1e-5)
        assert match.probability == pytest.approx(1 / (1 + math.exp(-(scale * cosine + sum(biases)))), rel=1e-3)
    (alone,) = regraft.retrieve(artifact, [{"picture": pixels}], among=names[:1])
    assert alone.matches[0].probability == pytest.approx(next(one.probability for one in found.matches if not one.row))


def test_a_bias_for_the_loss_softmax_is_refused(fitted, tmp_path, capsys):
    assert _run(command(fitted[1], tmp_path / "m", "task.bias=-10")) == 2
    assert "the loss softmax has no bias" in capsys.readouterr().err


def test_rows_that_cannot_be_read_say_so_in_their_place(fitted, tmp_path):
    artifact, data = fitted
    rows = [*rows_of(data)[:3]]
    rows[1] = {**rows[1], "picture": "pictures/none.png"}
    broken = write(data.parent / "broken.csv", rows, "picture")
    found = regraft.retrieve(artifact, str(broken), among=["leftred", "rightred"], top=1)
    assert [len(one.matches) for one in found] == [1, 0, 1]
    assert "none.png" in found[1].error
    with pytest.raises(DataError, match="rows that ask cannot be read"):
        regraft.retrieve(artifact, str(broken), among=["leftred"], strict=True)
    held = regraft.retrieve(artifact, ["leftred"], among=str(broken))
    assert sorted(match.row for match in held[0].matches) == [0, 2]
    with pytest.raises(DataError, match="1 of 3 rows to be found cannot be read"):
        regraft.retrieve(artifact, ["leftred"], among=str(broken), strict=True)


@pytest.mark.parametrize(
    ("queries", "among", "how", "told"),
    [
        ("DATA", "DATA", {}, "say which part asks: --by name or --by picture"),
        ("DATA", "DATA", {"by": "names"}, "did you mean 'name'?"),
        ([{"title": "x"}], "DATA", {}, "the columns that are read are not there"),
        (["x"], "DATA", {"by": "names"}, "did you mean 'name'?"),
        (["x"], "DATA", {"top": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_found_says_what_to_do(fitted, queries, among, how, told):
    artifact, data = fitted
    given = [str(data) if value == "DATA" else value for value in (queries, among)]
    with pytest.raises(UsageError) as caught:
        regraft.retrieve(artifact, given[0], among=given[1], **how)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["train.micro_batch_size=8"], "a batch cannot go through in pieces"),
        (["base.style=gated"], "leave base.style out"),
        (["train.validation.metric=accuracy"], "for classes"),
    ],
)
def test_options_that_do_not_go_with_two_towers_are_refused(fitted, tmp_path, capsys, more, told):
    assert _run(command(fitted[1], tmp_path / "m", *more)) == 2
    assert told in capsys.readouterr().err


def test_data_that_have_no_pairs_are_refused(fitted, tmp_path, capsys):
    _, data = fitted
    rows = rows_of(data)
    rows[7]["name"] = ""
    gap = write(data.parent / "gap.csv", rows, "picture", "name", "thing")
    assert _run(command(gap, tmp_path / "m")) == 2
    said = capsys.readouterr().err
    assert "rows lack the part 'name'" in said
    assert "gap.csv, row 8" in said
    single = f"fit {data} --target thing --task retrieval --text name --base mlp --out {tmp_path / 'm'}".split()
    assert _run(single) == 2
    assert "name a column for each of two towers" in capsys.readouterr().err


def test_an_artifact_of_another_task_is_refused(tmp_path):
    rows = [{"text": f"{word} {number}", "label": word} for number in range(20) for word in ("good", "bad")]
    small = {"judge": {"resamples": 100}, "machine": {"threads": 1, "cache": {"disk_mb": 0}}, "train": {"epochs": 1}}
    base = {"name": "mlp", "width": 16}
    made = regraft.fit(rows, target="label", text="text", base=base, out=str(tmp_path / "m"), **small)
    with pytest.raises(UsageError, match="give an artifact that was fitted with --task retrieval"):
        regraft.retrieve(made, ["good"], among=["bad"])


@pytest.mark.slow
@pytest.mark.parametrize("which", ["fitted", "by_sigmoid"])
def test_an_export_finds_what_its_source_finds(which, request, tmp_path):
    artifact, data = request.getfixturevalue(which)
    exported = regraft.export(artifact, format="onnx", out=str(tmp_path / "o"), rows=str(data), machine={"threads": 1})
    names = [row["name"] for row in rows_of(data, "left")[:20]]
    ours, theirs = (regraft.retrieve(one, names, among=str(data), top=2) for one in (artifact, exported))
    assert [[match.row for match in one.matches] for one in ours] == [[match.row for match in one.matches] for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for numbers in ("cosine", "probability"):
            near = [[getattr(match, numbers) for match in found.matches] for found in (one, other)]
            assert near[0] == pytest.approx(near[1], abs=1e-4)

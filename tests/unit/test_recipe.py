"""A recipe is the options of a fit in a file: what is wrong has its line, what is given beside it wins, paths start at the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.errors import OptionsError, UsageError
from regraft.options import build
from regraft.recipe import changed, read_recipe, with_recipe
from regraft.verbs import FitOptions


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(OptionsError) as raised:
        read_recipe(written(folder, text))
    return [str(problem) for problem in raised.value.problems]


def test_every_problem_is_told_together_with_its_line_and_the_nearest_name(tmp_path: Path):
    found = problems(
        tmp_path,
        "target: label\n"
        "# a remark\n"
        "base:\n"
        "  name: cnn\n"
        "  widht: 64\n"
        "train:\n"
        "  epocs: 3\n"
        "  learning_rate: fast\n"
        "lerning_rate: 1\n"
        "tuning: lorra\n"
        "data: {name: spam, tset_share: 0.1}\n",
    )
    told = "\n".join(found)
    assert len(found) == 6
    for line, word, fix in [
        (5, "there is no option 'widht'", "did you mean 'width'"),
        (7, "there is no option 'epocs'", "did you mean 'epochs'"),
        (8, "'train.learning_rate' has a value", "change 'train.learning_rate'"),
        (9, "there is no option 'lerning_rate'", ""),
        (10, "there is no 'lorra' among the tunings", ""),
        (11, "there is no option 'tset_share'", "did you mean 'test_share'"),
    ]:
        (one,) = [problem for problem in found if word in problem]
        assert f"run.yaml, line {line}" in one.splitlines()[1], told
        assert fix in one


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target: a\ntarget: b\n", ["'target' is given twice", "line 2", "first in line 1"]),
        ("target: [\n", ["not YAML"]),
        ("target: !!python/object/apply:os.system ['true']\n", ["a tag", "python/object", "line 1"]),
        ("target: !!python/name:os.system\n", ["not YAML", "python/name"]),
        ("- 1\n", ["not a mapping", "list"]),
        ("train: &a {epochs: 1}\njudge: *a\n", ["alias", "line 1"]),
        ("? [a, b]\n: 1\n", ["a key is not a name", "line 1"]),
        ("{a: " * 2000, ["not YAML"]),
        ("a: 1\n---\nb: 2\n", ["not YAML"]),
        ("train: {epochs: [" + "1," * 20_000 + "]}\n", ["too many values"]),
        ("#" * (2**20 + 1), ["too large"]),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str, words: list[str]):
    told = "\n".join(problems(tmp_path, text))
    for word in words:
        assert word in told, told


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path):
    with pytest.raises(OptionsError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("target: grün".encode("latin-1"))
    with pytest.raises(OptionsError, match="save it as UTF-8"):
        read_recipe(tmp_path / "latin.yaml")


def test_paths_are_seen_from_the_file_and_samples_are_not_paths(tmp_path: Path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "base").mkdir()
    text = "data: {name: ../mails.csv, valid_share: 0.2}\ntarget: label\nvalid: v.csv\ntest: spam\nout: made\n"
    text += "base: ../base\nmachine: {cache: {folder: kept}}\n"
    recipe = read_recipe(written(folder, text))
    assert Path(recipe.data or "").resolve() == tmp_path / "mails.csv"
    wanted = build(FitOptions, recipe.options)
    assert Path(wanted.valid or "") == folder / "v.csv"
    assert wanted.test == "spam"
    assert wanted.data.valid_share == 0.2
    assert Path(wanted.out) == folder / "made"
    assert Path(wanted.base.options["source"]).resolve() == tmp_path / "base"
    assert wanted.machine.cache.place == folder / "kept"
    assert recipe.content["valid"] == "v.csv"
    absolute = read_recipe(written(folder, f"data: {tmp_path}/x.csv\nbase: cnn\n"))
    assert absolute.data == f"{tmp_path}/x.csv"
    assert absolute.options["base"] == "cnn"


def test_what_is_given_beside_the_file_wins(tmp_path: Path):
    path = written(tmp_path, "data: spam\ntarget: label\ntext: body\nbase: {name: cnn, width: 64}\ntrain: {epochs: 2}\n")
    beside = {"out": "o", "text": "other", "train": {"batch_size": 8}, "base": {"width": 32}}
    data, options, recipe = with_recipe(path, None, beside)
    wanted = build(FitOptions, options)
    assert data == "spam"
    assert wanted.columns == {"text": "other"}
    assert (wanted.train.epochs, wanted.train.batch_size) == (2, 8)
    assert (wanted.base.name, wanted.base.options) == ("cnn", {"width": 32})
    assert recipe is not None
    assert with_recipe(path, "mine.csv", {})[0] == "mine.csv"
    rows = [{"label": "a"}]
    assert with_recipe(None, rows, {"target": "label"}) == (rows, {"target": "label"}, None)
    with pytest.raises(UsageError, match="there are no data"):
        with_recipe(None, None, {})


def test_only_what_differs_from_the_defaults_is_changed():
    asked = {"target": "label", "train": {"clip_norm": 1.0, "batch_size": 8}, "base": {"name": "cnn", "width": 8}, "seed": 0}
    assert dict(changed(asked)) == {
        ("target",): "label",
        ("train", "batch_size"): 8,
        ("base", "name"): "cnn",
        ("base", "width"): 8,
    }


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_fit_to_their_data(path: Path):
    recipe = read_recipe(path)
    assert recipe.data, "it names its data"
    build(FitOptions, {"out": "somewhere", **recipe.options})

"""Tunings on the command line: their options are listed, and mistakes are answered with the nearest names."""

from __future__ import annotations

import json

import pytest

from regraft.cli.app import _run
from regraft.tuning import TUNINGS


@pytest.fixture
def call(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = _run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return run


def test_each_tuning_is_listed_with_its_options(call):
    for name in TUNINGS:
        code, out, _ = call("list", "tunings", name)
        assert code == 0
        assert out.startswith(f"{name}  ")
        assert "layer_decay: float [1.0]" in out
        assert [line.partition(" ")[0] for line in out.splitlines() if "  Let " in line] == [name]
    out = " ".join(call("list", "tunings", "lora")[1].split())
    for text in ("rank: int [8] Width of the bottleneck", "targets: tuple", "rates: dict", "reinit: int [0] Layers"):
        assert text in out
    assert "top-k" not in out
    assert json.loads(call("list", "tunings", "ia3", "--json")[1].splitlines()[-1])["names"].keys() == {"ia3"}


def test_help_of_fit_points_to_them(call):
    _, out, _ = call("fit", "--help")
    assert "names, each with its own tuning.OPTION: regraft list tunings [NAME]" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["list", "tunings", "lroa"], ["there is no 'lroa' among the tunings", "did you mean 'lora'"]),
        (["--tuning", "lroa"], ["did you mean 'lora'"]),
        (["--tuning", "lora", "--set", "tuning.rnak=8"], ["no option 'rnak'", "tuning, lora", "did you mean 'rank'?"]),
        (["--tuning", "lora", "--set", "tuning.rank=0"], ["the option 'rank'", "greater than or equal to 1"]),
        (["--tuning", "bitfit", "--set", "tuning.rank=8"], ["no option 'rank'", "tuning, bitfit"]),
        (["--tuning", "full", "--set", "tuning.layer_decay=2"], ["the option 'layer_decay'", "less than or equal to 1"]),
    ],
)
def test_mistakes_are_answered_before_work(arguments, texts, call, tmp_path):
    data = tmp_path / "rows.csv"
    data.write_text("text,label\nhello,a\nbye,b\n")
    given = arguments if arguments[0] == "list" else ["fit", str(data), "--target", "label", "--out", "o", *arguments]
    code, _, err = call(*given)
    assert code == 2
    for text in texts:
        assert text in err

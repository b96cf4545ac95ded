import sys
from pathlib import Path

import pytest

from regraft.answering import summaries
from regraft.errors import MissingExtraError, UnknownNameError
from regraft.registry import Registry

BROKEN = "('eight' (numbers) of the package 'broken' cannot be loaded)"


def table() -> Registry[object]:
    return Registry("numbers", {"pi": "math:pi", "tau": "math:tau"}, aliases={"3.14": "pi"}, extra="train")


def test_listing_imports_nothing():
    lazy: Registry[object] = Registry("things", {"x": "a_module_that_is_not_there:x"})
    assert lazy.names() == ["x"]
    assert "x" in lazy
    assert list(lazy) == ["x"]


def test_alias_is_the_same_thing():
    assert table().get("3.14") is table().get("pi")
    assert table().canonical("3.14") == "pi"


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        table().get("tao")
    assert str(caught.value) == "there is no 'tao' among the numbers\n  to do: did you mean 'tau'?"


def test_missing_package_names_the_extra():
    lazy: Registry[object] = Registry("things", {"x": "a_package_that_is_not_there:x"}, extra="serve")
    with pytest.raises(MissingExtraError) as caught:
        lazy.get("x")
    assert str(caught.value) == (
        "'x' (things) needs the package 'a_package_that_is_not_there', which is not installed\n  to do: pip install 'regraft[serve]'"
    )


def test_added_names_are_checked():
    numbers = table()
    numbers.add("e", "math:e")
    assert numbers.get("e") == pytest.approx(2.718281828)
    for name, target, text in [
        ("e", "math:e", "already registered"),
        ("Not_Kebab", "math:e", "kebab-case"),
        ("f", "math.e", "module:attribute"),
    ]:
        with pytest.raises(ValueError, match=text):
            numbers.add(name, target)
    numbers.discard("e")
    assert "e" not in numbers


def test_entry_points_of_outside_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "outside_numbers.py").write_text("seven = 7\n")
    info = tmp_path / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[regraft.numbers]\nseven = outside_numbers:seven\npi = outside_numbers:seven\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    numbers = table()
    assert numbers.names() == ["pi", "tau", "seven"]
    assert numbers.get("seven") == 7
    assert numbers.get("pi") == pytest.approx(3.14159, abs=1e-5), "an outside package must not replace a name of the house"
    sys.modules.pop("outside_numbers", None)


@pytest.mark.parametrize(
    ("code", "got"),
    [
        ("import a_package_that_is_not_there", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("other = 1", "AttributeError: module 'broken_numbers' has no attribute 'eight'"),
        ("def (", "SyntaxError: invalid syntax"),
    ],
)
def test_a_broken_outside_package_is_named_and_breaks_nothing_else(tmp_path, monkeypatch, code, got):
    (tmp_path / "broken_numbers.py").write_text(code)
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[regraft.numbers]\neight = broken_numbers:eight\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_numbers", raising=False)
    numbers = table()
    with pytest.raises(MissingExtraError) as caught:
        numbers.get("eight")
    assert "'eight' (numbers) of the package 'broken' cannot be loaded\n  got: " + got in str(caught.value)
    assert "to do: mend or update the package 'broken', or remove it" in str(caught.value)
    assert summaries(numbers) == {"pi": summaries(table())["pi"], "tau": summaries(table())["tau"], "eight": BROKEN}
    sys.modules.pop("broken_numbers", None)

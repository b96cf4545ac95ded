"""A task or a base from outside: one file and one line, or one file and an entry point; the unchanged suite runs over it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import suite_inputs
import suite_tasks

from regraft.models import BASES
from regraft.models.architectures import ARCHITECTURES
from regraft.tasks import TASKS

HERE = Path(__file__).parent


@pytest.fixture
def toy_task():
    TASKS.add("toy-binary", "toy_task:Binary")
    yield "toy-binary"
    TASKS.discard("toy-binary")


@pytest.mark.parametrize("check", suite_tasks.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_task_added_by_one_line_passes_the_suite(toy_task, check):
    check(toy_task)


def test_a_task_added_by_one_line_survives_save_and_load(toy_task, tmp_path):
    suite_tasks.check_save_and_load_are_bit_equal(toy_task, tmp_path)


@pytest.fixture
def toy_base():
    BASES.add("toy-steps", "toy_base:Steps")
    yield "toy-steps"
    BASES.discard("toy-steps")


@pytest.mark.parametrize("check", suite_inputs.BASE_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_base_with_a_network_of_its_own_added_by_one_line_passes_the_suite(toy_base, check):
    check(toy_base)


def test_a_base_added_by_one_line_survives_save_and_load(toy_base, tmp_path):
    suite_inputs.check_base_is_the_same_after_save_and_load(toy_base, tmp_path)


def test_the_family_that_a_base_brings_is_there_as_long_as_the_base_is(toy_base):
    assert {"bert", "toy-steps"} <= set(ARCHITECTURES)
    assert len(ARCHITECTURES) == len(set(ARCHITECTURES))
    BASES.discard(toy_base)
    assert "toy-steps" not in ARCHITECTURES
    with pytest.raises(KeyError):
        ARCHITECTURES["toy-steps"]


def test_a_base_in_one_file_is_described_without_torch(toy_base):
    code = "import sys, toy_base; assert toy_base.Steps('a', toy_base.StepsOptions()).card(); assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *(entry for entry in sys.path if entry)])}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr


@pytest.fixture
def outside_package(tmp_path):
    """A folder as a package manager leaves it: a module, and metadata with an entry point."""
    shutil.copy(HERE / "toy_task.py", tmp_path / "outside_task.py")
    facts = tmp_path / "outside_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[regraft.tasks]\ntoy-outside = outside_task:Binary\n")
    return tmp_path


def test_a_task_of_an_installed_package_is_found_and_passes_the_suite(outside_package, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(outside_package)
    monkeypatch.setattr(TASKS, "_outside_seen", False)  # as in a process that starts now
    try:
        assert "toy-outside" in TASKS.names()
        assert TASKS.get("toy-outside").__module__ == "outside_task"
        for check in suite_tasks.CHECKS:
            check("toy-outside")
    finally:
        TASKS.discard("toy-outside")


@pytest.mark.slow
def test_the_suite_in_a_process_of_its_own_runs_over_an_installed_package_by_itself(outside_package):
    path = os.pathsep.join([str(outside_package), *(entry for entry in sys.path if entry)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "toy-outside"]
    environment = {**os.environ, "PYTHONPATH": path}
    command.append(str(HERE / "test_conformance.py"))
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parent.parent)
    assert found.returncode == 0, found.stdout + found.stderr
    passed = re.search(r"(\d+) passed", found.stdout)
    assert passed
    assert int(passed.group(1)) == len(suite_tasks.CHECKS) + 1


def broken(**changes):
    """Return the toy task with something wrong in it."""
    from toy_task import Binary

    return type("Broken", (Binary,), changes)


def leaky_loss(self, output, targets):
    from toy_task import Binary

    loss = Binary.loss(self, output, targets)
    return loss._replace(total=loss.total / len(targets))


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("losses_of_parts_add_up", {"loss": leaky_loss}),
        ("it_declares_itself", {"metrics": ("acuracy",)}),
        ("targets_are_judged", {"target_problem": lambda self, value: ""}),
        ("state_survives_json", {"state": lambda self: {"rows": 0}, "restore": classmethod(lambda cls, o, s: None)}),
        ("it_beats_the_trivial_baseline", {"decode": lambda self, output: []}),
        ("nothing_to_learn_from_is_an_error", {"learn": lambda self, values, ledger: None}),
    ],
)
def test_the_suite_finds_what_is_wrong(monkeypatch, check, changes):
    monkeypatch.setitem(TASKS._loaded, "classification", broken(**changes))
    run = next(one for one in suite_tasks.CHECKS if one.__name__ == f"check_{check}")
    with pytest.raises((AssertionError, AttributeError, ValueError, pytest.fail.Exception)):
        run("classification")

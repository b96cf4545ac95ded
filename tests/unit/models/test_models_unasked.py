"""Where torchao is installed, commands do not open it: no second lost, no warnings; ExecuTorch can still have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from regraft.registry import installed

# Stands in the place of the real one, so that the test does not need it: says so when it is opened, as that does.
_LOUD = "import sys\nprint('torchao was opened', file=sys.stderr)\n"
_OPENS_MODELS = "import transformers\ntransformers.BertModel\n"


def run(program: str, folder: Path) -> tuple[int, str]:
    (folder / "torchao").mkdir(exist_ok=True)
    (folder / "torchao" / "__init__.py").write_text(_LOUD)
    (folder / "torchao-0.18.0.dist-info").mkdir(exist_ok=True)
    (folder / "torchao-0.18.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.18.0\n")
    lines = f"import sys\nsys.path.insert(0, {str(folder)!r})\n{program}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_command_does_not_open_it(tmp_path: Path) -> None:
    command = (
        "sys.argv = ['regraft', '--version']\nfrom regraft.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
    )
    program = command + _OPENS_MODELS
    assert run(program, tmp_path) == (0, "")


def test_without_a_word_from_us_the_hubs_library_opens_it(tmp_path: Path) -> None:
    """Or the other test would show nothing."""
    _, said = run(_OPENS_MODELS, tmp_path)
    assert "torchao was opened" in said


def test_it_can_be_let_in_again(tmp_path: Path) -> None:
    program = "from regraft.models.unasked import keep_out, let_in\nlet_in()\nkeep_out()\n"
    code, said = run(f"{program}import torchao\n", tmp_path)
    assert code
    assert "torchao was opened" not in said
    assert run(f"{program}let_in()\nimport torchao\nkeep_out()\nimport torchao\n", tmp_path) == (0, "torchao was opened\n")


def test_the_hidden_package_is_not_there_for_those_who_look(tmp_path: Path) -> None:
    program = "from regraft.models.unasked import keep_out\nkeep_out()\nfrom regraft.registry import installed\n"
    assert run(f"{program}assert not installed('torchao')\n", tmp_path) == (0, "")
    assert installed("transformers")

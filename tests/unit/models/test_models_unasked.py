"""Where torchao, pandas and scipy are installed, commands do not open them unasked; whoever asks for them gets them."""

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


_OUT = "from regraft.models.unasked import keep_out\nkeep_out()\nkeep_out()\n"
_ARRAY = "import pyarrow as pa\npa.array([1])\n"
_SERIES = "import pandas as pd\nassert pa.array(pd.Series([1.0, float('nan')])).null_count == 1\n"
_LOSSES = "from transformers.loss import loss_for_object_detection as losses\n"


def passes(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{program}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_array_opens_no_pandas() -> None:
    passes(f"{_OUT}{_ARRAY}pa.table({{'a': ['x']}})\nassert 'pandas' not in sys.modules\n")
    passes(f"{_ARRAY}assert 'pandas' in sys.modules\n")  # or this would show nothing


def test_pyarrow_knows_the_frames_of_pandas_whoever_comes_first() -> None:
    frame = f"{_SERIES}assert pa.table(pd.DataFrame({{'a': [1]}})).to_pandas().a.tolist() == [1]\n"
    passes(_OUT + _ARRAY + frame)
    passes(f"{_OUT}import pandas\n{_ARRAY}{frame}")
    passes(
        f"{_OUT}{_ARRAY}import datasets\n{frame}assert datasets.Dataset.from_dict({{'a': [1]}}).to_pandas().a.tolist() == [1]\n"
    )
    passes(f"{_ARRAY}{_OUT}{frame}")


def test_whoever_only_looks_changes_nothing() -> None:
    looks = "import importlib.util\nfor _ in range(2):\n    assert importlib.util.find_spec('pandas').loader is not None\n"
    passes(f"{_OUT}{looks}{_ARRAY}assert 'pandas' not in sys.modules\n{looks}{_SERIES}")
    looks = looks.replace("pandas", "no_such_module_at_all").replace(".loader is not None", " is None")
    passes(f"{_OUT}{looks}")


def test_losses_of_objects_open_scipy_as_they_are_computed() -> None:
    asked = "assert [list(part) for part in losses.linear_sum_assignment([[1.0, 2.0], [0.0, 3.0]])] == [[0, 1], [1, 0]]\n"
    unasked = "assert 'scipy' not in sys.modules\n"
    passes(f"{_OUT}{_OPENS_MODELS}{unasked}{_LOSSES}{unasked}{asked}from scipy.optimize import minimize\n")
    passes(f"{_OUT}from scipy.optimize import minimize\n{_LOSSES}{asked}")
    passes(f"{_LOSSES}assert 'scipy.optimize' in sys.modules\n")


def test_another_release_may_ask_for_more_of_scipy(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "loss" / "__init__.py").write_text("")
    (tmp_path / "loss" / "loss_utils.py").write_text("from scipy.special import expit\nfrom scipy.optimize import root\n")
    package = f"import types\npackage = types.ModuleType('transformers')\npackage.__path__ = [{str(tmp_path)!r}]\n"
    loads = "sys.modules['transformers'] = package\nfrom transformers.loss.loss_utils import expit, root\n"
    passes(f"{_OUT}{package}{loads}import scipy\nassert scipy.optimize.root is root\n")

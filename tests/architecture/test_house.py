"""The rules of the house that a program can check: reading order, sizes, names, what may not be imported or compared."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import regraft
from regraft.families import FAMILIES

SRC = Path(regraft.__file__).parent
FILES = sorted(SRC.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# Reading order is import order: a room may import rooms that stand before it.
ROOMS = [
    "version",
    "errors",
    "registry",
    "typed",
    "options",
    "several",
    "types",
    "families",
    "data",
    "modalities",
    "models",
    "calibration",
    "tasks",
    "objectives",
    "regularizers",
    "tuning",
    "compression",
    "training",
    "evaluation",
    "artifact",
    "exporters",
    "serving",
    "monitoring",
    "distributed",
    "verbs",
    "recipe",
    "parts",
    "previous",
    "defaults",
    "planning",
    "judged",
    "resuming",
    "calibrating",
    "learning",
    "fitting",
    "answering",
    "retrieving",
    "sampling",
    "exporting",
    "merging",
    "starting",
    "rendering",
    "reporting",
    "lifecycle",
    "cli",
]
PUBLIC = [
    "Artifact",
    "Dataset",
    "FAMILIES",
    "FitOptions",
    "Ledger",
    "Metric",
    "Prediction",
    "Predictor",
    "RegraftError",
    "Report",
    "__version__",
    "bases",
    "cache",
    "compare",
    "evaluate",
    "export",
    "fit",
    "inspect",
    "load",
    "load_dataset",
    "merge",
    "predict",
    "render",
    "report",
    "retrieve",
    "serve",
    "sign",
    "verify",
]
FORBIDDEN_FILES = {"utils", "helpers", "common", "manager", "misc", "util", "helper"}
FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torchvision", "torchaudio"}
HEAVY = {"torch", "transformers", "datasets", "pandas", "sklearn", "fastapi", "uvicorn", "huggingface_hub", "onnxruntime"}


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(SRC)}:{line}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_room_has_its_place_in_the_reading_order():
    unknown = {room(path) for path in FILES} - {*ROOMS, "__init__", "__main__"}
    assert not unknown


def test_a_room_imports_only_rooms_above_it():
    wrong = []
    for path, tree in TREES.items():
        if room(path) in {"__init__", "__main__"}:
            continue
        for line, name in imports(tree):
            parts = name.split(".")
            if parts[0] == "regraft" and len(parts) > 1 and ROOMS.index(parts[1]) > ROOMS.index(room(path)):
                wrong.append(f"{where(path, line)} imports {name}")
    assert not wrong


def test_sizes_stay_readable():
    wrong = []
    for path, tree in TREES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = 300 if path.relative_to(SRC).as_posix() == "training/loop.py" else 600
        if lines > limit:
            wrong.append(f"{path.relative_to(SRC)} has {lines} lines, at most {limit}")
        for node in functions(tree):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > 80:
                wrong.append(f"{where(path, node.lineno)} {node.name} has {length} lines, at most 80")
    assert not wrong


def test_functions_take_at_most_six_parameters_beside_options():
    wrong = []
    for path, tree in TREES.items():
        for node in functions(tree):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            counted = [arg.arg for arg in every if arg.arg not in {"self", "cls", "options"}]
            if len(counted) > 6:
                wrong.append(f"{where(path, node.lineno)} {node.name} takes {len(counted)}")
    assert not wrong


def test_options_classes_have_at_most_fifteen_documented_fields():
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            marks = getattr(node, "decorator_list", [])
            if not isinstance(node, ast.ClassDef) or not any(isinstance(m, ast.Name) and m.id == "options" for m in marks):
                continue
            body = node.body
            fields = [i for i, part in enumerate(body) if isinstance(part, ast.AnnAssign)]
            if len(fields) > 15:
                wrong.append(f"{where(path, node.lineno)} {node.name} has {len(fields)} fields")
            for i in fields:
                after = body[i + 1] if i + 1 < len(body) else None
                if not (
                    isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
                ):
                    wrong.append(f"{where(path, body[i].lineno)} has no docstring below it")
    assert not wrong


def registered_names() -> set[str]:
    names: set[str] = set()
    for family in FAMILIES:
        names.update(FAMILIES.get(family))
    return names


def test_no_code_compares_a_registered_name_with_a_literal():
    names = registered_names()
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                flat = [e for s in sides for e in (s.elts if isinstance(s, ast.Tuple | ast.List | ast.Set) else [s])]
                hits = {e.value for e in flat if isinstance(e, ast.Constant) and isinstance(e.value, str)} & names
                wrong += [f"{where(path, node.lineno)} compares with {hit!r}" for hit in hits]
            elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant) and node.value.value in names:
                wrong.append(f"{where(path, node.value.lineno)} matches {node.value.value!r}")
    assert not wrong


def test_nothing_unsafe_or_vague_is_imported_or_named():
    wrong = [
        where(p, line) + " " + name
        for p, t in TREES.items()
        for line, name in imports(t)
        if name.split(".")[0] in FORBIDDEN_IMPORTS
    ]
    wrong += [str(path.relative_to(SRC)) for path in FILES if {path.stem, *path.relative_to(SRC).parts} & FORBIDDEN_FILES]
    assert not wrong


def test_users_values_are_not_asserted_and_nothing_prints():
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                wrong.append(f"{where(path, node.lineno)} asserts")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                wrong.append(f"{where(path, node.lineno)} prints")
    assert not wrong


def test_public_names_are_pinned():
    assert sorted(regraft.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(regraft, name) is not None


@pytest.mark.parametrize("family", FAMILIES.names())
def test_every_registered_name_can_be_imported(family: str):
    registry = FAMILIES.get(family)
    assert registry.family == family
    assert registry.names()
    for name in registry:
        assert registry.get(name) is not None


def test_importing_the_package_and_its_rooms_is_light():
    rooms = [f"regraft.{name}" for name in ROOMS if (SRC / name / "__init__.py").exists()]
    modules = ["regraft", *rooms, "regraft.families", "regraft.verbs", "regraft.lifecycle", "regraft.serving.predictor"]
    code = (
        f"import sys, importlib; [importlib.import_module(m) for m in {modules!r}]; print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_import_regraft_alone_imports_next_to_nothing():
    code = "import sys; import regraft; print(len([m for m in sys.modules if m.split('.')[0] in ('numpy', 'pydantic', 'rich', 'torch')]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0"


def test_every_module_says_what_it_is_for():
    silent = [str(path.relative_to(SRC)) for path, tree in TREES.items() if not ast.get_docstring(tree)]
    assert not silent


def test_every_public_module_can_be_imported():
    for path in FILES:
        if path.stem == "__main__" or "build_" in path.stem:
            continue
        dotted = ".".join(("regraft", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
        importlib.import_module(dotted)

"""Programs of torch.export: what is read from an honest file, and what is refused in a crafted one, always without running it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.artifact.pt2_file import Constant, Use, read_pt2, unknown_operators
from regraft.artifact.pt2_operators import OPERATORS, SCALARS, SILENT
from regraft.errors import ArtifactError
from regraft.exporters.program_machine import Machine

MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"


class Small(torch.nn.Module):
    """A bag of words that also uses sizes, a table that is not a weight, lists of tensors and types."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 8)
        self.linear = torch.nn.Linear(8, 3)
        self.register_buffer("places", torch.arange(64), persistent=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.bool()
        x = self.table(input_ids) + self.places[: input_ids.shape[1], None].float() * 0.01
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        first, _ = x.chunk(2, dim=-1)
        half = x.shape[1] // 2 + 1
        return self.linear(x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)) + first[:, :half].sum((1, 2))[:, None]


def arguments(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 100 + length)
    ids = torch.randint(0, 20, (rows, length), generator=generator)
    return ids, (torch.arange(length) < torch.randint(1, length + 1, (rows, 1), generator=generator)).long()


@pytest.fixture(scope="module")
def net() -> Small:
    torch.manual_seed(3)
    return Small().eval()


@pytest.fixture(scope="module")
def program(net: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    axis = torch.export.Dim.DYNAMIC
    shapes = {name: {0: axis, 1: axis} for name in ("input_ids", "attention_mask")}
    made = torch.export.export(net, arguments(3, 5), dynamic_shapes=shapes)
    made.example_inputs = None
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(made, path)
    return path


def crafted(path: Path, out: Path, changes: dict[str, Callable[[bytes], bytes]], more: dict[str, bytes] | None = None) -> Path:
    """Copy an archive with some entries changed and others added."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as made:
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            made.writestr(info.filename, changes.get(name, lambda content: content)(archive.read(info)))
        for name, content in (more or {}).items():
            made.writestr(f"model/{name}", content)
    return out


def edited(path: Path, out: Path, edit: Callable[[Any], None], entry: str = MODEL) -> Path:
    """Copy an archive with the JSON of one entry edited."""

    def change(content: bytes) -> bytes:
        values = json.loads(content)
        edit(values)
        return json.dumps(values).encode()

    return crafted(path, out, {entry: change})


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_pt2(path)
    assert caught.value.problems[0].where == str(path)
    return str(caught.value)


def nodes(model: Any) -> list[Any]:
    return model["graph_module"]["graph"]["nodes"]


def test_an_honest_file_is_read_whole(program: Path, net: Small):
    found = read_pt2(program)
    assert found.inputs == ("input_ids", "attention_mask")
    weights = {weight.name: weight.value for weight in found.weights.values()}
    assert set(weights) == {"table.weight", "linear.weight", "linear.bias", "places"}
    for name, tensor in net.state_dict().items():
        assert np.array_equal(weights[name], tensor.numpy())
    used = {argument for step in found.steps for argument in step.positional if isinstance(argument, Use | Constant)}
    assert Constant("float32") in used
    assert not unknown_operators(program)


@pytest.mark.parametrize(("rows", "length"), [(3, 5), (1, 1), (1, 9), (6, 1), (2, 64)])
def test_steps_give_what_the_network_gives(program: Path, net: Small, rows: int, length: int):
    ids, mask = arguments(rows, length)
    got = Machine(read_pt2(program)).run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    with torch.inference_mode():
        assert np.array_equal(got, net(ids, mask).numpy())


def test_a_machine_can_be_asked_again_and_forgets_what_it_no_longer_needs(program: Path):
    machine = Machine(read_pt2(program))
    feeds = dict(zip(("input_ids", "attention_mask"), (tensor.numpy() for tensor in arguments(2, 4)), strict=True))
    first = machine.run(feeds)
    other = dict(zip(feeds, (tensor.numpy() for tensor in arguments(5, 7)), strict=True))
    assert machine.run(other).shape == (5, 3)
    assert np.array_equal(machine.run(feeds), first)
    freed = {place for call in machine._calls for place in call.frees}
    kept = set(range(len(machine._places))) - freed
    assert {name for name, place in machine._places.items() if place in kept} >= set(read_pt2(program).weights)
    assert len(freed) > 5


def test_every_operator_of_the_table_is_torchs_own_and_none_reads_files():
    for name in sorted(OPERATORS):
        packet, _, overload = name.rpartition(".")
        assert overload in getattr(torch.ops.aten, packet).overloads(), name
    assert not {name for name in OPERATORS if name.split(".")[0] in {"from_file", "set_", "resize_", "as_strided", "empty"}}
    assert not OPERATORS & SCALARS.keys()
    assert all(name.startswith("torch.ops.aten.") for name in SILENT)


def test_sample_inputs_which_are_a_pickle_are_refused(program: Path, net: Small, tmp_path: Path):
    made = torch.export.export(net, arguments(3, 5))
    torch.export.save(made, tmp_path / "model.pt2")
    assert "sample inputs, which are a pickle" in refusal(tmp_path / "model.pt2")


def test_a_weight_that_is_a_pickle_is_refused(program: Path, tmp_path: Path):
    def edit(config: Any) -> None:
        config["config"]["linear.bias"]["use_pickle"] = True

    said = refusal(edited(program, tmp_path / "model.pt2", edit, WEIGHTS))
    assert "a pickle" in said
    assert "'linear.bias'" in said


@pytest.mark.parametrize(
    "entry", ["data/weights/weight_0.py", "data/constants/custom_obj_0", "data/aotinductor/model/x.so", "extra/x", "../x"]
)
def test_an_entry_that_does_not_belong_into_a_program_is_refused(program: Path, tmp_path: Path, entry: str):
    said = refusal(crafted(program, tmp_path / "model.pt2", {}, {entry: b"x"}))
    assert "an entry that does not belong into a program" in said
    assert entry in said


def test_an_entry_that_stands_twice_or_is_packed_is_refused(program: Path, tmp_path: Path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = crafted(program, tmp_path / "twice.pt2", {}, {MODEL: b"{}"})
    assert "an entry that does not belong" in refusal(twice)
    with zipfile.ZipFile(program) as archive, zipfile.ZipFile(tmp_path / "packed.pt2", "w", zipfile.ZIP_DEFLATED) as made:
        for info in archive.infolist():
            made.writestr(info.filename, archive.read(info))
    assert "an entry that does not belong" in refusal(tmp_path / "packed.pt2")


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.linear.default.__class__",
        "torch.ops.my_library.run.default",
        "_operator.attrgetter",
        "math.__loader__",
        "#extension:run",
        "wrap_with_autocast",
        "exec",
    ],
)
def test_an_operator_that_is_not_in_the_table_is_refused(program: Path, tmp_path: Path, target: str):
    def edit(model: Any) -> None:
        nodes(model)[0]["target"] = target

    path = edited(program, tmp_path / "model.pt2", edit)
    said = refusal(path)
    assert "an operator that is not known here" in said
    assert target in said
    assert unknown_operators(path) == [target]


def test_expressions_and_guards_are_not_even_looked_at(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """torch evaluates both: a file could run code with them."""
    code = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"

    def edit(model: Any) -> None:
        model["guards_code"] = [code]
        for value in model["graph_module"]["graph"]["sym_int_values"].values():
            value["as_expr"]["expr_str"] = code

    path = edited(program, tmp_path / "model.pt2", edit)
    ids, mask = arguments(2, 5)
    Machine(read_pt2(path)).run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert not (tmp_path / "ran").exists()


def test_names_of_values_are_only_names(program: Path, tmp_path: Path):
    """torch writes them into source code that it compiles."""
    evil = "x)\nimport os #"

    def edit(model: Any) -> None:
        text = json.dumps(model["graph_module"]).replace('"masked_fill"', json.dumps(evil))
        model["graph_module"] = json.loads(text)

    ids, mask = arguments(2, 5)
    machine = Machine(read_pt2(edited(program, tmp_path / "model.pt2", edit)))
    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    assert np.array_equal(machine.run(feeds), Machine(read_pt2(program)).run(feeds))


def _later(model: Any) -> None:
    nodes(model).reverse()


def _unknown_layout(model: Any) -> None:
    model["schema_version"]["major"] = 9


def _two_outputs(model: Any) -> None:
    model["graph_module"]["signature"]["output_specs"] *= 2


def _token(model: Any) -> None:
    model["graph_module"]["signature"]["input_specs"][0] = {"token": {"arg": {"name": "x"}}}


def _custom_object(model: Any) -> None:
    nodes(model)[0]["inputs"][0]["arg"] = {"as_custom_obj": {"name": "x", "class_fqn": "y"}}


def _other_device(model: Any) -> None:
    nodes(model)[0]["inputs"][0]["arg"] = {"as_device": {"type": "cuda", "index": 0}}


def _no_place(model: Any) -> None:
    nodes(model)[0]["inputs"][0]["kind"] = None


def _graph_output(model: Any) -> None:
    nodes(model)[0]["outputs"] = [{"as_graph": {}}]


def _no_step(model: Any) -> None:
    model["graph_module"]["signature"]["output_specs"][0]["user_output"]["arg"]["as_tensor"]["name"] = "nowhere"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_later, "a step that uses what does not stand before it"),
        (_unknown_layout, "a graph of another layout"),
        (_two_outputs, "several outputs"),
        (_token, "an input that is neither a tensor nor a weight"),
        (_custom_object, "an argument of a kind that is not known here"),
        (_other_device, "an argument of a kind that is not known here"),
        (_no_place, "an argument that has no place"),
        (_graph_output, "an output of a kind that is not known here"),
        (_no_step, "an output that no step gives"),
    ],
)
def test_a_graph_that_cannot_be_followed_is_refused(program: Path, tmp_path: Path, edit: Callable[[Any], None], words: str):
    assert words in refusal(edited(program, tmp_path / "model.pt2", edit))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sizes", [{"as_int": 3000}, {"as_int": 8}], "a tensor that reaches beyond its file"),
        ("sizes", [{"as_int": -1}, {"as_int": 8}], "-1 is not a size"),
        ("sizes", [{"as_expr": {"expr_str": "x"}}, {"as_int": 8}], "cannot be read"),
        ("strides", [{"as_int": 1}, {"as_int": 3}], "a tensor whose rows do not follow each other"),
        ("storage_offset", {"as_int": 5}, "a tensor that reaches beyond its file"),
        ("dtype", 9, "cannot be read"),
    ],
)
def test_a_tensor_that_does_not_lie_in_its_file_is_refused(program: Path, tmp_path: Path, key: str, value: Any, words: str):
    def edit(config: Any) -> None:
        config["config"]["linear.weight"]["tensor_meta"][key] = value

    assert words in refusal(edited(program, tmp_path / "model.pt2", edit, WEIGHTS))


def test_what_is_no_program_is_refused(program: Path, tmp_path: Path):
    (tmp_path / "text.pt2").write_text("hello")
    assert "the program cannot be read" in refusal(tmp_path / "text.pt2")
    (tmp_path / "half.pt2").write_bytes(program.read_bytes()[:-300])
    assert "the program cannot be read" in refusal(tmp_path / "half.pt2")
    flipped = bytearray(program.read_bytes())
    with zipfile.ZipFile(program) as archive:
        place = next(info for info in archive.infolist() if info.filename.endswith("weight_0")).header_offset + 100
    flipped[place] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(flipped)
    assert "the program cannot be read" in refusal(tmp_path / "flipped.pt2")
    with zipfile.ZipFile(tmp_path / "empty.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    assert "the program cannot be read" in refusal(tmp_path / "empty.pt2")
    big = crafted(program, tmp_path / "big.pt2", {"byteorder": lambda _: b"big"})
    assert "another archive or byte order" in refusal(big)

"""Plant one fault in what an exporter is given, and see whether the gate around it refuses what comes out.

    @pytest.mark.parametrize("fault", FAULTS)
    def test_planted_faults_are_refused(fault, bert, tmp_path):
        refused(bert, "onnx", fault, tmp_path / "out")

The exporter is handed a whole artifact that is wrong in one thing, on disk and in memory, so that formats that translate the
network and formats that copy files are both led astray. What it is held against is the true source.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft import exporting, lifecycle
from regraft.artifact.manifest import MANIFEST, Manifest, ManifestBody
from regraft.artifact.store import Artifact
from regraft.artifact.verify import file_entries
from regraft.errors import GateError
from regraft.exporters import EXPORTERS
from regraft.exporters.exporter import Exporter, Source

FAULTS = ("preprocessing", "label-order", "head-bias", "pooling", "one-weight", "one-scale")
"""The six that every exporter must refuse; each moves answers of ordinary rows."""
QUIET_FAULTS = ("label-names", "unused-weight")
"""The names of two labels swapped beside the network; one number of the vector of a token that no row holds."""


# ---- what is wrong --------------------------------------------------------------------------------------------------


def _head_linear(net: Any) -> Any:
    from torch import nn

    return [module for module in net.head.modules() if isinstance(module, nn.Linear)][-1]


def _label_order(net: Any, source: Source) -> None:
    linear = _head_linear(net)
    for tensor in (linear.weight, *([linear.bias] if linear.bias is not None else [])):
        tensor.data = tensor.data.flip(0).clone()


def _head_bias(net: Any, source: Source) -> None:
    linear = _head_linear(net)
    if linear.bias is None:
        pytest.skip("this head has no bias")
    linear.bias.data[0] += 0.01


def _one_weight(net: Any, source: Source) -> None:
    _head_linear(net).weight.data[0, 0] += 0.05


def _one_scale(net: Any, source: Source) -> None:
    norms = [module for module in net.backbone.modules() if type(module).__name__.endswith("Norm")]
    norms[-1].weight.data *= 1.02


def _pooling(net: Any, source: Source) -> None:
    from regraft.models import POOLINGS

    name = other_pooling(net.backbone.pooling_name)
    net.backbone.pooling_name = name
    net.backbone.pooling = POOLINGS.get(name)(net.backbone.width)


def other_pooling(name: str) -> str:
    """Return a pooling that gives other vectors."""
    return "cls" if name == "mean" else "mean"


def _unused_weight(net: Any, source: Source) -> None:
    """Change the vector of a token that stands in none of the rows that are taken without data."""
    made_up = type(source.modality).example(np.random.default_rng(0).random((48, 4)), 0)
    rows = [*_golden_rows(source), *made_up]
    held = {int(i) for row in source.modality.encode(rows, spans=False) for i in row.inputs["input_ids"]}
    table = net.backbone.body.get_input_embeddings().weight
    unused = max(set(range(table.shape[0])) - held)
    table.data[unused, 0] += 0.5


def _golden_rows(source: Source) -> list[Any]:
    return [row["input"] for row in source.artifact.json("golden.json")["rows"]]


_IN_NETWORK: dict[str, Callable[[Any, Source], None]] = {
    "label-order": _label_order,
    "head-bias": _head_bias,
    "pooling": _pooling,
    "one-weight": _one_weight,
    "one-scale": _one_scale,
    "unused-weight": _unused_weight,
}


def _swap_two_tokens(folder: Path, source: Source) -> None:
    """Swap the numbers of the two pieces that golden rows hold most, in the tokenizer that the export carries."""
    path = folder / exporting.PREPROCESSING_FOLDER / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    encoded = source.modality.encode(_golden_rows(source), spans=False)
    counts = Counter(int(i) for row in encoded for i in row.inputs["input_ids"])
    special = {entry["id"] for entry in content["added_tokens"]}
    first, second = [i for i, _ in counts.most_common() if i not in special][:2]
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: the place in the list is the number
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    else:
        names = {number: name for name, number in vocabulary.items()}
        vocabulary[names[first]], vocabulary[names[second]] = second, first
    path.write_text(json.dumps(content), encoding="utf-8")


# ---- how it is planted ----------------------------------------------------------------------------------------------


def led_astray(source: Source, fault: str, folder: Path) -> Source:
    """Return the source with a fault in its network, in memory and as a whole artifact in an empty folder."""
    import shutil

    from regraft.models.net import save_net, weights_digest

    net = copy.deepcopy(source.network())
    _IN_NETWORK[fault](net, source)
    shutil.copytree(source.artifact.path, folder)
    save_net(net, folder)
    said = {item.name: getattr(source.manifest, item.name) for item in dataclasses.fields(ManifestBody)}
    network = dataclasses.replace(source.manifest.network, backbone=net.backbone.spec())
    body = ManifestBody(**{**said, "network": network, "weights_digest": weights_digest(net)})
    manifest = Manifest.of(body, file_entries(folder))
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return dataclasses.replace(source, artifact=Artifact(folder, manifest), net=net)


@contextmanager
def planted(fault: str, exporter: type[Exporter], scratch: Path, *, faults: bool = True) -> Iterator[None]:
    """Let every export of one kind be wrong in one thing in here.

    Args:
        fault: One of `FAULTS` or `QUIET_FAULTS`.
        exporter: Its class.
        scratch: A place that does not exist yet, for the artifact that is wrong.
        faults: Whether the exporter may look at its own files; else only answers can tell.
    """
    write, around, body = exporter.write, exporting._around, exporting._body

    def wrong_write(self: Exporter, source: Source, folder: Path) -> Any:
        return write(self, led_astray(source, fault, scratch), folder)

    def wrong_around(folder: Path, source: Source) -> None:
        around(folder, source)
        _swap_two_tokens(folder, source)

    def wrong_body(*arguments: Any) -> ManifestBody:
        made: ManifestBody = body(*arguments)
        if fault == "label-names":
            labels = list(made.task.state["labels"])
            state = {**made.task.state, "labels": [*labels[1:], labels[0]]}
            return dataclasses.replace(made, task=dataclasses.replace(made.task, state=state))
        # Forms that PyTorch computes read the pooling from the manifest.
        backbone = {**made.network.backbone, "pooling": other_pooling(made.network.backbone["pooling"])}
        return dataclasses.replace(made, network=dataclasses.replace(made.network, backbone=backbone))

    with pytest.MonkeyPatch.context() as patch:
        if fault in _IN_NETWORK:
            patch.setattr(exporter, "write", wrong_write)
        if fault == "preprocessing":
            patch.setattr(exporting, "_around", wrong_around)
        if fault in {"pooling", "label-names"}:
            patch.setattr(exporting, "_body", wrong_body)
        if not faults:
            patch.setattr(exporter, "faults", lambda *_: [])
        yield


def refused(artifact: Artifact, name: str, fault: str, out: Path, *, faults: bool = True, **options: Any) -> GateError:
    """Export with a fault planted; return the refusal, having seen that it leaves what was there and nothing else.

    Args:
        artifact: Of the form that `fit` writes.
        name: Registered name of the exporter.
        fault: One of `FAULTS` or `QUIET_FAULTS`.
        out: Where the export would stand.
        faults: Whether the exporter may look at its own files; else only answers can tell.
        options: Of `regraft.export`; a `format` with options instead of the name alone, too.
    """
    asked = {"format": name, "machine": {"threads": 1}, **options}
    before = contents(out.parent)
    scratch = out.parent.parent / f"wrong-{name}-{fault}-{faults}"
    with planted(fault, EXPORTERS.get(name), scratch, faults=faults), pytest.raises(GateError) as caught:
        lifecycle.export(artifact, out=str(out), **asked)
    assert contents(out.parent) == before, "a refused export leaves what stood there, and nothing else"
    return caught.value


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

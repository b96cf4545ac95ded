"""The file of an exported graph as a manifest names it: which file, fed with what, giving what. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from regraft.artifact.manifest import Manifest
from regraft.artifact.onnx_file import onnx_problems, read_onnx
from regraft.artifact.verify import contained
from regraft.errors import ArtifactError, Problem
from regraft.types import Array, Batch

_FIX = "export the artifact again, or get it from its source"


@dataclass(frozen=True)
class GraphFile:
    """An exported graph.

    Args:
        path: The file.
        inputs: Names of the arrays of a batch that it takes.
        mask: Name of its mask, int64, 1 where a position is real; empty where it takes none.
        output: Name of its output.
        convolutional: Whether it is mostly convolutions over two axes, which runtimes lay out in a way of their own.
    """

    path: Path
    inputs: tuple[str, ...]
    mask: str
    output: str
    convolutional: bool = False

    def feeds(self, batch: Batch) -> dict[str, Array]:
        """Return what the graph is fed with for a batch."""
        feeds = {name: batch.inputs[name] for name in self.inputs}
        if self.mask:
            feeds[self.mask] = batch.mask_BT.astype("int64")
        return feeds

    @property
    def taken(self) -> tuple[str, ...]:
        """Names of everything that the graph takes, in order."""
        return (*self.inputs, self.mask) if self.mask else self.inputs


def graph_file(folder: Path, manifest: Manifest) -> GraphFile:
    """Return the graph of an export that has been verified.

    Raises:
        ArtifactError: The manifest does not say how the graph is fed, or names a file that is not the artifact's.
    """
    facts = manifest.network.facts
    file, inputs, mask, output = (facts.get(name) for name in ("file", "inputs", "mask", "output"))
    names = [name for name in inputs if isinstance(name, str)] if isinstance(inputs, list) else None
    if not (isinstance(file, str) and isinstance(mask, str) and isinstance(output, str)) or names is None or names != inputs:
        what, expected = "the manifest does not say how the exported graph is fed", "file, inputs, mask and output"
        got = ", ".join(sorted(facts)) or "nothing"
        raise ArtifactError(Problem(what=what, where=str(folder), got=got, expected=expected, fix=_FIX))
    if not contained(file) or file not in manifest.files:
        what, expected = "the exported graph is not one of the artifact's files", "a file that the manifest lists"
        raise ArtifactError(Problem(what=what, where=str(folder), got=f"'{file}'", expected=expected, fix=_FIX))
    return GraphFile(folder / file, tuple(names), mask, output)


def checked_onnx(folder: Path, manifest: Manifest) -> GraphFile:
    """Return the ONNX graph of an export after looking at what a runtime must not be given.

    Raises:
        ArtifactError: Its tensors lie where they may not, its operators are not ONNX's, or its ends have other names.
    """
    graph = graph_file(folder, manifest)
    model = read_onnx(graph.path)
    problems = onnx_problems(model, folder, manifest.files)
    wanted = {*graph.taken, graph.output}
    if strangers := wanted ^ {*model.inputs, *model.outputs}:
        what = "the ends of the exported graph have other names than the manifest says"
        got = ", ".join(sorted(strangers & {*model.inputs, *model.outputs})) or "fewer"
        expected = ", ".join(sorted(wanted))
        problems.append(Problem(what=what, where=str(graph.path), got=got, expected=expected, fix=_FIX))
    if problems:
        raise ArtifactError(problems)
    return replace(graph, convolutional=model.convolutional)

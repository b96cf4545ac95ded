"""The manifest: what an artifact is made of, from which it is rebuilt, and by which every edit is found.

    {"kind": "regraft-artifact", "format": 3, "task": {...}, "files": {"weights.safetensors": {"sha256": ...}}, ...}

It is written as canonical JSON (keys sorted, one space of indent, final newline). `digest` is the sha256 of those bytes without
the field itself. A manifest is read only if its bytes are the canonical ones and the digest fits, so that a change of any one
byte, in the manifest or in a file it lists, is found.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from regraft.errors import ArtifactError, Problem
from regraft.options import JSON, Field, to_json
from regraft.typed import UNFIT, made_exactly, record
from regraft.version import __version__

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT = 3
KIND = "regraft-artifact"
MANIFEST = "manifest.json"
FORM_OF_FIT = "torch"
OLDEST_READER = "0.2.0"
"""The oldest version of regraft that reads this format; told to older ones."""
_LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")


class Entry:
    """Root of the parts of a manifest: a field that this version does not know is an error, not a thing to overlook."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


@record
class TaskEntry(Entry):
    """What is predicted.

    Args:
        name: Registered name of the task.
        options: Its options.
        state: What it learnt from the training targets.
        calibration: Target -> what is known of how far its answers can be trusted (`regraft.calibration.trust`); the name of
            the only target is empty.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)


@record
class InputEntry(Entry):
    """What is read.

    Args:
        column: Name of the column, or of several as one.
        modality: Registered name.
        spec: State of the modality that is not in files.
        options: What the modality was asked for.
        folder: Folder of the artifact that holds the modality's files.
    """

    column: str
    modality: str
    spec: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    folder: str = "backbone"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a row must have: where several are read together, the spec of the modality says which."""
        together = self.spec.get("columns")
        return tuple(map(str, together)) if together else (self.column,)


@record
class TargetEntry(Entry):
    """What was learnt.

    Args:
        column: Name of the column in the training data.
    """

    column: str


@record
class HeadEntry(Entry):
    """How the head is built.

    Args:
        width: Width of the features it reads.
        dropout: Share of features dropped in training.
    """

    width: int
    dropout: float = 0.0


@record
class NetworkEntry(Entry):
    """How the network is built.

    Args:
        backbone: What the backbone needs beside its folder.
        head: How the head is built.
        form: What the files of the network are: "torch" as `fit` writes them, else what an exporter made of them.
        runtimes: Registered names of the runtimes that compute this form, the one it was judged with first.
        facts: What a runtime must know of the form (names of inputs, operator set, largest shapes).
    """

    backbone: dict[str, Any]
    head: HeadEntry
    form: str = FORM_OF_FIT
    runtimes: Annotated[tuple[str, ...], Field(min_length=1)] = ("torch",)
    facts: dict[str, Any] = field(default_factory=dict)


@record
class LineageEntry(Entry):
    """An artifact that this one descends from.

    Args:
        verb: What made it ("fit", "export").
        digest: Its digest.
        weights_digest: Digest of its tensors.
        name: Name of its folder at that time.
        created: When, UTC, ISO 8601.
        regraft: The version that wrote it.
    """

    verb: str
    digest: str
    weights_digest: str
    name: str = ""
    created: str = ""
    regraft: str = ""


@record
class ExportEntry(Entry):
    """How an artifact was made into another form, and what was seen when it was held against its source.

    Args:
        format: Registered name of the exporter.
        options: Its options.
        gate: What the fresh process found: rows, largest differences, agreement, tolerances, runtime, environment.
    """

    format: str
    options: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)


@record
class FileEntry(Entry):
    """What a file must be.

    Args:
        sha256: Digest of its content, hexadecimal.
        size_bytes: Its size.
    """

    sha256: str
    size_bytes: int


@record
class ManifestBody(Entry):
    """What whoever makes an artifact says about it; the rest of the manifest follows from the files.

    Args:
        task: What is predicted.
        inputs: What is read.
        target: What was learnt.
        base: Where the base came from: name, source, revision, digests, licence.
        network: How the network is built.
        weights_digest: Digest of every tensor of the network, independent of when and where it was written.
        transforms: Edits of the network, in order, each with its plan.
        options: The options of the run.
        seed: The seed of the run.
        fingerprints: Fingerprints of the splits.
        verb: What made it.
        parent: Digest of the artifact this one was made from.
        lineage: The parent and what it descends from, the oldest first.
        export: How it was made from its parent, if it is an export.
    """

    task: TaskEntry
    inputs: Annotated[tuple[InputEntry, ...], Field(min_length=1)]
    target: TargetEntry
    base: dict[str, Any]
    network: NetworkEntry
    weights_digest: str
    transforms: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    fingerprints: dict[str, Any] = field(default_factory=dict)
    verb: str = "fit"
    parent: str | None = None
    lineage: tuple[LineageEntry, ...] = ()
    export: ExportEntry | None = None


@record
class Manifest(ManifestBody):
    """A whole manifest.

    Args:
        kind: Always `KIND`.
        format: Number of the layout of an artifact.
        needs_regraft: Oldest version of regraft that reads this format.
        created: When, UTC, ISO 8601; says nothing about the weights and does not enter their digest.
        versions: Library -> version it was made with.
        files: Relative path -> what the file must be; everything but the manifest.
        digest: Digest of the manifest, and through `files` of the whole artifact.
    """

    kind: str = KIND
    format: int = FORMAT
    needs_regraft: str = OLDEST_READER
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def of(cls, body: ManifestBody, files: Mapping[str, FileEntry]) -> Self:
        """Return the manifest for a body and the files that stand beside it."""
        said = {item.name: getattr(body, item.name) for item in dataclasses.fields(ManifestBody)}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = cls(**said, created=now, versions=library_versions(), files=dict(files))
        return dataclasses.replace(made, digest=digest_of(to_json(made)))

    def to_json(self) -> dict[str, JSON]:
        """Return the manifest as a JSON object."""
        values: dict[str, JSON] = to_json(self)
        return values

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, digest included."""
        return canonical(self.to_json())


@functools.cache
def _adapter() -> TypeAdapter[Manifest]:
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)


def library_versions() -> dict[str, str]:
    """Return the versions of regraft, Python and the libraries that decide what an artifact answers."""
    import platform
    from importlib import metadata

    found = {"regraft": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def canonical(values: JSON) -> bytes:
    """Return the one way to write a JSON value: keys sorted, indent 1, UTF-8, final newline, no NaN.

    Example:
        >>> canonical({"b": 1, "a": 2}).decode().split()
        ['{', '"a":', '2,', '"b":', '1', '}']
    """
    return (json.dumps(values, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def digest_of(values: Mapping[str, JSON]) -> str:
    """Return the sha256 of the canonical bytes of a manifest without its own `digest`."""
    return hashlib.sha256(canonical({key: value for key, value in values.items() if key != "digest"})).hexdigest()


def parse(content: bytes, where: str) -> dict[str, JSON]:
    """Read the JSON of a manifest of any format that this version may know, verified against its own digest.

    Args:
        content: The bytes of the file.
        where: The file, for messages.

    Raises:
        ArtifactError: It is not a manifest, of a newer format, or not the bytes that were written.
    """
    try:
        values = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(_damaged(where, f"not JSON ({error})")) from None
    if not isinstance(values, dict) or values.get("kind") != KIND:
        problem = Problem(
            what="this is not the manifest of a Regraft artifact",
            where=where,
            expected=f'a JSON object with "kind": "{KIND}"',
            fix="name the folder that `regraft fit --out` wrote",
        )
        raise ArtifactError(problem)
    number = values.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ArtifactError(_damaged(where, f"format {number!r}"))
    if number > FORMAT:
        raise ArtifactError(_too_new(values, number, where))
    if canonical(values) != content:
        raise ArtifactError(_damaged(where, "bytes that are not the canonical ones"))
    if digest_of(values) != values.get("digest"):
        raise ArtifactError(_damaged(where, f"a content that does not fit its digest {str(values.get('digest'))[:12]}"))
    return values


def from_json(values: Mapping[str, JSON], where: str) -> Manifest:
    """Make a manifest of the current format from its JSON.

    Raises:
        ArtifactError: A field is missing, unknown or of the wrong type.
    """
    made = made_exactly(Manifest, dict(values))
    if made is not UNFIT:
        return cast(Manifest, made)
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(dict(values))
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            path = ".".join(str(part) for part in item["loc"])
            what = f"the manifest's field '{path}' cannot be read"
            fix = "write the artifact again with `regraft fit`, or read it with the version that wrote it"
            problems.append(Problem(what=what, where=where, got=repr(item["input"])[:80], expected=item["msg"], fix=fix))
        raise ArtifactError(problems) from None


def _no_constant(name: str) -> JSON:
    raise ValueError(f"the number {name} is not JSON")


def _damaged(where: str, got: str) -> Problem:
    return Problem(
        what="the manifest has been edited or damaged",
        where=where,
        got=got,
        expected="the bytes that were written",
        fix="restore the artifact from its source, or fit it again",
    )


def _too_new(values: Mapping[str, JSON], number: int, where: str) -> Problem:
    needed = str(values.get("needs_regraft", "a newer version"))
    return Problem(
        what=f"the artifact has format {number}, which this version of Regraft does not know",
        where=where,
        got=f"format {number}, which needs regraft {needed} or newer; this is regraft {__version__}",
        expected=f"format {FORMAT} or older",
        fix=f"pip install 'regraft>={needed}'",
    )

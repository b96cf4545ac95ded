"""Any base of the hub: a local folder, or an id that is fetched at a revision which is recorded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from regraft.errors import BaseError, Problem
from regraft.models.base import BaseCard
from regraft.models.choices import pooling_name
from regraft.models.fetch import offline
from regraft.models.folder import FolderBase
from regraft.models.folder_check import check_folder
from regraft.options import JSON, Pick, options

_PREFIX = "hub:"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ID = re.compile(rf"(?:{_PART}/)?{_PART}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "modules.json",
    "1_Pooling/config.json",
)
"""What is fetched: weights as safetensors, configuration, tokenizer; never code or pickles."""


@options
class HubOptions:
    """Which base of the hub, and how it is used."""

    source: str = ""
    """A local Hugging Face folder, or an id on the hub ("owner/name", "hub:name")."""

    revision: str | None = None
    """Branch, tag or commit on the hub; the newest if not given. The commit is recorded."""

    pooling: Annotated[str, AfterValidator(pooling_name)] | None = None
    """Registered name of the pooling; what the base was trained with if not given."""


def as_base(pick: Pick) -> Pick | None:
    """Turn a name outside the table into a pick of `hub`: an existing folder, "owner/name", or "hub:...".

    Args:
        pick: A pick whose name is not registered.

    Returns:
        The pick, or nothing for a plain word, which is then reported with the nearest names.

    Example:
        >>> as_base(Pick("owner/name"))
        Pick(name='hub', options={'source': 'owner/name'})
        >>> as_base(Pick("minilmm")) is None
        True
    """
    name = pick.name
    if Path(name).expanduser().is_file():
        problem = Problem(what="a base is a folder, not a file", where=name, fix="name the folder that holds its config.json")
        raise BaseError(problem)
    looks_like_path = name.startswith(("/", "./", "../", "~", ".\\", "..\\")) or re.match(r"[A-Za-z]:[\\/]", name) is not None
    is_id = "/" in name and _ID.fullmatch(name) is not None
    if name.startswith(_PREFIX) or looks_like_path or is_id or (name and Path(name).expanduser().is_dir()):
        return Pick("hub", {**pick.options, "source": name})
    return None


class HubBase(FolderBase):
    """A Hugging Face folder, or an id on the hub."""

    Options: ClassVar[type[Any]] = HubOptions

    def __init__(self, name: str, options: HubOptions) -> None:
        super().__init__(name, options)
        self._folder: Path | None = None
        self._commit = ""

    def card(self) -> BaseCard:
        """Describe the base without fetching or importing anything heavy."""
        source = self.options.source
        local = bool(source) and self._local() is not None
        return BaseCard(
            name=source or self.name,
            modality=self.modality_name,
            what="a Hugging Face folder"
            if local
            else "any encoder of text, pictures, sound or series on the hub, or any local Hugging Face folder",
            parameters=0,
            size_bytes=_size_bytes(self._local()),
            licence="unknown",
            source=source or "owner/name on the hub, or a folder",
            fetched=local,
        )

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Make sure that the folder is on this machine and safe to load.

        Raises:
            BaseError: It is not there, cannot be fetched, or is refused (code, pickles, links, no weights, unknown family).
        """
        if self._folder is None:
            folder = self._local()
            if folder is None:
                folder = self._download(say)
            check_folder(folder)
            self._folder = folder

    def folder(self) -> Path:
        """Return the folder, fetched and checked if that has not been done."""
        self.fetch()
        if self._folder is None:
            raise BaseError(self._no_source())
        return self._folder

    def origin(self) -> dict[str, JSON]:
        """Return what the manifest records; for an id on the hub the commit, for a folder its digests."""
        kind = {"revision": self._commit} if self._commit else {}
        return {"name": "hub", "source": self.options.source, "licence": "unknown", **kind, **self.found()}

    def _local(self) -> Path | None:
        """Return the folder that the source names, or nothing if it is an id.

        Raises:
            BaseError: There is no source, or the path is not a folder.
        """
        source = self.options.source
        if not source or source.startswith(_PREFIX):
            return None
        path = Path(source).expanduser()
        return path if path.is_dir() else None

    def _no_source(self) -> Problem:
        fix = "give a local Hugging Face folder or an id: --base FOLDER or --base owner/name"
        return Problem(what="the base 'hub' needs a source", where="base.source", got="nothing", fix=fix)

    def _download(self, say: Callable[[str], None]) -> Path:
        source, revision = self.options.source, self.options.revision
        if not source:
            raise BaseError(self._no_source())
        name = source.removeprefix(_PREFIX)
        if not _ID.fullmatch(name):
            what = "there is no such folder, and it is not an id on the hub either"
            fix = "give an existing folder or an id such as owner/name"
            raise BaseError(Problem(what=what, where=source, fix=fix))
        say(f"fetching {name} from the hub" if not offline() else f"looking for {name} in the hub's cache")
        from huggingface_hub import snapshot_download

        try:
            found = snapshot_download(
                name, revision=revision, allow_patterns=list(_FILES), local_files_only=offline(), library_name="regraft"
            )
        except Exception as error:  # the client raises errors of several libraries
            raise BaseError(_unreachable(name, revision, error)) from error
        folder = Path(found)
        self._commit = folder.name if _COMMIT.fullmatch(folder.name) else ""
        return folder


def _unreachable(name: str, revision: str | None, error: Exception) -> Problem:
    shown = name + (f" at revision '{revision}'" if revision else "")
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if offline():
        what = f"{shown} is not in the hub's cache, and the network is switched off (HF_HUB_OFFLINE)"
        fix = f"fetch it where there is a network (`hf download {name}`) and give --base the folder, or take --base minilm"
    elif "404" in said or "not found" in said.casefold():
        what = f"{shown} is not on the hub, or is not open to you"
        fix = "check the spelling, or log in with `hf auth login`"
    else:
        what = f"{shown} could not be fetched from the hub"
        fix = f"check the network, or fetch it elsewhere (`hf download {name}`) and give --base the folder"
    return Problem(what=what, where="the hub", got=said, fix=fix)


def _size_bytes(folder: Path | None) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder else 0

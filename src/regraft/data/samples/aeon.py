"""Samples of series: sets of the UCR and UEA archives as the package aeon carries them, split as everybody splits them.

Dau et al. 2018, arXiv:1810.07758; Bagnall et al. 2018, arXiv:1811.00075.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regraft.data.samples.fetched import Archive, Fetched, pip, zip_member

_WHEEL = Archive(
    name="aeon-1.6.0-py3-none-any.whl",
    sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    command=pip("aeon==1.6.0"),
)
_FOLDER = "aeon/datasets/data"
_SPLITS = {"train": "TRAIN", "test": "TEST"}


def _sample(name: str, theirs: str) -> Fetched:
    terms = "the archive asks to be cited; the package is BSD"
    return Fetched(name=name, archives=(_WHEEL,), terms=terms, make="regraft.data.samples.aeon:make", given=(theirs,))


ACSF1 = _sample("acsf1", "ACSF1")
ARROW_HEAD = _sample("arrow-head", "ArrowHead")
BASIC_MOTIONS = _sample("basic-motions", "BasicMotions")
GUN_POINT = _sample("gun-point", "GunPoint")
ITALY_POWER_DEMAND = _sample("italy-power-demand", "ItalyPowerDemand")
JAPANESE_VOWELS = _sample("japanese-vowels", "JapaneseVowels")
OSU_LEAF = _sample("osu-leaf", "OSULeaf")
PICKUP_GESTURE = _sample("pickup-gesture", "PickupGestureWiimoteZ")


def make(archives: Sequence[Path], folder: Path, name: str) -> None:
    """Write the training and the test rows of a set."""
    for split, theirs in _SPLITS.items():
        (folder / f"{split}.ts").write_bytes(zip_member(archives[0], f"{_FOLDER}/{name}/{name}_{theirs}.ts"))

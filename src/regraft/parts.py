"""Which columns of a row are read by which bases, where there are columns of several kinds: what was said, and what follows.

    --text review --table age,city                  two parts; each by the base that is usual for its kind
    --text review --table age,city --base lstm      the text by the base that was named
    --text title=minilm,body=lstm --image photo     a base for each column
    --base fusion --set base.style=gated            how parts are joined; columns that nobody named are told by their values

What is found here stands in the options of the artifact, complete, so that the same command can be made of it again.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.data.roles import sample_rows
from regraft.data.rows import open_splits
from regraft.data.targets import is_missing
from regraft.errors import DataError, MissingExtraError, OptionsError, Problem, did_you_mean
from regraft.modalities import MODALITIES
from regraft.models import BASES, JOINING
from regraft.models.fusion import base_named
from regraft.options import JSON, Pick, build, field_help, to_json
from regraft.tasks import TASKS
from regraft.training.stages import Stages
from regraft.verbs import FitOptions

_SEVERAL = 2


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a row, as the user named it.

    Args:
        name: What people call it.
        reads: Registered name of the modality that reads it.
        columns: Its columns; none for all that no other part has.
        base: The base that was named for it, or an empty string.
    """

    name: str
    reads: str
    columns: tuple[str, ...]
    base: str = ""


def settled(data: Any, wanted: FitOptions, stages: Stages) -> FitOptions:
    """Return the options with a base for every part, where columns of several kinds are read; else as they are.

    Args:
        data: As `fit` takes it; looked at only where columns are not said by kind.
        wanted: What was asked for.
        stages: Told what was found by looking.

    Raises:
        OptionsError: A base does not read what it was named for, or options speak of no part.
        DataError: The data cannot be read.
    """
    joins = bool(getattr(BASES.get(wanted.base.name), "joins", False))
    if not joins and len(wanted.columns) < _SEVERAL:
        return wanted
    pick = wanted.base if joins else Pick(JOINING)
    base_cls = BASES.get(pick.name)
    whole = base_cls.modality_name
    parts = _called_apart([*_named(wanted.columns, whole), *_said(wanted.modality)])
    parts = parts or _looked_at(data, wanted, whole, stages)
    given = None if joins else _given(wanted, parts, stages)
    said = dict(pick.options.get("parts", {}))
    _known(said, parts, "base.parts")
    bases = {part.name: _base(part, said.get(part.name), given) for part in parts}
    pick = Pick(pick.name, {**pick.options, **_style(wanted.task, pick)})
    return dataclasses.replace(
        wanted,
        columns={},
        base=Pick(pick.name, {**pick.options, "parts": bases}),
        modality=Pick(whole, {"parts": _options(wanted.modality, parts)}),
    )


def _style(task: Pick, pick: Pick) -> dict[str, JSON]:
    """Return how parts are joined where the task wants it in one way.

    Raises:
        OptionsError: Another way was asked for.
    """
    wanted, said = TASKS.get(task.name).parts_style, pick.options.get("style")
    if wanted and said not in {None, wanted}:
        what = f"the task '{task.name}' holds the parts of a row against each other: they are not joined"
        fix = "leave base.style out"
        raise OptionsError(Problem(what=what, where="base.style", got=repr(said), expected=repr(wanted), fix=fix))
    return {"style": wanted} if wanted else {}


def _named(columns: Mapping[str, str], whole: str) -> list[Part]:
    """Return the parts that flags name by kind; columns that are read together are one part, called as what reads them."""
    parts: list[Part] = []
    for reads, text in columns.items():
        if reads == whole:
            continue
        if MODALITIES.get(reads).survey({}) is not None:
            names, base = _with_base(text) if text.count("=") == 1 and text.count(",") == 0 else (text, "")
            parts.append(Part(reads, reads, () if names.strip() in {"", "*"} else tuple(_split(names)), base))
            continue
        for entry in _split(text):
            column, base = _with_base(entry)
            parts.append(Part(column, reads, (column,), base))
    return parts


def _said(modality: Pick) -> list[Part]:
    """Return the parts that the options of the modality describe whole: what reads which columns."""
    parts = []
    for name, said in modality.options.get("parts", {}).items():
        if isinstance(said, Mapping) and said.get("name"):
            columns = said.get("columns", name)
            names = _split(columns) if isinstance(columns, str) else [str(column) for column in columns]
            parts.append(Part(name, str(said["name"]), tuple(names)))
    return parts


def _called_apart(parts: Sequence[Part]) -> list[Part]:
    """Return parts of which no two have one name."""
    made: list[Part] = []
    for part in parts:
        name = part.name
        while name in {other.name for other in made}:
            name = f"{name}_"
        made.append(dataclasses.replace(part, name=name))
    return made


def _split(text: str) -> list[str]:
    (names,) = csv.reader([text], skipinitialspace=True) if text.strip() else ([],)
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def _with_base(entry: str) -> tuple[str, str]:
    column, _, base = entry.rpartition("=")
    return (column.strip(), base.strip()) if column and base.strip() else (entry, "")


def _looked_at(data: Any, wanted: FitOptions, whole: str, stages: Stages) -> list[Part]:
    """Return the parts of columns that nobody said the kind of, told by the values of the first rows."""
    tables = open_splits(data, wanted.data)
    source = tables.get("train") or next(iter(tables.values()))
    sample, there = sample_rows(source), source.columns
    columns = _split(wanted.columns.get(whole, "")) or [name for name in there if name not in wanted.targets]
    missing = [name for name in columns if name not in there]
    if missing:
        got = ", ".join(map(repr, there[:20]))
        fix, expected = did_you_mean(missing[0], there), f"a column that --{whole} names"
        what = f"there is no column '{missing[0]}'"
        raise DataError(Problem(what=what, where=source.name, got=got, expected=expected, fix=fix))
    kinds = {name: MODALITIES.get(name) for name in MODALITIES}
    alone = {name: kind for name, kind in kinds.items() if kind.survey({}) is None}
    parts: list[Part] = []
    rest = []
    for column in columns:
        values = [value for value in sample.column(column).to_pylist() if not is_missing(value)]
        reads = next((name for name, kind in alone.items() if values and kind.recognises(values)), "")
        if reads:
            parts.append(Part(column, reads, (column,)))
        else:
            rest.append(column)
    if rest:
        together = next(name for name, kind in kinds.items() if kind.survey({}) is not None and name != whole)
        # Named one by one, none would be left out; of what nobody named, columns that only number the rows are.
        parts.append(Part(together, together, tuple(rest) if wanted.columns.get(whole) else ()))
    told = ", ".join(f"'{part.name}' as {part.reads}" for part in parts if part.columns)
    stages.note(f"by their values, columns are read so: {told or 'all together'}")
    return _called_apart(parts)


def _given(wanted: FitOptions, parts: Sequence[Part], stages: Stages) -> tuple[str, JSON] | None:
    """Return the modality that the named base reads, and the base; nothing where it is only the default and not needed."""
    default = next(item.default for item in dataclasses.fields(FitOptions) if item.name == "base")
    said = to_json(wanted.base)
    base = base_named(said, "base")
    if wanted.base == default:
        return base.modality_name, said
    base.fetch(stages.note)
    reads = base.reads
    if reads not in {_over(part.reads) for part in parts}:
        named = ", ".join(f"--{part.reads} {','.join(part.columns)}" for part in parts)
        fix = f"name its column with --{reads}, or choose another base"
        what = f"the base '{base.name}' reads {reads}, and no such column is named"
        raise OptionsError(Problem(what=what, where="base", got=named, fix=fix))
    return reads, said


def _base(part: Part, said: JSON, given: tuple[str, JSON] | None) -> JSON:
    """Return the base of a part: as it was said, else the base that was named for all, else the usual one of its kind."""
    reads = _over(part.reads)
    options = dict(said) if isinstance(said, Mapping) else {"name": said} if said else {}
    if part.base:
        options["name"] = part.base
    if "name" in options:
        return options
    if given is not None and given[0] == reads:
        return {**given[1], **options}
    usual = next((name for name in BASES if _reads(name) == reads), None)
    if usual is None:
        fix = f"name one: --{part.reads} {part.name}=BASE"
        raise OptionsError(Problem(what=f"no base is usual for {reads}", where=f"base.parts.{part.name}", fix=fix))
    return {"name": usual, **options}


def _reads(name: str) -> str:
    """Return the modality that a registered base reads; nothing where that is not known before it is opened."""
    try:
        cls = BASES.get(name)
    except MissingExtraError:
        return ""
    return "" if cls.joins else cls.modality_name


def _over(reads: str) -> str:
    """Return the modality that a base must read for this one."""
    return MODALITIES.get(reads).over or reads


def _options(given: Pick, parts: Sequence[Part]) -> dict[str, JSON]:
    """Return for each part what reads it, its columns, and its options; an option for all goes to the parts that know it."""
    said = dict(given.options)
    own = dict(said.pop("parts", {}))
    _known(own, parts, "modality.parts")
    made: dict[str, JSON] = {}
    unused = dict(said)
    for part in parts:
        cls = MODALITIES.get(part.reads).Options
        known = set(field_help(cls)) | {item.name for item in dataclasses.fields(cls)}
        mine = {key: value for key, value in said.items() if key in known}
        unused = {key: value for key, value in unused.items() if key not in known}
        options = {**mine, **{key: value for key, value in own.get(part.name, {}).items() if key not in {"name", "columns"}}}
        build(cls, options, owner=f"modality.parts.{part.name}")
        made[part.name] = {"name": part.reads, "columns": list(part.columns), **options}
    if unused:
        name = next(iter(unused))
        known_names = sorted({key for part in parts for key in field_help(MODALITIES.get(part.reads).Options)})
        fix = did_you_mean(name, [*known_names, "parts"])
        raise OptionsError(Problem(what=f"no part has the option '{name}'", where=f"modality.{name}", fix=fix))
    return made


def _known(said: Mapping[str, JSON], parts: Sequence[Part], where: str) -> None:
    names = [part.name for part in parts]
    strange = [name for name in said if name not in names]
    if strange:
        what, fix = f"there is no part '{strange[0]}'", did_you_mean(strange[0], names)
        raise OptionsError(Problem(what=what, where=where, got=strange[0], expected=", ".join(names), fix=fix))


__all__ = ["Part", "settled"]
